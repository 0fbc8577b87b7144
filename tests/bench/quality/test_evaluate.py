"""Rankings of codes whose figures can be written out."""

import dataclasses

import numpy as np
import pytest

from queryopt.bench.quality.evaluate import evaluate
from queryopt.bench.quality.labelled_codes import LabelledCodes
from queryopt.codes import pack_codes
from queryopt.errors import MismatchError, UsageError
from queryopt.runtime.search.ranked import RANKS


def codes(values, labels, names, bits=8):
    packed = pack_codes(np.array([[v >> i & 1 for i in range(bits)] for v in values], bool))
    return LabelledCodes(bits, packed, np.array(labels), tuple(names), {})


def test_a_query_in_the_gallery_is_left_out_of_its_own_ranking():
    gallery = codes([0, 1, 3, 7], ["a", "b", "a", "b"], [b"/g/1", b"/g/2", b"/g/3", b"/g/4"])
    queries = codes([0, 0], ["a", "a"], [b"/q/../g/1", b"/q/1"])
    result = evaluate(gallery, queries)
    assert result.own == 1
    # The first sees b, a, b; the second a, b, a, b.
    assert result.metrics.average_precision == pytest.approx([1 / 2, (1 + 2 / 3) / 2])


def test_a_ranking_by_weights_asks_the_logits():
    gallery = codes([0b0001, 0b0010, 0b0110, 0b1000], ["b", "a", "a", "b"], [b"/1", b"/2", b"/3", b"/4"])
    queries = dataclasses.replace(codes([0], ["a"], [b"/q"]), logits=np.array([[9, -1, 3, 9, 0, 0, 0, 0]], np.float32))
    found = {rank: evaluate(gallery, queries, rank=rank) for rank in RANKS}
    assert {rank: result.rank for rank, result in found.items()} == {rank: rank for rank in RANKS}
    # By weights: a (1), a (4), then b and b (9). By distance: b, a and b at 1, then a; with weights, a first of these.
    assert found["weighted"].metrics.map == 1
    assert found["tiebreak"].metrics.map == pytest.approx((1 + 2 / 4) / 2)
    assert found["hamming"].metrics.map == pytest.approx(((1 + 1 / 2 + 1 / 3) / 3 + 2 / 4) / 2)
    assert found["weighted"].to_dict()["rank"] == "weighted"
    with pytest.raises(UsageError, match="'weighted' needs the queries' logits"):
        evaluate(gallery, codes([0], ["a"], [b"/q"]), rank="weighted")


def test_classes_that_only_queries_have_are_named():
    gallery = codes([0, 1], ["a", "b"], [b"/1", b"/2"])
    queries = codes([0, 1, 2], ["a", "y", "x"], [b"/3", b"/4", b"/5"])
    result = evaluate(gallery, queries, ks=(1,), radii=(0, 100))
    assert result.absent == ("x", "y")
    assert (result.metrics.queries, result.metrics.skipped_queries, result.classes, result.gallery) == (1, 2, 2, 2)
    assert list(result.metrics.recall_at_radius) == [0]
    assert result.to_dict()["classes_only_in_queries"] == ["x", "y"]


def test_sides_that_do_not_belong_together():
    gallery = codes([0], ["a"], [b"/1"])
    with pytest.raises(MismatchError, match="share no label"):
        evaluate(gallery, codes([0], ["b"], [b"/2"]))
    with pytest.raises(MismatchError, match="8 bits and the queries of 16"):
        evaluate(gallery, codes([0], ["a"], [b"/2"], bits=16))
