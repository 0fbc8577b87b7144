"""Codes added and removed, and searches among some of them, against a dictionary."""

import threading
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from queryopt.errors import MismatchError, UsageError
from queryopt.runtime.search import HammingIndex, core
from queryopt.runtime.search.hamming import STRUCTURES


@pytest.fixture(scope="module", params=core.paths(), autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(core.PATH_VARIABLE, request.param)
        yield request.param


def words(values: list[int]) -> npt.NDArray[np.uint64]:
    return np.array(values, np.uint64)


def hits(gallery: dict[int, int], query: int) -> list[tuple[int, int]]:
    return sorted(((code ^ query).bit_count(), id) for id, code in gallery.items())


def same(index: HammingIndex, gallery: dict[int, int], queries: list[int], k: int, radius: int, **only: object) -> None:
    found, near = index.search(words(queries), k, **only), index.search_radius(words(queries), radius, **only)  # type: ignore[arg-type]
    for i, query in enumerate(queries):
        expected = hits(gallery, query)
        padded = (expected + [(index.bits + 1, -1)] * k)[:k]
        assert list(zip(found.distances[i].tolist(), found.ids[i].tolist(), strict=True)) == padded
        rows = slice(near.offsets[i], near.offsets[i + 1])
        within = [pair for pair in expected if pair[0] <= radius]
        assert list(zip(near.distances[rows].tolist(), near.ids[rows].tolist(), strict=True)) == within


@settings(max_examples=80)
@given(st.data())
def test_any_sequence_of_changes(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([1, 8, 12, 16, 17, 24, 33, 48, 64]) | st.integers(1, 64))
    pool = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=5))
    code = st.sampled_from(pool) | st.integers(0, 2**bits - 1)
    codes = data.draw(st.lists(code, max_size=150))
    index = HammingIndex(words(codes), bits, structure=data.draw(st.sampled_from(STRUCTURES)))
    gallery = dict(enumerate(codes))
    next_id = len(codes)
    for _ in range(data.draw(st.integers(1, 6))):
        match data.draw(st.sampled_from(["add", "add with ids", "remove", "compact"])):
            case "add":
                added = data.draw(st.lists(code, max_size=40))
                assert index.add(words(added)).tolist() == list(range(next_id, next_id + len(added)))
                gallery |= dict(zip(range(next_id, next_id + len(added)), added, strict=True))
                next_id += len(added)
            case "add with ids":
                ids = data.draw(
                    st.lists(st.sampled_from([id for id in range(400) if id not in gallery]), unique=True, max_size=9)
                )
                added = [data.draw(code) for _ in ids]
                assert index.add(words(added), np.array(ids, np.int64)).tolist() == ids
                gallery |= dict(zip(ids, added, strict=True))
                next_id = max([next_id, *(id + 1 for id in ids)])
            case "remove":
                gone = data.draw(st.lists(st.integers(0, 300), max_size=60))
                assert index.remove(gone) == len(gallery.keys() & set(gone))
                gallery = {id: code for id, code in gallery.items() if id not in set(gone)}
            case "compact":
                index.compact()
        assert len(index) == len(gallery)
        assert index.ids.tolist() == sorted(gallery)
        queries, k, radius = (
            [data.draw(code)],
            data.draw(st.integers(0, len(gallery) + 2)),
            data.draw(st.integers(0, bits)),
        )
        same(index, gallery, queries, k, radius)
        some = data.draw(st.lists(st.integers(0, 500), max_size=30))
        same(index, {i: c for i, c in gallery.items() if i in set(some)}, queries, k, radius, allow=some)
        same(index, {i: c for i, c in gallery.items() if i not in set(some)}, queries, k, radius, deny=some)
        odd = {i: c for i, c in gallery.items() if i % 2 and i not in set(some)}
        same(index, odd, queries, k, radius, allow=np.arange(1, 1000, 2), deny=some)


