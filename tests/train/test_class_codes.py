"""Separated class codes: distinct, far apart, repeatable."""

import numpy as np
import pytest

from queryopt.errors import UsageError
from queryopt.train.class_codes import minimum_distance, separated_codes


def random_codes(classes: int, bits: int) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (classes, bits))


@pytest.mark.parametrize(
    ("classes", "bits", "distance"),
    # What random codes have: 0, 0, 0, 0 to 1, 2 to 4, 9 to 11.
    [(50, 12, 4), (100, 12, 4), (200, 12, 2), (100, 16, 4), (200, 24, 6), (200, 48, 17), (4096, 12, 1), (2, 8, 8)],
)
def test_codes_are_distinct_and_far_apart(classes: int, bits: int, distance: int) -> None:
    codes = separated_codes(classes, bits, seed=0)
    assert codes.shape == (classes, bits)
    assert codes.dtype == np.int8
    assert set(np.unique(codes)) <= {-1, 1}
    assert len(np.unique(codes, axis=0)) == classes
    assert minimum_distance(codes) >= distance


@pytest.mark.parametrize(("classes", "bits", "branches"), [(50, 12, 4), (200, 12, 8), (100, 16, 3)])
def test_first_columns_are_separated_alone_and_the_rest_on_top(classes: int, bits: int, branches: int) -> None:
    codes = separated_codes(classes, bits, 3, branches)
    assert codes.shape == (classes, bits * branches)
    np.testing.assert_array_equal(codes[:, :bits], separated_codes(classes, bits, 3))
    assert minimum_distance(codes) > minimum_distance(random_codes(classes, bits * branches))


def test_more_classes_than_codes_share_evenly() -> None:
    codes = separated_codes(40, 4, seed=0)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    assert sorted(counts) == [2] * 8 + [3] * 8


@pytest.mark.parametrize("bits", [12, 24])
def test_seed_decides(bits: int) -> None:
    one = separated_codes(60, bits, 1, branches=2)
    np.testing.assert_array_equal(one, separated_codes(60, bits, 1, branches=2))
    assert not np.array_equal(one, separated_codes(60, bits, 2, branches=2))


def test_bits_are_balanced_over_classes() -> None:
    assert np.abs(separated_codes(100, 12, 0).mean(axis=0)).max() <= 0.2


@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("bits", [1, 14, 15, 64])
def test_few_classes(classes: int, bits: int) -> None:
    codes = separated_codes(classes, bits, 0, branches=2)
    assert codes.shape == (classes, 2 * bits)
    if classes <= 2**bits:
        assert len(np.unique(codes[:, :bits], axis=0)) == classes


def test_minimum_distance_is_that_of_the_closest_pair() -> None:
    codes = random_codes(30, 20)
    pairs = [int((codes[i] != codes[j]).sum()) for i in range(30) for j in range(i)]
    assert minimum_distance(codes) == min(pairs)
    assert minimum_distance(codes[:1]) == 20


@pytest.mark.parametrize(("classes", "bits", "branches"), [(0, 12, 1), (5, 0, 1), (5, 65, 1), (5, 12, 0)])
def test_impossible_arguments(classes: int, bits: int, branches: int) -> None:
    with pytest.raises(UsageError):
        separated_codes(classes, bits, 0, branches)
