"""Bits one by one, against loops that follow the definitions."""

import math

import numpy as np
import pytest

from queryopt.bit_quality import bit_quality, code_warnings, drop_losses
from queryopt.codes import pack_codes
from queryopt.errors import MismatchError, UsageError
from queryopt.metrics import retrieval_metrics


def test_statistics_are_what_plain_loops_find():
    rng = np.random.default_rng(1)
    values = rng.random((40, 6)) < np.array([0.5, 0.2, 0.9, 0.5, 0, 1])
    values[:, 3] = ~values[:, 0]  # opposes bit 0; bits 4 and 5 are constant
    found = bit_quality(pack_codes(values), 6)
    for i in range(6):
        share = sum(row[i] for row in values.tolist()) / 40
        assert found.ones[i] == pytest.approx(share)
        assert found.entropy[i] == pytest.approx(-sum(p * math.log2(p) for p in (share, 1 - share) if p))
        for j in range(6):
            other = sum(row[j] for row in values.tolist()) / 40
            covariance = sum((row[i] - share) * (row[j] - other) for row in values.tolist()) / 40
            product = math.sqrt(share * (1 - share) * other * (1 - other))
            assert found.correlation[i, j] == pytest.approx(covariance / product if product else 0, abs=1e-12)
    assert found.most_correlated(0) == (3, pytest.approx(-1))
    codes = [tuple(row) for row in values.tolist()]
    assert found.distinct == len(set(codes))
    shares = [codes.count(code) / 40 for code in set(codes)]
    assert found.code_entropy == pytest.approx(-sum(p * math.log2(p) for p in shares))
    assert found.items == 40


def test_one_bit_and_no_codes():
    found = bit_quality(np.array([[0], [1], [1], [0]], np.uint8), 1)
    assert (found.ones[0], found.entropy[0], found.code_entropy, found.distinct) == (0.5, 1, 1, 2)
    assert found.most_correlated(0) is None
    with pytest.raises(UsageError, match="no codes"):
        bit_quality(np.zeros((0, 1), np.uint8), 1)


def _random(pictures, bits=12, seed=4):
    return np.random.default_rng(seed).random((pictures, bits)) < 0.5


def test_sound_codes_are_not_warned_of_and_few_pictures_never_are():
    assert code_warnings(pack_codes(_random(600)), 12) == ()
    assert code_warnings(np.zeros((49, 2), np.uint8), 12) == ()


def test_bits_that_tell_nothing_and_bits_that_repeat_others_are_named():
    values = _random(600)
    values[:, 3] = True
    values[:, 7] = np.arange(600) < 11  # 1.8 %
    values[:, 9] = ~values[:, 2]
    values[:5, 9] ^= True
    constant, alike = code_warnings(pack_codes(values), 12)
    assert constant.startswith("2 of 12 bits are the same for at least 98 % of the pictures (3, 7)")
    assert alike.startswith("1 pair of bits goes together")
    assert "2 and 9" in alike
    values[:, 7] = np.arange(600) < 13
    values[:90, 9] ^= True
    assert [said[:12] for said in code_warnings(pack_codes(values), 12)] == ["1 of 12 bits"]


def test_few_codes_are_warned_of_unless_it_is_classes_that_share_them():
    codes = np.repeat(_random(100), 6, axis=0)  # a hundred codes of 600 pictures
    packed, classes = pack_codes(codes), np.repeat(np.arange(100) % 20, 6)
    [unknown] = code_warnings(packed, 12)
    distinct = len(np.unique(packed, axis=0))
    assert unknown.startswith(
        f"{distinct} different codes for 600 pictures: in the mean 5 others have a picture's code"
    )
    assert code_warnings(packed, 12, lambda: classes) == ()
    [mixed] = code_warnings(packed, 12, lambda: np.arange(600) % 20)
    assert "of 20 classes" in mixed
    assert "of other classes" in mixed
    assert code_warnings(pack_codes(_random(5000, 4)), 4, lambda: np.arange(5000) % 20) == ()  # there are no more
    [one] = code_warnings(np.zeros((60, 2), np.uint8), 12)
    assert one.startswith("all 60 pictures have one and the same code")


