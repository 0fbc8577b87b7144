"""Bits and attributes: against definitions, and with attributes that are planted or random."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from queryopt.bench.quality.attribute_match import (
    BitsAndAttributes,
    Tables,
    holm,
    match_attributes,
)
from queryopt.errors import DataError, MismatchError, UsageError


def entropy(values):
    return -sum(p * math.log2(p) for p in (values.count(v) / len(values) for v in set(values)))


def by_definition(bit, present, known):
    """H(bit) + H(attribute) - H(both), and the mean of both rates, over pictures where the attribute is known."""
    pairs = [(b, a) for b, a, k in zip(bit, present, known, strict=True) if k]
    if not pairs:
        return 0, 0.5
    ones, having = [b for b, _ in pairs], [a for _, a in pairs]
    information = entropy(ones) + entropy(having) - entropy(pairs)
    if len(set(having)) < 2:
        return information, 0.5
    hits = sum(b for b, a in pairs if a) / sum(having)
    rejections = sum(not b for b, a in pairs if not a) / sum(not a for a in having)
    return information, (hits + rejections) / 2


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_what_its_definition_says(seed):
    rng = np.random.default_rng(seed)
    bits, present = rng.random((30, 5)) < 0.5, rng.random((30, 7)) < 0.4
    known = rng.random((30, 7)) < 0.8
    bits[:, 4] = True
    present[:, 5] = False
    known[:, 6] = False
    bits[:, 0] = present[:, 0]
    tables = Tables.count(bits, present & known, ~present & known)
    information, accuracy = tables.information(), tables.accuracy()
    for b in range(5):
        for a in range(7):
            expected = by_definition(bits[:, b].tolist(), present[:, a].tolist(), known[:, a].tolist())
            assert (information[b, a], accuracy[b, a]) == pytest.approx(expected, abs=1e-12)
    assert accuracy[0, 0] == 1


def classes_with(rng, classes, bits, attributes, each=(6, 4)):
    """Codes and attributes of random classes, with 5 % noise in the codes: pictures to choose on and to score on."""
    codes, traits = rng.random((classes, bits)) < 0.5, rng.random((classes, attributes)) < 0.5
    return codes, traits, [np.repeat(np.arange(classes), n) for n in each]


def pictures(rng, codes, traits, labels, known=None):
    noisy = codes[labels] ^ (rng.random((len(labels), codes.shape[1])) < 0.05)
    present = traits[labels]
    return BitsAndAttributes(noisy, present, np.ones_like(present) if known is None else known, labels)


def test_planted_attributes_are_found_and_random_bits_are_not_called_significant():
    rng = np.random.default_rng(4)
    codes, traits, labels = classes_with(rng, 60, 8, 20)
    codes[:, 2], codes[:, 5] = traits[:, 7], ~traits[:, 11]
    found = match_attributes(*(pictures(rng, codes, traits, part) for part in labels), permutations=199, seed=1)
    assert (found.permutations, found.classes, found.candidates) == (199, 60, tuple(range(20)))
    for matches in (found.by_information, found.by_accuracy):
        assert [(matches[b].attribute, matches[b].positive) for b in (2, 5)] == [(7, True), (11, False)]
        assert all(matches[b].p == 1 / 200 for b in (2, 5))
        assert all(matches[b].score > matches[b].null_high > matches[b].null_mean for b in (2, 5))
        assert min(holm([match.p for match in matches])[[0, 1, 3, 4, 6, 7]]) > 0.05
    assert found.by_accuracy[2].score > 0.9
    # The classes are the same in both parts, so the best of 20 attributes agrees with a random bit there too.
    assert found.by_accuracy[0].null_mean > 0.55


def test_p_is_uniform_where_bits_and_attributes_have_nothing_in_common():
    rng = np.random.default_rng(5)
    p = []
    for _ in range(12):
        codes, traits, labels = classes_with(rng, 30, 20, 6, each=(5, 3))
        found = match_attributes(*(pictures(rng, codes, traits, part) for part in labels), permutations=99, seed=2)
        p += [match.p for match in found.by_accuracy]
    p = np.array(p)  # 240 of them
    assert (p <= 0.05).mean() < 0.1
    assert 0.4 < p.mean() < 0.6


def test_pictures_dealt_out_one_by_one_would_call_random_bits_significant():
    rng = np.random.default_rng(10)
    codes, traits, labels = classes_with(rng, 30, 40, 6, each=(5, 3))
    parts = [pictures(rng, codes, traits, part) for part in labels]
    alone = [dataclasses.replace(part, labels=np.arange(len(part.labels))) for part in parts]
    by_class, by_picture = (
        np.array([match.p for match in match_attributes(*sides, permutations=99).by_accuracy])
        for sides in (parts, alone)
    )
    assert (by_class <= 0.05).mean() < 0.15
    assert (by_picture <= 0.05).mean() > 0.4


def test_choice_and_score_are_of_different_pictures_and_the_null_is_every_deal_of_the_classes():
    # Four classes, one picture each on both sides: the null is over the 24 permutations.
    bits = np.array([[1], [1], [0], [0]], bool)
    choose_traits = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool)
    score_traits = np.array([[1, 0], [0, 0], [0, 1], [0, 1]], bool)
    known = np.ones((4, 2), bool)
    labels = np.arange(4)
    choose = BitsAndAttributes(bits, choose_traits, known, labels)
    score = BitsAndAttributes(bits, score_traits, known, labels)
    found = match_attributes(choose, score, permutations=4000, seed=3).by_accuracy[0]
    # Attribute 0 is the bit itself where it is chosen, and on the other side (1 + 2/3) / 2.
    assert (found.attribute, found.positive, found.matched) == (0, True, 1)
    assert found.score == pytest.approx((1 + 2 / 3) / 2)
    null = []
    for order in itertools.permutations(range(4)):
        dealt = bits[list(order)]
        here, there = (
            Tables.count(dealt, choose_traits, ~choose_traits).accuracy()[0],
            Tables.count(dealt, score_traits, ~score_traits).accuracy()[0],
        )
        best = int(np.abs(here - 0.5).argmax())
        null.append(there[best] if here[best] >= 0.5 else 1 - there[best])
    assert found.null_mean == pytest.approx(np.mean(null), abs=0.02)
    assert found.p == pytest.approx(np.mean(np.array(null) >= found.score - 1e-12), abs=0.03)


def test_the_same_seed_gives_the_same_and_progress_is_told():
    rng = np.random.default_rng(6)
    codes, traits, labels = classes_with(rng, 12, 300, 4)
    parts = [pictures(rng, codes, traits, part) for part in labels]
    told = []
    first = match_attributes(*parts, permutations=10, seed=7, progress=told.append)
    assert sum(told) == 10
    assert first == match_attributes(*parts, permutations=10, seed=7)
    assert first != match_attributes(*parts, permutations=10, seed=8)


def test_classes_of_one_part_alone_and_of_different_sizes_are_dealt_out_too():
    rng = np.random.default_rng(8)
    codes, traits = rng.random((10, 3)) < 0.5, rng.random((10, 5)) < 0.5
    choose = pictures(rng, codes, traits, np.repeat(np.arange(8), np.arange(1, 9)))
    score = pictures(rng, codes, traits, np.repeat([2, 3, 4, 8, 9], [1, 5, 2, 3, 4]))
    found = match_attributes(choose, score, permutations=50)
    assert found.classes == 10
    assert all(1 / 51 <= match.p <= 1 for match in found.by_information)


def test_attributes_that_do_not_vary_are_no_candidates():
    rng = np.random.default_rng(9)
    codes, traits, labels = classes_with(rng, 10, 2, 4)
    traits[:, 0] = True
    parts = []
    for part in labels:
        known = np.ones((len(part), 4), bool)
        known[:, 2] = False  # never visible
        parts.append(pictures(rng, codes, traits, part, known))
    found = match_attributes(*parts, permutations=5)
    assert found.candidates == (1, 3)
    assert {match.attribute for match in found.by_information + found.by_accuracy} <= {1, 3}
    nothing = [BitsAndAttributes(p.bits, p.present, np.zeros_like(p.known), p.labels) for p in parts]
    with pytest.raises(DataError, match="no attribute is both present and absent"):
        match_attributes(*nothing)


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert holm([]).tolist() == []


def test_things_that_do_not_belong_together():
    one = np.ones((3, 2), bool)
    labels = np.arange(3)
    part = BitsAndAttributes(one, one, one, labels)
    with pytest.raises(MismatchError, match="3 codes, 2 rows of attributes"):
        BitsAndAttributes(one, one[:2], one[:2], labels)
    with pytest.raises(UsageError, match="arrays of bool"):
        BitsAndAttributes(one.astype(int), one, one, labels)
    with pytest.raises(UsageError, match=r"known \[3, 1\]"):
        BitsAndAttributes(one, one, one[:, :1], labels)
    with pytest.raises(MismatchError, match="2 bits and 2 attributes to choose by, 1 and 2"):
        match_attributes(part, BitsAndAttributes(one[:, :1], one, one, labels))
    with pytest.raises(UsageError, match="permutations is 0"):
        match_attributes(part, part, permutations=0)
