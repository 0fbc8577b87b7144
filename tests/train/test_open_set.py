from pathlib import Path

import numpy as np
import pytest

from queryopt.errors import UsageError
from queryopt.train.data import DataSplits, LabelledImages, load_image_folder
from queryopt.train.open_set import hold_out_classes


@pytest.fixture(scope="module")
def splits(labelled_folder):
    return load_image_folder(labelled_folder)


def test_a_picture_is_of_a_seen_or_an_unseen_class_and_labels_name_its_folder(splits):
    found = hold_out_classes(splits, 2, seed=1)
    assert found.unseen is not None
    assert len(found.unseen.train.classes) == 2
    assert sorted(found.seen.train.classes + found.unseen.train.classes) == sorted(splits.train.classes)
    for name in ("train", "test"):
        parts = [getattr(half, name) for half in (found.seen, found.unseen)]
        assert sorted(parts[0].paths + parts[1].paths) == sorted(getattr(splits, name).paths)
        for part in parts:
            named = [part.classes[label] for label in part.labels]
            assert named == [path.partition("/")[0] for path in part.paths]


def test_a_share_is_that_of_the_classes_and_the_seed_chooses(splits):
    half, two = (hold_out_classes(splits, value, seed=1).unseen for value in (0.5, 2))
    assert half is not None
    assert two is not None
    assert half.train.classes == two.train.classes
    chosen = {hold_out_classes(splits, 2, seed).seen.train.classes for seed in range(20)}
    assert len(chosen) > 2


def test_a_class_that_is_added_moves_at_most_one_other():
    def unseen(names):
        images = LabelledImages(Path("x"), names, np.arange(len(names)), names)
        found = hold_out_classes(DataSplits(images, images), 5, seed=3).unseen
        assert found is not None
        return set(found.train.classes)

    names = tuple(f"class {i}" for i in range(20))
    before = unseen(names)
    after = unseen((*names, "one more"))
    assert len(before - after) <= 1


def test_none_held_out_leaves_the_data_as_it_is(splits):
    found = hold_out_classes(splits, 0, seed=1)
    assert found.seen is splits
    assert found.unseen is None


@pytest.mark.parametrize("value", [1, 3, 4, 2.5, -1, 0.1, 0.9, float("nan"), True])
def test_what_leaves_too_few_classes_is_refused(splits, value):
    with pytest.raises(UsageError, match=r"open.set"):
        hold_out_classes(splits, value, seed=1)
