import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from queryopt.errors import UsageError
from queryopt.train.augment import Augmentation, crop_box, train_view
from queryopt.train.draws import sample_rng


def boxes(width, height, count=3000, **ranges):
    drawn = [crop_box(width, height, sample_rng(0, 0, 0, i), **ranges) for i in range(count)]
    left, top, right, bottom = np.array(drawn).T
    return left, top, right - left, bottom - top


def torchvision_boxes(width, height, count=3000, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(1, height, width)
        drawn = [RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    top, left, h, w = np.array(drawn).T
    return left, top, w, h


def largest_gap(one, other):
    """Kolmogorov-Smirnov: the largest difference between two empirical distribution functions."""
    at = np.union1d(one, other)
    below = [np.searchsorted(np.sort(sample), at, "right") / len(sample) for sample in (one, other)]
    return np.abs(below[0] - below[1]).max()


@pytest.mark.parametrize("size", [(500, 400), (300, 900), (64, 64)])
def test_crops_are_distributed_as_torchvisions(size):
    ours, theirs = boxes(*size), torchvision_boxes(*size)
    gaps = [largest_gap(one, other) for one, other in zip(ours, theirs, strict=True)]
    areas = [w * h for _, _, w, h in (ours, theirs)]
    ratios = [w / h for _, _, w, h in (ours, theirs)]
    # Two samples of 3,000 of one distribution differ by more than 0.05 once in a thousand draws.
    assert max(*gaps, largest_gap(*areas), largest_gap(*ratios)) < 0.05


def test_a_crop_keeps_its_bounds():
    left, top, w, h = boxes(500, 400)
    assert left.min() >= 0
    assert top.min() >= 0
    assert (left + w).max() <= 500
    assert (top + h).max() <= 400
    # Rounding to whole pixels moves a small crop's area and ratio a little.
    assert (w * h / 200_000).min() > 0.078
    assert (w / h).min() > 0.74
    assert (w / h).max() < 1.345
    assert left.max() == 500 - w[left.argmax()]  # the far edge is reached


def test_narrower_ranges_are_kept():
    _, _, w, h = boxes(500, 400, scale=(0.5, 0.6), ratio=(1.0, 1.0))
    assert (w * h / 200_000).min() > 0.495
    assert (w * h / 200_000).max() < 0.605
    assert (w == h).all()


@pytest.mark.parametrize(
    ("size", "box"),
    [((1, 10_000), (0, 4999, 1, 5000)), ((10_000, 1), (4999, 0, 5000, 1)), ((1, 1), (0, 0, 1, 1))],
)
def test_a_picture_too_long_for_any_crop_gives_its_middle(size, box):
    left, top, right, bottom = crop_box(*size, sample_rng(0, 0, 0, 0))
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert (right - left, bottom - top) == (box[2] - box[0], box[3] - box[1])
    assert abs(left - box[0]) <= 1
    assert abs(top - box[1]) <= 1


def test_a_view_is_the_crop_resized():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    box = crop_box(60, 40, sample_rng(1, 2, 3, 4))
    expected = np.asarray(image.resize((24, 24), Image.Resampling.BILINEAR, box=box))
    view = train_view(image, 24, sample_rng(1, 2, 3, 4), Augmentation(flip=False))
    assert view.dtype == np.uint8
    assert view.shape == (24, 24, 3)
    assert view.flags.c_contiguous
    np.testing.assert_array_equal(view, expected)


def test_half_the_views_are_mirrored_and_none_where_that_is_off():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    mirrored = 0
    for i in range(400):
        plain = train_view(image, 8, sample_rng(0, 0, 0, i), Augmentation(flip=False))
        view = train_view(image, 8, sample_rng(0, 0, 0, i))
        assert (view == plain).all() or (view == plain[:, ::-1]).all()
        mirrored += not (view == plain).all()
    assert 160 < mirrored < 240


def test_crops_are_equal_in_another_process():
    code = "from queryopt.train.augment import crop_box; from queryopt.train.draws import sample_rng; "
    code += "print(list(crop_box(500, 400, sample_rng(7, 1, 2, 3))))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == list(crop_box(500, 400, sample_rng(7, 1, 2, 3)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0, 1)},
        {"scale": (0.5, 0.1)},
        {"scale": (0.5, 1.5)},
        {"ratio": (2, 1)},
        {"ratio": (1, math.inf)},
        {"scale": (math.nan, 1)},
    ],
)
def test_ranges_that_no_crop_meets_are_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Augmentation(**wrong)
