import pytest

from queryopt.errors import DataError
from queryopt.train.datasets import official_dataset


@pytest.fixture
def folder(replica):
    return replica("vegfru")


def load(folder, variant=""):
    return official_dataset("vegfru").load(folder, variant, any_size=True)


def test_classes_are_called_as_their_folders_which_may_share_a_name(folder):
    splits = load(folder)
    assert splits.train.classes == ("arugula", "veg200_images/lemon", "fru92_images/lemon")
    assert splits.train.paths[-1] == "fru92_images/lemon/f_02_0002.jpg"


def test_train_is_the_gallery_and_val_may_join_it(folder):
    alone, both = load(folder), load(folder, "val")
    assert (len(alone.train), len(both.train)) == (9, 12)
    assert set(alone.train.paths) < set(both.train.paths)
    assert alone.test.paths == both.test.paths


def test_the_official_count_is_that_of_the_gallery_asked_for(folder):
    vegfru = official_dataset("vegfru")
    with pytest.raises(DataError, match=r"12 training .* 43,800 training"):
        vegfru.load(folder, "val")


@pytest.mark.parametrize(
    ("file", "line", "text", "message"),
    [
        (
            "train",
            2,
            "veg200_images/arugula/v_00_0001.jpg",
            r"train\.txt, line 2: .*1 column, but the layout is <path>",
        ),
        ("train", 2, "veg200_images/arugula/v_00_0001.jpg x", r"train\.txt, line 2: x is no label: a whole number"),
        ("train", 2, "veg200_images/arugula/v_9.jpg 0", r"train\.txt, line 2: veg200_images/arugula/v_9\.jpg: no such"),
        (
            "train",
            5,
            "veg200_images/lemon/v_01_0001.jpg 0",
            r"train\.txt, line 5: label 0 is of veg200_images/lemon here, .*arugula in vegfru_train\.txt, line 1",
        ),
        (
            "test",
            1,
            "veg200_images/arugula/v_00_0004.jpg 7",
            r"test\.txt, line 1: veg200_images/arugula has the label 7 here, but 0 in vegfru_train\.txt, line 1",
        ),
        ("test", 1, "/etc/hostname 0", r"test\.txt, line 1: label 0 is of /etc here"),
        ("test", 1, "veg200_images/arugula/v_00_0000.jpg 0", r"test\.txt, line 1: .*in vegfru_train\.txt, line 1 alre"),
    ],
)
def test_a_malformed_row_is_named(folder, edit, file, line, text, message):
    edit(folder / "vegfru_list" / f"vegfru_{file}.txt", line, text)
    with pytest.raises(DataError, match=message):
        load(folder)


def test_a_path_may_hold_blanks(folder, edit):
    old = folder / "veg200_images" / "arugula" / "v_00_0001.jpg"
    old.rename(old.with_name("v 00 0001.jpg"))
    edit(folder / "vegfru_list" / "vegfru_train.txt", 2, "veg200_images/arugula/v 00 0001.jpg 0")
    assert "veg200_images/arugula/v 00 0001.jpg" in load(folder).train.paths


def test_labels_without_pictures_of_a_part_are_closed_up(folder):
    for part in ("train", "test"):
        path = folder / "vegfru_list" / f"vegfru_{part}.txt"
        path.write_text("\n".join(line for line in path.read_text().split("\n") if "arugula" not in line))
    splits = load(folder)
    assert splits.train.classes == ("veg200_images/lemon", "fru92_images/lemon")
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    # A class of test pictures alone is none that could be learnt.
    path = folder / "vegfru_list" / "vegfru_test.txt"
    with open(path, "a") as file:
        file.write("veg200_images/arugula/v_00_0004.jpg 0\n")
    with pytest.raises(DataError, match=r"vegfru_test\.txt, line 5: class arugula has no training picture"):
        load(folder)