def test_a_dropped_bit_is_one_that_no_code_has():
    rng = np.random.default_rng(2)
    bits = 7
    gallery, queries = rng.integers(0, 2, (50, bits)), rng.integers(0, 2, (12, bits))
    labels, asked = rng.integers(0, 4, 50), rng.integers(0, 5, 12)
    own = np.where(np.arange(12) % 3, -1, np.arange(12))
    found = drop_losses(pack_codes(queries), pack_codes(gallery), bits, asked, labels, exclude_self=own)
    whole = retrieval_metrics(pack_codes(queries), pack_codes(gallery), bits, asked, labels, exclude_self=own)
    assert (found.map, found.queries) == (pytest.approx(whole.map), whole.queries)
    for bit in range(bits):
        shorter = [pack_codes(np.delete(codes, bit, axis=1)) for codes in (queries, gallery)]
        without = retrieval_metrics(*shorter, bits - 1, asked, labels, exclude_self=own)
        assert found.loss[bit] == pytest.approx(whole.map - without.map, abs=1e-12)
        difference = whole.average_precision - without.average_precision
        difference = difference[~np.isnan(difference)]
        assert found.standard_error[bit] == pytest.approx(difference.std(ddof=1) / math.sqrt(len(difference)))


def test_a_bit_that_tells_classes_apart_costs_most_and_a_constant_one_nothing():
    labels = np.repeat([0, 1], 20)
    codes = np.zeros((40, 3), int)
    codes[:, 0] = labels
    codes[:, 1] = np.arange(40) % 2  # says nothing of the class
    found = drop_losses(pack_codes(codes), pack_codes(codes), 3, labels, labels, exclude_self=np.arange(40))
    assert found.loss[0] > 0.3
    assert found.loss[1] <= 0
    assert found.loss[2] == 0 == found.standard_error[2]


def test_some_queries_stand_for_all_with_every_class_among_them():
    rng = np.random.default_rng(3)
    bits, classes = 16, 5
    centres = rng.integers(0, 2, (classes, bits))
    labels, asked = np.sort(rng.integers(0, classes, 200)), rng.permutation(np.repeat(np.arange(classes), 40))
    gallery, queries = (centres[which] ^ (rng.random((len(which), bits)) < 0.2) for which in (labels, asked))
    progress = []
    some = drop_losses(
        pack_codes(queries), pack_codes(gallery), bits, asked, labels, most_queries=50, progress=progress.append
    )
    every = drop_losses(pack_codes(queries), pack_codes(gallery), bits, asked, labels, most_queries=None)
    assert (some.queries, every.queries, sum(progress)) == (50, 200, bits + 1)
    assert np.all(np.abs(some.loss - every.loss) < 5 * some.standard_error + 1e-12)
    # Ten of each class, in whatever order they come.
    order = np.argsort(asked, kind="stable")
    rows = np.sort(order[np.arange(50) * 4])
    assert np.bincount(asked[rows]).tolist() == [10] * classes
    assert some.map == pytest.approx(
        retrieval_metrics(pack_codes(queries[rows]), pack_codes(gallery), bits, asked[rows], labels).map
    )


def test_without_its_only_bit_a_code_ranks_by_chance():
    labels = np.repeat([0, 1], 10)
    codes = labels[:, None].astype(np.uint8)
    found = drop_losses(codes, codes, 1, labels, labels)
    chance = retrieval_metrics(codes, codes, 1, labels, labels, radii=()).chance
    assert (found.map, found.loss[0]) == (pytest.approx(1), pytest.approx(1 - chance))


def test_wrong_arguments():
    codes = np.zeros((2, 1), np.uint8)
    with pytest.raises(MismatchError, match="2 queries, but 1 labels"):
        drop_losses(codes, codes, 4, [1], [1, 1])
    with pytest.raises(UsageError, match="most_queries is 0"):
        drop_losses(codes, codes, 4, [1, 1], [1, 1], most_queries=0)
    with pytest.raises(MismatchError, match="share no label"):
        drop_losses(codes, codes, 4, [1, 1], [2, 2])
