import numpy as np
import pytest
import torch

from queryopt.errors import UsageError
from queryopt.train.class_codes import minimum_distance
from queryopt.train.visual_codes import _between, pool_features, visual_codes


def pictures_of(traits, each, width=24, noise=0.5, seed=0):
    """Features of `each` pictures a class, which are mixtures of its class's traits, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(traits)), each)
    mixed = traits[labels] @ rng.standard_normal((traits.shape[1], width))
    return (mixed + noise * rng.standard_normal(mixed.shape)).astype(np.float32), labels


def distances(codes):
    return (codes.shape[1] - codes.astype(int) @ codes.T) // 2


def test_classes_that_look_alike_have_codes_near_each_other():
    traits = np.random.default_rng(1).choice([-1.0, 1.0], (40, 8))
    codes = visual_codes(*pictures_of(traits, 6), 40, 12, seed=0)
    pairs = np.triu_indices(40, 1)
    alike = (traits @ traits.T)[pairs]
    assert np.corrcoef(alike, -distances(codes)[pairs])[0, 1] > 0.7


def test_what_varies_within_classes_does_not_drown_what_tells_them_apart():
    rng = np.random.default_rng(3)
    traits = np.random.default_rng(2).choice([-1.0, 1.0], (30, 8))
    features, labels = pictures_of(traits, 8, noise=0.1)
    light = 20 * rng.standard_normal((len(labels), 3)) @ rng.standard_normal((3, features.shape[1]))
    codes = visual_codes(features + light, labels, 30, 8, seed=0)
    pairs = np.triu_indices(30, 1)
    assert np.corrcoef((traits @ traits.T)[pairs], -distances(codes)[pairs])[0, 1] > 0.25  # not whitened: 0.1


@pytest.mark.parametrize(
    ("classes", "bits", "least"), [(100, 12, 2), (64, 7, 2), (64, 6, 1), (16, 5, 2), (2, 1, 1), (33, 40, 2), (3, 64, 2)]
)
def test_every_two_classes_differ_in_two_bits_where_there_are_codes_enough(classes, bits, least):
    traits = np.random.default_rng(4).standard_normal((classes, 3))  # fewer than there are bits
    codes = visual_codes(*pictures_of(traits, 3), classes, bits, seed=0)
    assert codes.shape == (classes, bits)
    assert codes.dtype == np.int8
    assert set(np.unique(codes)) == {-1, 1}
    assert minimum_distance(codes) >= least


def test_more_classes_than_codes_share_them_evenly():
    codes = visual_codes(*pictures_of(np.random.default_rng(5).standard_normal((30, 6)), 3), 30, 4, seed=0)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    assert len(counts) == 16
    assert counts.max() == 2


def test_each_bit_splits_the_classes_in_halves():
    codes = visual_codes(*pictures_of(np.random.default_rng(6).standard_normal((60, 16)), 4), 60, 16, seed=0)
    assert np.all(np.abs(codes.astype(int).sum(axis=0)) <= 6)  # but for the bits that were flipped


@pytest.mark.parametrize("each", [1, 3])
def test_poor_features_and_classes_without_pictures_still_give_codes(each):
    features, labels = pictures_of(np.random.default_rng(7).standard_normal((5, 4)), each)
    for values in (features, np.zeros_like(features)):
        codes = visual_codes(values, labels, 9, 6, seed=0)  # classes 5 to 8 have none
        assert minimum_distance(codes) >= 2
    with pytest.raises(UsageError, match="not finite"):
        visual_codes(features * np.nan, labels, 9, 6, seed=0)


def test_wide_features_are_mixed_down_and_arguments_decide_alone():
    traits = np.random.default_rng(8).choice([-1.0, 1.0], (20, 5))
    features, labels = pictures_of(traits, 4, width=600)
    codes = visual_codes(features, labels, 20, 8, seed=0)
    assert np.array_equal(codes, visual_codes(features, labels, 20, 8, seed=0))
    assert not np.array_equal(codes, visual_codes(features, labels, 20, 8, seed=1))
    pairs = np.triu_indices(20, 1)
    assert np.corrcoef((traits @ traits.T)[pairs], -distances(codes)[pairs])[0, 1] > 0.6


def test_pooled_are_mean_maximum_and_the_means_of_both_halves():
    maps = torch.arange(24.0).reshape(1, 2, 4, 3)
    pooled = pool_features(maps)
    expected = [5.5, 17.5, 11, 23, 2.5, 14.5, 8.5, 20.5]
    assert pooled.tolist() == [expected]
    assert pool_features(torch.ones(3, 5, 7, 7)).shape == (3, 20)


def test_classes_lie_as_far_apart_as_they_differ_in_units_of_what_varies_within():
    """Of one feature: the distance of two means over the standard deviation within classes, whatever the scale."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 5000)
    for between, within in ((6.0, 1.0), (6.0, 3.0)):
        features = 100 * (between * labels + within * rng.standard_normal(10_000))[:, None]
        directions = _between(features, labels, np.array([0, 1]), rng)
        assert abs(directions[0, 0] - directions[1, 0]) == pytest.approx(between / within, rel=0.05)