@pytest.mark.parametrize(
    ("bits", "structure"), [(12, "table"), (24, "table"), (48, "multi-index"), (48, "scan"), (64, "multi-index")]
)
def test_stopping_counts_only_what_may_be_found(bits: int, structure: str) -> None:
    """The nearest hundreds of codes are removed or not allowed: a search that counted them would end too early."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, 40_000, np.uint64, endpoint=False)
    codes[:2000] = codes[0]
    codes[2000:4000] = codes[0] ^ np.uint64(1)
    index = HammingIndex(codes, bits, structure=structure)
    reference = np.bitwise_count(codes ^ codes[0]).astype(np.int64)
    choices: tuple[dict[str, Any], ...] = (
        {"deny": np.arange(4000)},
        {"allow": np.arange(4000, 40_000)},
        {"allow": np.arange(4000, 40_000, 100)},
        {},
    )
    for only in choices:
        if not only:
            assert index.remove(np.arange(4000)) == 4000
        rows = np.asarray(only.get("allow", np.arange(4000, 40_000)))
        expected = rows[np.lexsort((rows, reference[rows]))]
        found = index.search(codes[:1], 10, **only)
        assert found.ids[0].tolist() == expected[:10].tolist()
        assert found.distances[0].tolist() == reference[expected[:10]].tolist()
        near = index.search_radius(codes[:1], 3, **only)
        assert near.ids.tolist() == expected[reference[expected] <= 3].tolist()


def test_a_small_delta_and_a_large_one(path: str) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << 40, 60_000, np.uint64)
    index, whole = HammingIndex(codes[:50_000], 48), HammingIndex(codes, 48)
    for begin in range(50_000, 60_000, 2000):
        index.add(codes[begin : begin + 2000])
    # Merged on the way, so that a search has few segments to look through.
    assert len(index.explain().segments) <= 2
    for queries in (codes[:3], codes[55_000:55_003], rng.integers(0, 1 << 48, 3, np.uint64)):
        a, b = index.search(queries, 20), whole.search(queries, 20)
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.distances, b.distances)
    index.compact()
    assert len(index.explain().segments) == 1
    assert index.nbytes == whole.nbytes


def test_ids_of_removed_codes_can_be_used_again_but_are_not_given_out() -> None:
    index = HammingIndex(words([1, 2, 3]), 8)
    assert index.remove([2, 7]) == 1
    assert index.add(words([9])).tolist() == [3]
    assert index.add(words([4]), [2]).tolist() == [2]
    assert index.search(words([4]), 1).ids.tolist() == [[2]]
    with pytest.raises(UsageError, match="id 2 is there already"):
        index.add(words([5, 6]), [10, 2])
    assert len(index) == 4
    assert index.search(words([5]), 9).ids[0, :4].tolist() == [0, 2, 3, 1]


def test_ids_need_not_ascend_or_be_small() -> None:
    index = HammingIndex(words([5]), 8)
    index.add(words([6, 5, 7]), [2**63 - 1, 1, 40])
    assert index.search(words([5]), 9).ids[0, :5].tolist() == [0, 1, 40, 2**63 - 1, -1]
    with pytest.raises(UsageError, match="there are no 1 after"):
        index.add(words([1]))


def test_an_id_alone_stands_for_a_list_of_it() -> None:
    index = HammingIndex(words([1, 2, 3]), 8)
    assert index.search(words([1]), 3, allow=2).ids.tolist() == [[2, -1, -1]]
    assert index.remove(1) == 1
    assert index.remove(np.int64(7)) == 0
    assert index.ids.tolist() == [0, 2]
    assert repr(index) == "<HammingIndex: 2 codes of 8 bits, scan>"


def test_removed_rows_stay_until_they_are_half_of_all() -> None:
    index = HammingIndex(words(list(range(100))), 8)
    index.remove(range(49))
    assert [(s.codes, s.removed) for s in index.explain().segments] == [(100, 49)]
    index.remove(49)
    assert [(s.codes, s.removed) for s in index.explain().segments] == [(50, 0)]


@pytest.mark.parametrize("wrong", [[1.5], [[1]], "12", [None], True])
def test_wrong_filters_are_refused(wrong: object) -> None:
    index = HammingIndex(words([1, 2, 3]), 8)
    for call in (
        lambda: index.search(words([1]), 1, allow=wrong),  # type: ignore[arg-type]
        lambda: index.search_radius(words([1]), 1, deny=wrong),  # type: ignore[arg-type]
        lambda: index.remove(wrong),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match="it is integers"):
            call()


def test_codes_of_another_length_are_refused_and_nothing_is_added() -> None:
    index = HammingIndex(words([1, 2, 3]), 8)
    with pytest.raises(MismatchError):
        index.add(words([256]))
    with pytest.raises(UsageError, match="twice"):
        index.add(words([1, 2]), [9, 9])
    assert len(index) == 3


def test_filters_take_ids_that_can_not_be_there() -> None:
    index = HammingIndex(words([1, 2, 3]), 8)
    assert index.search(words([1]), 3, allow=[-5, 2**63 - 1, 2, 2, 99]).ids.tolist() == [[2, -1, -1]]
    assert index.search(words([1]), 3, allow=[]).ids.tolist() == [[-1, -1, -1]]
    assert index.search_radius(words([1]), 8, allow=[]).offsets.tolist() == [0, 0]
    assert index.search(words([1]), 1, deny=[]).ids.tolist() == [[0]]


def test_two_search_while_one_adds_and_removes() -> None:
    """Every search sees a whole number of additions: 10 codes each, equal to one another and to the query."""
    rng = np.random.default_rng(1)
    filler = rng.integers(1 << 30, 1 << 40, 30_000, np.uint64)
    index = HammingIndex(filler, 48)
    query, wrong, done = words([0]), [], threading.Event()

    def search() -> None:
        while not done.is_set():
            equal = int(np.count_nonzero(index.search(query, 600).distances == 0))
            near = len(index.search_radius(query, 0).ids)
            if equal % 10 or near % 10:
                wrong.append((equal, near))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        ids = index.add(np.zeros(10, np.uint64))
        if ids[0] % 20 == 0:
            index.remove(ids)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert np.count_nonzero(index.search(query, 600).distances == 0) == len(index) - 30_000
