"""Cards of bits whose meaning is known."""

import numpy as np
import pytest

from queryopt.bench.quality.bit_cards import make_bit_cards
from queryopt.bench.quality.labelled_codes import LabelledCodes
from queryopt.codes import pack_codes
from queryopt.train.datasets.attributes import ImageAttributes

CLASSES, BITS = 40, 6


@pytest.fixture(scope="module")
def parts():
    """Gallery and queries: bit 1 is attribute 3, bit 4 is 1 where attribute 0 is absent, bit 5 is always 1."""
    rng = np.random.default_rng(0)
    codes, traits = rng.random((CLASSES, BITS)) < 0.5, rng.random((CLASSES, 5)) < 0.5
    codes[:, 1], codes[:, 4], codes[:, 5] = traits[:, 3], ~traits[:, 0], True
    made = []
    for side, each in (("g", 5), ("q", 3)):
        labels = np.repeat(np.arange(CLASSES), each)
        paths = tuple(f"{side}/{n}" for n in range(len(labels)))
        certainties = rng.integers(1, 5, (len(labels), 5)).astype(np.uint8)
        # What is not visible is never marked present, as in CUB: it must not count as absent.
        present = traits[labels] & (certainties > 1)
        names = np.char.mod("%d", labels)
        hashed = LabelledCodes(BITS, pack_codes(codes[labels]), names, tuple(map(str.encode, paths)), {})
        made.append((hashed, ImageAttributes(tuple(f"has_a|b::{n}" for n in range(5)), paths, present, certainties)))
    return made


def test_a_card_names_the_attribute_of_its_bit(parts):
    (gallery, one), (queries, other) = parts
    both = ImageAttributes(
        one.names,
        other.paths + one.paths,  # in any order
        np.concatenate([other.present, one.present]),
        np.concatenate([other.certainties, one.certainties]),
    )
    made = make_bit_cards("m.onnx", gallery, queries, both, permutations=199)
    assert (made.gallery, made.drop_queries, made.permutations, made.classes, made.attributes) == (200, 120, 199, 40, 5)
    for bit, name, positive in ((1, "has_a|b::3", True), (4, "has_a|b::0", False)):
        match = made.cards[bit].by_accuracy
        assert (match.attribute, match.positive, match.score, match.p) == (name, positive, 1, 1 / 200)
        assert match.p_holm <= 0.05
        assert made.cards[bit].by_information.attribute == name
    constant = made.cards[5]
    assert (constant.ones, constant.entropy, constant.drop_loss, constant.correlation) == (1, 0, 0, 0)
    assert constant.by_accuracy.p == 1
    text = made.to_markdown()
    assert "| 4 |" in text
    assert "not has\\_a\\|b::0" in text
    assert "of random bits" in text


def test_without_attributes_there_is_no_match_and_no_null(parts):
    (gallery, _), (queries, _) = parts
    made = make_bit_cards("m.onnx", gallery, queries)
    assert all(card.by_accuracy is None for card in made.cards)
    assert "null" not in made.to_dict()
    assert "random bits" not in made.to_markdown()


def test_one_bit_has_nothing_to_be_correlated_with(parts):
    (gallery, _), (queries, _) = parts
    short = [LabelledCodes(1, codes.codes & 1, codes.labels, codes.paths, {}) for codes in (gallery, queries)]
    made = make_bit_cards("m.onnx", *short)
    assert (made.cards[0].most_correlated, made.mean_correlation) == (None, 0)
    assert made.cards[0].drop_loss == pytest.approx(made.map - CHANCE, abs=0.01)
    assert "most correlated with" not in made.to_markdown().partition("## Bit 0")[2]


CHANCE = sum(1 / n for n in range(1, 201)) / 200 + 4 * (1 - sum(1 / n for n in range(1, 201)) / 200) / 199
"""The mAP of random rankings of 200 pictures, 5 of them relevant."""
