import os
import sys

import numpy as np
import pytest

from queryopt.errors import DataError, UsageError
from queryopt.images import NO_HEIF
from queryopt.train.data import LabelledImages, load_image_folder, split_validation
from queryopt.train.presets import preset_config
from queryopt.train.sources import load_data, load_run_data


def touch(folder, *names):
    """Files that only have names: nothing is decoded here."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


@pytest.fixture
def flat(tmp_path):
    for name, count in (("wren", 10), ("robin", 5), ("owl", 2)):
        touch(tmp_path / name, *(f"{i}.jpg" for i in range(count)))
    return tmp_path


def numbered(counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    names = tuple(f"c{label}/{i}.jpg" for i, label in enumerate(labels))
    return LabelledImages(".", names, labels, tuple(f"c{i}" for i in range(len(counts))))


def test_train_and_test_folders(tmp_path):
    touch(tmp_path / "train/b", "2.jpg", "1.PNG", "notes.txt", ".hidden.jpg")
    touch(tmp_path / "train/a/deeper", "3.jpg")
    touch(tmp_path / "test/b", "9.jpg")
    splits = load_image_folder(tmp_path)
    assert splits.train.classes == splits.test.classes == ("a", "b")
    assert splits.train.paths == ("train/a/deeper/3.jpg", "train/b/1.PNG", "train/b/2.jpg")
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert splits.train.labels.dtype == np.int64
    assert splits.test.paths == ("test/b/9.jpg",)
    assert splits.test.labels.tolist() == [1]
    assert splits.train.path(0) == tmp_path / "train/a/deeper/3.jpg"
    assert splits.train.counts().tolist() == [1, 2]
    assert splits.test.counts().tolist() == [0, 1]


def test_train_alone_has_an_empty_test_part(tmp_path):
    touch(tmp_path / "train/a", "1.jpg")
    touch(tmp_path / "train/b", "1.jpg")
    splits = load_image_folder(tmp_path)
    assert len(splits.train) == 2
    assert len(splits.test) == 0
    assert splits.test.classes == ("a", "b")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_test_part_may_have_another_name(tmp_path, name):
    for part in ("train", name):
        for label in ("a", "b"):
            touch(tmp_path / part / label, "1.jpg")
    assert load_image_folder(tmp_path).test.paths == (f"{name}/a/1.jpg", f"{name}/b/1.jpg")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "tram"):
        touch(tmp_path / name, "1.jpg", "2.jpg")
    assert load_image_folder(tmp_path).train.classes == ("train", "tram")


def test_a_flat_folder_is_split_by_class(flat):
    splits = load_image_folder(flat, seed=3, test_fraction=0.2)
    assert splits.train.classes == ("owl", "robin", "wren")
    assert splits.test.counts().tolist() == [1, 1, 2]
    assert sorted(splits.train.paths + splits.test.paths) == sorted(
        f"{p.parent.name}/{p.name}" for p in flat.rglob("*.jpg")
    )
    assert all(
        path.startswith(splits.test.classes[label] + "/")
        for path, label in zip(splits.test.paths, splits.test.labels, strict=True)
    )


def test_a_flat_folders_split_depends_on_seed_and_class_alone(flat):
    first = load_image_folder(flat, seed=3)
    assert load_image_folder(flat, seed=3).test.paths == first.test.paths
    assert load_image_folder(flat, seed=4).test.paths != first.test.paths
    touch(flat / "a_new_class", "1.jpg", "2.jpg", "3.jpg")
    assert set(load_image_folder(flat, seed=3).test.paths) >= set(first.test.paths)


def test_a_flat_folder_need_not_be_split(flat):
    touch(flat / "lone", "1.jpg")
    splits = load_image_folder(flat, test_fraction=0)
    assert len(splits.train) == 18
    assert len(splits.test) == 0


def test_no_class_is_split_to_nothing(flat):
    assert load_image_folder(flat, test_fraction=0.99).train.counts().min() == 1
    assert load_image_folder(flat, test_fraction=0.001).test.counts().tolist() == [1, 1, 1]


def test_names_that_are_not_utf8(tmp_path):
    for name in (b"caf\xe9", b"tea"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        for picture in (b"\xff.jpg", b"new\nline.jpg"):
            with open(os.path.join(folder, picture), "wb"):
                pass
    train = load_image_folder(tmp_path, test_fraction=0).train
    assert [os.fsencode(path) for path in train.paths[:2]] == [b"caf\xe9/new\nline.jpg", b"caf\xe9/\xff.jpg"]
    assert all(os.path.exists(train.path(i)) for i in range(len(train)))


def test_a_class_may_be_a_link_to_another_place_and_loops_are_survived(flat, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    touch(elsewhere, "1.jpg", "2.jpg")
    (flat / "loop").symlink_to(flat)
    (flat / "self").symlink_to("self")
    (flat / "twice").symlink_to(flat / "wren")
    (flat / "linked").symlink_to(elsewhere)
    assert load_image_folder(flat).train.classes == ("linked", "owl", "robin", "wren")


def test_what_is_no_picture_of_a_class_is_named(flat):
    touch(flat / "dodo", "readme.txt")
    touch(flat, "loose.jpg", ".hidden.jpg", "notes.txt")
    touch(flat / "@eaDir" / "robin", "thumb.jpg")
    splits = load_image_folder(flat)
    assert splits.train.classes == ("owl", "robin", "wren")
    assert splits.survey.others == ["notes.txt", "dodo/readme.txt"]
    assert splits.survey.warnings() == [
        f"1 picture lies in no class's folder of {flat}/: left out: loose.jpg",
        f"{flat}/: 1 class without pictures, passed over: dodo",
    ]
    assert splits.summary() == f"3 classes of 2 to 10 pictures (first folder below {flat}/)"


def test_pictures_that_lack_a_decoder_are_named_before_the_work(flat, monkeypatch):
    touch(flat / "owl", "IMG_1.HEIC", "IMG_2.heif")
    assert load_image_folder(flat).survey.warnings() == []
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    [line] = load_image_folder(flat).survey.warnings()
    assert line == f"2 pictures of the kind {NO_HEIF}: owl/IMG_1.HEIC, owl/IMG_2.heif"


@pytest.fixture
def nested(tmp_path):
    for folder in ("animals/birds", "animals/birds/big", "animals/bugs", "food", "food/fruit", "signs"):
        touch(tmp_path / folder, "1.png", "2.png", "3.png")
    return tmp_path


def test_the_first_folder_is_the_class_and_nested_ones_are_named(nested):
    splits = load_image_folder(nested, test_fraction=0)
    assert splits.train.classes == ("animals", "food", "signs")
    assert splits.train.counts().tolist() == [9, 6, 3]
    assert splits.survey.warnings() == [
        "nested folders: animals/ (birds, bugs), food/ (fruit) hold folders of their own, which are no classes; with "
        "--label-depth 2 there would be 5 classes"
    ]


def test_classes_at_another_depth(nested):
    splits = load_image_folder(nested, label_depth=2)
    assert splits.train.classes == ("animals/birds", "animals/bugs", "food", "food/fruit", "signs")
    assert splits.summary().startswith("5 classes of 3 to 6 pictures (first two folders below ")
    every = load_image_folder(nested, label_depth=99)
    assert "animals/birds/big" in every.train.classes
    assert every.survey.warnings() == []
    with pytest.raises(UsageError, match="label_depth is 0"):
        load_image_folder(nested, label_depth=0)


def test_train_and_test_folders_are_no_classes_at_any_depth(tmp_path):
    for path in ("train/a/x", "train/a/y", "test/a/x"):
        touch(tmp_path / path, "1.jpg", "2.jpg")
    splits = load_image_folder(tmp_path, label_depth=2)
    assert splits.train.classes == ("a/x", "a/y")
    assert splits.test.paths == ("test/a/x/1.jpg", "test/a/x/2.jpg")


def test_a_class_of_one_picture_is_in_neither_part(flat):
    before = load_image_folder(flat)
    touch(flat / "dodo", "1.jpg")
    touch(flat / "moa", "1.jpg")
    splits = load_image_folder(flat)
    assert (splits.train.paths, splits.test.paths) == (before.train.paths, before.test.paths)
    assert (splits.lone.paths, splits.lone.classes) == (("dodo/1.jpg", "moa/1.jpg"), ("dodo", "moa"))
    every = splits.train.joined(splits.lone)
    assert [every.classes[label] for label in every.labels[-2:]] == ["dodo", "moa"]


def test_the_pictures_that_are_kept_apart_are_those_of_a_run(flat):
    config = preset_config("tiny", data=str(flat), iterations=0)
    assert load_run_data(config).test.paths == load_data(flat).test.paths == load_image_folder(flat).test.paths


def refused(folder, **options):
    with pytest.raises(DataError) as caught:
        load_image_folder(folder, **options)
    return str(caught.value)


def test_no_such_folder(tmp_path):
    assert refused(tmp_path / "x") == f"{tmp_path}/x: no such folder; a data set is a folder of class sub-folders"


def test_not_a_folder(tmp_path):
    touch(tmp_path, "x.jpg")
    assert "x.jpg: not a folder" in refused(tmp_path / "x.jpg")


def test_pictures_without_class_folders(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    assert f"{tmp_path}: no pictures in sub-folders; a data set is a folder with one sub-folder a class" in refused(
        tmp_path
    )


def test_one_class_only(tmp_path):
    touch(tmp_path / "train/robin", "1.jpg")
    touch(tmp_path / "test/robin", "1.jpg")
    assert "train: one class only (robin)" in refused(tmp_path)


def test_one_picture_a_class_is_not_enough(tmp_path):
    for name in "abcdefg":
        touch(tmp_path / name, "1.jpg")
    touch(tmp_path / "h", "1.jpg", "2.jpg")
    assert "7 classes have one picture only, and 1 more: codes are learnt from" in refused(tmp_path)


def test_a_class_in_the_test_part_alone(tmp_path):
    for path in ("train/a", "train/b", "test/a", "test/robbin"):
        touch(tmp_path / path, "1.jpg")
    assert "test/ has 1 class without pictures in train/: robbin" in refused(tmp_path)


def test_parts_and_classes_side_by_side(tmp_path):
    for path in ("train/a", "train/b", "sparrow"):
        touch(tmp_path / path, "1.jpg")
    assert "also sparrow beside it" in refused(tmp_path)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fractions_out_of_range(flat, fraction):
    with pytest.raises(UsageError, match="test fraction"):
        load_image_folder(flat, test_fraction=fraction)
    with pytest.raises(UsageError, match="validation fraction"):
        split_validation(numbered([3, 3]), fraction, 0)


def test_validation_takes_its_share_of_every_class():
    images = numbered([40, 20, 10, 1])
    train, validation = split_validation(images, 0.1, 5)
    assert len(validation) == 7
    assert validation.counts().tolist()[:3] == [4, 2, 1]
    assert sorted(train.paths + validation.paths) == sorted(images.paths)
    assert train.classes == validation.classes == images.classes
    assert (np.diff([images.paths.index(path) for path in train.paths]) > 0).all()


def test_validation_shares_what_rounding_leaves_over():
    _, validation = split_validation(numbered([3] * 30), 0.1, 0)
    assert len(validation) == 9
    assert validation.counts().max() == 1
    _, other = split_validation(numbered([3] * 30), 0.1, 1)
    assert other.paths != validation.paths
    assert split_validation(numbered([3] * 30), 0.1, 0)[1].paths == validation.paths


def test_validation_leaves_every_class_a_picture():
    train, validation = split_validation(numbered([2, 1, 5]), 0.9, 0)
    assert train.counts().min() == 1
    assert len(validation) == 5
    train, validation = split_validation(numbered([1, 1]), 0.5, 0)
    assert len(train) == 2
    assert len(validation) == 0


def test_no_validation_where_none_is_asked_for():
    train, validation = split_validation(numbered([2, 3]), 0.0, 0)
    assert len(train) == 5
    assert len(validation) == 0


def test_subsets_keep_order_and_classes():
    images = numbered([2, 2])
    part = images.subset([3, 0])
    assert part.paths == (images.paths[3], images.paths[0])
    assert part.labels.tolist() == [1, 0]
    assert part.classes == images.classes


@pytest.mark.parametrize("labels", [np.zeros(1, np.int64), np.zeros(2, np.int32), np.array([0, 2]), np.array([-1, 0])])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(DataError, match="labels"):
        LabelledImages(".", ("a.jpg", "b.jpg"), labels, ("a", "b"))
