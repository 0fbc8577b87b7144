"""The benchmark of the evaluation: that both ways measure the same."""

from dataclasses import replace

import numpy as np
import pytest

from queryopt.bench.speed.evaluation_speed import (
    WAYS,
    CodeSet,
    EvaluationSize,
    make_code_sets,
    measure_evaluation,
    one_by_one,
)
from queryopt.codes import pack_codes, unpack_codes
from queryopt.errors import UsageError
from queryopt.metrics import retrieval_metrics


@pytest.mark.parametrize("one_hot", [True, False])
def test_without_ties_the_loop_finds_what_the_metrics_find(one_hot):
    # Code i has its first i bits set: no two are equally far from the first or the last.
    ladder = np.arange(64)[None] < np.arange(65)[:, None]
    rng = np.random.default_rng(0)
    gallery = CodeSet(pack_codes(ladder), rng.permutation(np.arange(65) % 3))
    queries = CodeSet(pack_codes(ladder[[0, 64, 0]]), np.arange(3))
    expected = retrieval_metrics(queries.codes, gallery.codes, 64, queries.labels, gallery.labels).average_precision
    assert one_by_one(queries, gallery, 64, 3, one_hot=one_hot) == pytest.approx(expected, abs=1e-12)


def test_codes_are_those_of_their_class_with_some_bits_flipped():
    queries, gallery, solved = make_code_sets(EvaluationSize(300, 200, 48, 20), seed=1)
    assert np.array_equal(gallery.labels, solved.labels)
    assert set(queries.labels.tolist()) == set(gallery.labels.tolist()) == set(range(20))
    assert len(np.unique(solved.codes, axis=0)) == 20
    flipped = (unpack_codes(gallery.codes, 48) != unpack_codes(solved.codes, 48)).mean()
    assert flipped == pytest.approx(0.15, abs=0.02)
    with pytest.raises(UsageError, match="9 classes of 8 queries"):
        make_code_sets(EvaluationSize(8, 20, 48, 9), seed=1)


def test_a_measurement_says_that_the_loop_is_one_order_of_ties():
    done = []
    size = EvaluationSize(queries=60, gallery=80, bits=10, classes=4, sample=20)
    speed = measure_evaluation(size, rounds=2, progress=done.append)
    assert done == [1, 1]
    value = speed.to_dict()
    assert value["map_pessimistic"] - 1e-9 <= value["loop_map"] <= value["map_optimistic"] + 1e-9
    ratios = [one["loop"]["wall"] / one["deployed"]["wall"] * 3 for one in value["rounds"]]
    assert value["ratio"] == pytest.approx(sum(ratios) / 2)
    assert len(value["rounds"]) == 2
    assert set(value["rounds"][0]) == set(WAYS)
    assert value["deployed"] == pytest.approx(sum(one["deployed"]["wall"] for one in value["rounds"]) / 2)
    assert value["everything"] >= value["deployed"]
    with pytest.raises(UsageError, match="a sample of 61 of 60"):
        measure_evaluation(replace(size, sample=61))
