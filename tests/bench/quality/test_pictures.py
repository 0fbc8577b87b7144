"""Folders of pictures and their classes."""

import pytest

from queryopt.bench.quality.pictures import full_paths, labelled_folder
from queryopt.errors import DataError


def test_a_class_is_the_folder_that_a_picture_lies_in(tmp_path):
    for name in ("finch/1.jpg", "finch/old/2.jpg", "heron/3.png", "4.jpg", "heron/notes.txt", ".hidden/5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images, unlabelled = labelled_folder(tmp_path)
    names = [images.classes[label] for label in images.labels]
    assert dict(zip(full_paths(images), names, strict=True)) == {
        bytes(tmp_path / "finch/1.jpg"): "finch",
        bytes(tmp_path / "finch/old/2.jpg"): "old",
        bytes(tmp_path / "heron/3.png"): "heron",
    }
    assert unlabelled == 1


def test_a_folder_without_classes_says_how_it_should_be(tmp_path):
    with pytest.raises(DataError, match="no pictures in it: give a folder with a sub-folder"):
        labelled_folder(tmp_path)
    (tmp_path / "1.jpg").touch()
    with pytest.raises(DataError, match="lie directly in it"):
        labelled_folder(tmp_path)
