"""Rankings of codes whose figures can be written out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from queryopt.bench.quality.evaluate import EvaluationOptions, evaluate, hash_pictures
from queryopt.bench.quality.labelled_codes import LabelledCodes, SolvedGallery
from queryopt.bench.quality.pictures import EvaluationPictures
from queryopt.codes import pack_codes
from queryopt.errors import MismatchError, UsageError
from queryopt.runtime.search.ranked import RANKS
from queryopt.train.data import LabelledImages


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
    found = {rank: evaluate(gallery, queries, rank=rank) for rank in RANKS[1:]}
    assert {rank: result.rank for rank, result in found.items()} == {rank: rank for rank in RANKS[1:]}
    # By weights: a (1), a (4), then b and b (9). By distance: b, a and b at 1, then a; with weights, a first of these.
    assert found["weighted"].metrics.map == 1
    assert found["tiebreak"].metrics.map == pytest.approx((1 + 2 / 4) / 2)
    assert found["id"].metrics.map == pytest.approx(((1 + 1 / 2 + 1 / 3) / 3 + 2 / 4) / 2)
    assert found["weighted"].to_dict()["rank"] == "weighted"
    with pytest.raises(UsageError, match="'weighted' needs the queries' logits"):
        evaluate(gallery, codes([0], ["a"], [b"/q"]), rank="weighted")


def test_equal_distances_are_ranked_by_margins_where_both_sides_have_them():
    gallery = codes([0b00, 0b00, 0b01, 0b00], ["b", "a", "a", "b"], [b"/1", b"/2", b"/3", b"/4"], bits=2)
    queries = codes([0], ["a"], [b"/q"], bits=2)
    far, near = [-9, -9], [-120, -5]
    with_margins = dataclasses.replace(gallery, margins=np.array([far, near, [1, -5], far], np.int8))
    own = dataclasses.replace(queries, margins=np.array([[-127, -6]], np.int8))
    # At distance 0 the nearest margins are of class a; then two of b that tie, then a at distance 1.
    result = evaluate(with_margins, own, ks=(1,))
    assert (result.rank, result.metrics.precision_at[1]) == ("margin", 1)
    assert result.metrics.map == pytest.approx((1 + 2 / 4) / 2)
    alone = evaluate(with_margins, own, rank="id", ks=(1,))
    assert (alone.rank, alone.metrics.map) == ("id", pytest.approx(((1 + 1 / 2 + 1 / 3) / 3 + 2 / 4) / 2))
    for some, other in ((gallery, own), (with_margins, queries)):
        assert evaluate(some, other, ks=(1,)).to_dict() == alone.to_dict()


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


def images(*names):
    return LabelledImages(Path("/photos"), names, np.zeros(len(names), np.int64), ("a",))


def test_side_by_side_both_protocols_search_the_same_pictures():
    pictures = EvaluationPictures(images("1", "2", "3"), images("4"), (images("5"), images("6")))
    parts = {
        "gallery": codes([0, 1, 3], ["a", "b", "a"], [b"/1", b"/2", b"/3"]),
        "queries": codes([0], ["a"], [b"/4"]),
        "unseen gallery": codes([7], ["c"], [b"/5"]),
        "unseen queries": codes([7], ["c"], [b"/6"]),
    }
    solved = SolvedGallery("run", codes([7, 0], ["b", "a"], [b"/2", b"/3"]), 2)
    made = hash_pictures(pictures, lambda _, what: parts[what], solved=solved)
    assert {name: gallery.paths for name, gallery in made.galleries.items()} == {
        "deployed": (b"/2", b"/3"),
        "paper": (b"/2", b"/3"),
    }
    evaluations = made.evaluate(EvaluationOptions())
    assert [(one.part, one.protocol, one.metrics.map) for one in evaluations] == [
        ("seen", "deployed", 1 / 2),
        ("seen", "paper", 1),
        ("unseen", "deployed", 1),
    ]
    alone = hash_pictures(pictures, lambda _, what: parts[what], solved=solved, protocols=["paper"])
    assert list(alone.galleries) == ["paper"]


def test_the_figures_of_a_table_are_those_of_its_json():
    gallery = codes([0, 1, 3, 7], ["a", "b", "a", "b"], [b"/1", b"/2", b"/3", b"/4"])
    result = evaluate(gallery, codes([0], ["a"], [b"/5"]), ks=(1,), radii=(1,))
    figures = {figure.name: figure for figure in result.figures()}
    values = result.to_dict()
    for name, figure in figures.items():
        group, _, key = name.rpartition("_")
        assert figure.value == (values[group][int(key)] if key.isdigit() else values[name])
    names = ("map", "precision_at_radius_1", "gallery")
    assert [figures[name].text for name in names] == ["0.8333", "0.5000", "4"]
