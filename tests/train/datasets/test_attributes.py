import numpy as np
import pytest

from queryopt.errors import DataError
from queryopt.train.data import LabelledImages
from queryopt.train.datasets import CERTAINTIES, ImageAttributes, birds_attributes
from queryopt.train.sources import load_attributes, load_data
from queryopt.train.synthetic import ATTRIBUTES, generate
from queryopt.train.synthetic import load_attributes as class_attributes


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("birds"), classes=6, train_per_class=2, test_per_class=1, size=16).folder


def test_birds_have_those_of_their_class(birds):
    of_class = class_attributes(birds)
    for images in (load_data(birds).train, load_data(birds).test):
        found = load_attributes(birds, images)
        assert found.paths == images.paths
        assert found.present.shape == found.certainties.shape == (len(images), len(found.names))
        assert {CERTAINTIES[level] for level in np.unique(found.certainties).tolist()} == {"definitely"}
        assert list(found.groups()) == list(ATTRIBUTES)
        for row, path in enumerate(images.paths):
            shown = [name for name, there in zip(found.names, found.present[row], strict=True) if there]
            assert shown == [f"{group}::{value}" for group, value in of_class[path.split("/")[1]].items()]


def test_a_class_without_a_row_is_named(birds):
    images = load_data(birds).train
    other = LabelledImages(images.root, images.paths, images.labels, (*images.classes[:-1], "dodo"))
    with pytest.raises(DataError, match=r"attributes\.csv: has no row for dodo"):
        birds_attributes(birds, other)


def test_a_folder_without_attributes_says_which_data_has_some(labelled_folder):
    with pytest.raises(DataError, match=r"no attributes.*cub200 and synthetic:birds"):
        load_attributes(labelled_folder, load_data(labelled_folder).train)


def test_pictures_without_a_row_are_named(birds):
    images = load_data(birds)
    found = load_attributes(birds, images.train)
    with pytest.raises(DataError, match=r"6 of 6 pictures have no attributes: test/.*and 1 more"):
        found.of(images.test)


@pytest.mark.parametrize(
    ("present", "certainties"),
    [
        (np.zeros((2, 2), bool), np.zeros((3, 2), np.uint8)),
        (np.zeros((3, 2), np.uint8), np.zeros((3, 2), np.uint8)),
        (np.zeros((3, 2), bool), np.zeros((3, 2), np.int64)),
    ],
)
def test_matrices_that_do_not_belong_are_refused(present, certainties):
    with pytest.raises(DataError, match=r"(present|certainties) is .* \[3, 2\], pictures x attributes, is needed"):
        ImageAttributes(("a", "b"), ("1", "2", "3"), present, certainties)
