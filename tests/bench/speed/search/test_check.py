"""The checks find what is wrong, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryopt.bench.speed.search.check import judge, plain_search
from queryopt.bench.speed.search.contender import Hits, Task
from queryopt.bench.speed.search.data import DataSpec, make_data
from queryopt.runtime import HammingIndex

DATA = make_data(DataSpec("clustered", 12, 2000, queries=4, classes=5))
RIGHT = {row: plain_search(DATA.codes, query, Task(5)) for row, query in enumerate(DATA.queries)}


@given(
    bits=st.integers(1, 64),
    count=st.integers(1, 300),
    k=st.integers(1, 310),
    radius=st.integers(0, 64),
    seed=st.integers(0),
)
def test_the_plain_search_is_that_of_the_index(bits: int, count: int, k: int, radius: int, seed: int) -> None:
    data = make_data(DataSpec("clustered", bits, count, queries=1, classes=3, flip=0.2, seed=seed % (1 << 32)))
    index = HammingIndex(data.codes, bits)
    found = plain_search(data.codes, data.queries[0], Task(k))
    nearest = index.search(data.queries, k)
    assert found.ids.tolist() == nearest.ids[0][:count].tolist()
    assert found.distances.tolist() == nearest.distances[0][:count].tolist()
    found, near = (
        plain_search(data.codes, data.queries[0], Task(None, radius)),
        index.search_radius(data.queries, radius),
    )
    assert (found.ids.tolist(), found.distances.tolist()) == (near.ids.tolist(), near.distances.tolist())


def test_a_plain_search_of_many_chunks() -> None:
    data = make_data(DataSpec("clustered", 24, 600_000, queries=1, classes=50))
    expected = HammingIndex(data.codes, 24).search(data.queries, 3000)
    assert np.array_equal(plain_search(data.codes, data.queries[0], Task(3000)).ids, expected.ids[0])


def changed(ids: list[int] | None = None, distances: list[int] | None = None) -> Hits:
    return Hits(
        np.array(ids if ids is not None else RIGHT[0].ids, np.int64),
        np.array(distances if distances is not None else RIGHT[0].distances, np.int64),
    )


def test_what_is_right() -> None:
    verdict = judge(RIGHT, RIGHT, DATA.codes, DATA.queries)
    assert (verdict.checked, verdict.recall, verdict.exact, verdict.ordered) == (4, 1.0, True, True)
    # Only queries that both have are compared.
    assert judge({0: RIGHT[0], 9: changed([])}, {0: RIGHT[0], 1: RIGHT[1]}, DATA.codes, DATA.queries).checked == 1
    assert not judge({}, RIGHT, DATA.codes, DATA.queries).exact


def test_ties_in_another_order_are_exact_and_not_ordered() -> None:
    ids, distances = RIGHT[0].ids.tolist(), RIGHT[0].distances.tolist()
    assert distances[0] == distances[-1], "the example should have ties"
    verdict = judge({0: changed(ids[::-1])}, RIGHT, DATA.codes, DATA.queries)
    assert (verdict.recall, verdict.exact, verdict.ordered) == (1.0, True, False)
    # Also a code that is not among ours, but as near.
    everyone = plain_search(DATA.codes, DATA.queries[0], Task(None, distances[-1])).ids.tolist()
    verdict = judge({0: changed([*ids[:-1], everyone[-1]])}, RIGHT, DATA.codes, DATA.queries)
    assert (verdict.recall, verdict.exact, verdict.ordered) == (1.0, True, False)


FARTHEST = plain_search(DATA.codes, DATA.queries[0], Task(2000))


@pytest.mark.parametrize(
    ("answer", "recall"),
    [
        (changed([*RIGHT[0].ids[:-1], FARTHEST.ids[-1]], [*RIGHT[0].distances[:-1], FARTHEST.distances[-1]]), 0.8),
        (changed(distances=[1, *RIGHT[0].distances[1:]]), 1.0),  # a distance that isn't the code's
        (changed([*RIGHT[0].ids[:-1], RIGHT[0].ids[0]]), 0.8),  # a code twice
        (changed([*RIGHT[0].ids[:-1], 2000]), 0.8),  # one that isn't there
        (changed(RIGHT[0].ids[:3].tolist(), RIGHT[0].distances[:3].tolist()), 0.6),
        (changed([], []), 0.0),
    ],
)
def test_what_is_wrong(answer: Hits, recall: float) -> None:
    verdict = judge({0: answer}, RIGHT, DATA.codes, DATA.queries)
    assert verdict.recall == pytest.approx(recall)
    assert not verdict.exact
    assert not verdict.ordered
