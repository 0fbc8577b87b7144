"""Folders of pictures and their classes."""

import json

import pytest

from queryopt.bench.quality.pictures import DataSource, full_paths, labelled_folder, untrained_classes
from queryopt.errors import DataError


@pytest.mark.parametrize(("depth", "deep"), [(1, "finch"), (2, "finch/old")])
def test_a_class_is_the_first_folder_or_what_other_depth_is_asked_for(tmp_path, depth, deep):
    for name in ("finch/1.jpg", "finch/old/2.jpg", "heron/3.png", "4.jpg", "heron/notes.txt", ".hidden/5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images, unlabelled = labelled_folder(tmp_path, depth)
    names = [images.classes[label] for label in images.labels]
    assert dict(zip(full_paths(images), names, strict=True)) == {
        bytes(tmp_path / "finch/1.jpg"): "finch",
        bytes(tmp_path / "finch/old/2.jpg"): deep,
        bytes(tmp_path / "heron/3.png"): "heron",
    }
    assert unlabelled == 1


@pytest.fixture
def photos(tmp_path):
    for name in ("finch/1.jpg", "finch/2.jpg", "heron/1.jpg", "heron/2.jpg", "heron/old/3.jpg", "dodo/1.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    return tmp_path / "photos"


def test_a_picture_that_is_the_only_one_of_its_class_is_searched_and_not_searched_with(photos):
    measured = DataSource.plain(str(photos)).pictures()
    assert measured.gallery.classes == measured.queries.classes == ("finch", "heron")
    searched = [measured.searched.classes[label] for label in measured.searched.labels]
    assert sorted(searched) == ["dodo", "finch", "heron", "heron"]
    assert bytes(photos / "dodo/1.jpg") in measured.real_paths()
    trained = DataSource.plain(str(photos)).pictures(trained_only=True)
    assert len(trained.searched) == 3


def test_classes_that_a_run_was_not_trained_on(photos, tmp_path):
    gallery = labelled_folder(photos)[0]
    assert untrained_classes(tmp_path, gallery) == []  # nobody knows
    (tmp_path / "config.json").write_text(json.dumps({"run": {"class_names": ["heron", "wren"]}}))
    assert untrained_classes(tmp_path, gallery) == ["dodo", "finch"]


def test_a_folder_without_classes_says_how_it_should_be(tmp_path):
    with pytest.raises(DataError, match="no pictures in it: give a folder with a sub-folder"):
        labelled_folder(tmp_path)
    (tmp_path / "1.jpg").touch()
    with pytest.raises(DataError, match="lie directly in it"):
        labelled_folder(tmp_path)
