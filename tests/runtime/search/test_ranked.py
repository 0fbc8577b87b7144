"""Ranking by weights, on every structure and instruction path, against a sort of Python integers."""

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from queryopt.errors import UsageError
from queryopt.runtime.search import HammingIndex, SearchResult, core, ranked
from queryopt.runtime.search.engines import NumpyEngine
from queryopt.runtime.search.hamming import STRUCTURES

RANKED: tuple[ranked.Rank, ...] = ("weighted", "tiebreak")
SHARES = (0.0, 0.25, np.inf)
"""How much of a scan's cost a query may spend on look-ups: none, as it is, or all it needs."""

Codes = npt.NDArray[np.uint64]


def searcher(path: str, codes: Codes, bits: int, ids: Any = None, share: float = 0.25, **options: Any) -> HammingIndex:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(core.PATH_VARIABLE, path)
        made = HammingIndex(codes, bits, ids, **options)
    for segment in made._state.segments:
        if not isinstance(segment.engine, NumpyEngine):
            segment.engine.share = share
    return made


def clustered(bits: int, count: int, centres: int, flip: float, rng: np.random.Generator) -> Codes:
    centre = rng.integers(0, 2**bits, centres, np.uint64, endpoint=False)
    flips = (rng.random((count, bits)) < flip).astype(np.uint64) << np.arange(bits, dtype=np.uint64)
    codes: Codes = centre[rng.integers(0, centres, count)] ^ np.bitwise_or.reduce(flips, axis=1)
    return codes


def some_logits(kind: str, count: int, bits: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """'normal', or with what makes ties: 'few' values, 'equal' ones, or only 'zero'."""
    logits = rng.normal(size=(count, bits)).astype(np.float32)
    return {"normal": logits, "few": np.rint(2 * logits), "equal": np.sign(logits), "zero": 0 * logits}[kind]


def literal(
    codes: dict[int, int], query: int, weights: list[int], k: int, rank: str, bits: int
) -> list[tuple[int, int, int]]:
    """The first k of {id: code} as (id, distance, score), by the definition."""
    rows = []
    for id, code in codes.items():
        differ = [i for i in range(bits) if (code ^ query) >> i & 1]
        w, distance = sum(weights[i] for i in differ), len(differ)
        rows.append(((w, distance, id) if rank == "weighted" else (distance, w, id), id, distance, w))
    found = [(id, distance, w) for _, id, distance, w in sorted(rows)[:k]]
    return found + [(-1, bits + 1, -1)] * (k - len(found))


def triples(result: SearchResult, query: int) -> list[tuple[int, int, int]]:
    assert result.scores is not None
    arrays = (result.ids, result.distances, result.scores)
    return list(zip(*(array[query].tolist() for array in arrays), strict=True))


def same(one: SearchResult, two: SearchResult) -> None:
    assert one.scores is not None
    assert two.scores is not None
    np.testing.assert_array_equal(one.scores, two.scores)
    np.testing.assert_array_equal(one.distances, two.distances)
    np.testing.assert_array_equal(one.ids, two.ids)


@settings(max_examples=100)
@given(st.sampled_from(core.paths()), st.sampled_from(STRUCTURES), st.sampled_from(SHARES), st.data())
def test_equals_a_literal_sort(path: str, structure: str, share: float, data: st.DataObject) -> None:
    bits, count = data.draw(st.integers(1, 64)), data.draw(st.integers(0, 250))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    codes = clustered(bits, count, data.draw(st.sampled_from([1, 3, 50])), data.draw(st.sampled_from([0.0, 0.1])), rng)
    queries = np.concatenate([codes[:1], clustered(bits, 2, 2, 0.5, rng)])
    logits = some_logits(data.draw(st.sampled_from(["normal", "few", "equal", "zero"])), len(queries), bits, rng)
    ids = rng.permutation(2 * count + 1)[:count] if data.draw(st.booleans()) else np.arange(count)
    only: dict[str, Any] = {}
    gallery = dict(zip(ids.tolist(), codes.tolist(), strict=True))
    filtered = data.draw(st.sampled_from(["", "allow", "deny"]))
    if filtered:
        some = ids[rng.random(count) < data.draw(st.sampled_from([0.02, 0.5]))]
        only = {filtered: some}
        gallery = {id: gallery[id] for id in gallery if (id in some) == (filtered == "allow")}
    index = searcher(path, codes, bits, ids, share, structure=structure, threads=2)
    weights = ranked.quantise(logits, bits).tolist()
    for rank in RANKED:
        for k in {0, 1, data.draw(st.integers(0, count + 3))}:
            found = index.search(queries, k, logits=logits, rank=rank, **only)
            alone = index.search(queries[-1:], k, logits=logits[-1:], rank=rank, **only)
            expected = [literal(gallery, query, weights[i], k, rank, bits) for i, query in enumerate(queries.tolist())]
            assert [triples(found, i) for i in range(len(queries))] == expected
            assert triples(alone, 0) == expected[-1]


@settings(max_examples=60)
@given(st.sampled_from(core.paths()[:-1]), st.sampled_from(STRUCTURES), st.sampled_from(SHARES), st.data())
def test_equals_numpy(path: str, structure: str, share: float, data: st.DataObject) -> None:
    bits, count = data.draw(st.integers(1, 64)), data.draw(st.integers(250, 3000))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    flip = data.draw(st.sampled_from([0.0, 0.001, 0.05, 0.15, 0.5]))
    codes = clustered(bits, count, data.draw(st.sampled_from([1, 3, 50])), flip, rng)
    queries = np.concatenate([codes[:2], clustered(bits, 2, 2, 0.5, rng)])
    logits = some_logits(data.draw(st.sampled_from(["normal", "few", "equal", "zero"])), len(queries), bits, rng)
    native = searcher(path, codes, bits, share=share, structure=structure)
    numpy = searcher("numpy", codes, bits)
    allow = np.flatnonzero(rng.random(count) < 0.3) if data.draw(st.booleans()) else None
    for rank in RANKED:
        for k in {10, data.draw(st.integers(0, count + 3))}:
            same(*(index.search(queries, k, logits=logits, rank=rank, allow=allow) for index in (native, numpy)))


Logits = npt.NDArray[np.float32]


@cache
def close_together(kind: str) -> tuple[Codes, Codes, Logits, dict[tuple[ranked.Rank, int], SearchResult]]:
    """Codes, queries with their logits, and what NumPy finds by rank and k, once for all structures and paths."""
    rng = np.random.default_rng(8)
    codes = clustered(20, 4000, 4000, 0.5, rng)
    queries = clustered(20, 8, 8, 0.5, rng)
    logits = some_logits(kind, 8, 20, rng)
    numpy = searcher("numpy", codes, 20)
    asked = [(rank, k) for rank in RANKED for k in (1, 30, 500)]
    return codes, queries, logits, {(r, k): numpy.search(queries, k, logits=logits, rank=r) for r, k in asked}


@pytest.mark.parametrize("path", core.paths()[:-1])
@pytest.mark.parametrize("structure", STRUCTURES[1:])
@pytest.mark.parametrize("kind", ["normal", "few", "equal", "zero"])
def test_keys_that_lie_close_together(path: str, structure: str, kind: str) -> None:
    """Keys one apart, and many equal ones: by weights of zero a code at the k-th distance less one must not be lost."""
    codes, queries, logits, expected = close_together(kind)
    for share in (0.0, np.inf):
        native = searcher(path, codes, 20, share=share, structure=structure)
        for (rank, k), result in expected.items():
            same(native.search(queries, k, logits=logits, rank=rank), result)


@cache
def large(bits: int, flip: float) -> tuple[Codes, Codes, Logits, dict[tuple[ranked.Rank, int, int], SearchResult]]:
    """Codes, queries with their logits, and what NumPy finds by rank, number of queries and k, once for all paths."""
    rng = np.random.default_rng(bits)
    codes = clustered(bits, 60_000, 20, flip, rng)
    queries = np.concatenate([codes[:30], clustered(bits, 20, 20, 0.5, rng)])
    logits = some_logits("normal", len(queries), bits, rng)
    numpy = searcher("numpy", codes, bits)
    asked = [(rank, count, k) for rank in RANKED for count, k in ((len(queries), 10), (5, 700))]
    expected = {(r, n, k): numpy.search(queries[:n], k, logits=logits[:n], rank=r) for r, n, k in asked}
    return codes, queries, logits, expected


@pytest.mark.parametrize("path", core.paths()[:-1])
@pytest.mark.parametrize(("bits", "flip"), [(12, 0.05), (20, 0.05), (32, 0.05), (48, 0.05), (48, 0.5), (64, 0.15)])
def test_large_enough_for_every_structure_of_its_own_accord(path: str, bits: int, flip: float) -> None:
    """Buckets of many codes, many levels, batches over several threads: what a few thousand codes don't reach."""
    codes, queries, logits, expected = large(bits, flip)
    for share in SHARES:
        native = searcher(path, codes, bits, share=share, threads=2)
        assert native.structure == ("table" if bits <= 24 else "multi-index")
        for (rank, count, k), result in expected.items():
            same(native.search(queries[:count], k, logits=logits[:count], rank=rank), result)


@pytest.mark.parametrize("path", core.paths())
@pytest.mark.parametrize("structure", STRUCTURES)
def test_more_equal_keys_than_are_kept(path: str, structure: str) -> None:
    """All 134,596 codes with six of 24 bits set are equally far from zero; and so are many from other queries."""
    words = np.arange(1 << 24, dtype=np.uint32)
    codes = words[np.bitwise_count(words) == 6].astype(np.uint64)
    codes = np.random.default_rng(0).permutation(codes)
    index = searcher(path, codes, 24, structure=structure)
    for rank in RANKED:
        for logits in (np.zeros((1, 24)), np.ones((1, 24))):
            found = index.search(np.zeros(1, np.uint64), 5, logits=logits, rank=rank)
            assert triples(found, 0) == [(i, 6, 6 * 1023 * int(logits[0, 0])) for i in range(5)]
        # Only bit 0 matters: all with that bit set come first or last, in the order of ids among equal distances.
        first = index.search(np.ones(1, np.uint64), 5, logits=np.eye(1, 24), rank=rank)
        assert first.ids[0].tolist() == np.flatnonzero(codes & 1)[:5].tolist()
        assert first.distances.tolist() == [[5] * 5]
        assert first.scores is not None
        assert first.scores.tolist() == [[0] * 5]


def test_the_order_is_by_score_or_only_among_equal_distances() -> None:
    index = HammingIndex(np.array([0b0111, 0b1000, 0b0001, 0b1000, 0b0100], np.uint64), 4, [9, 8, 7, 6, 5])
    search = {"codes": np.zeros((1, 1), np.uint8), "k": 5, "logits": [[0.1, -0.1, 0.2, 1.0]]}
    weighted = index.search(**search, rank="weighted")  # type: ignore[arg-type]
    assert triples(weighted, 0) == [(7, 1, 102), (5, 1, 205), (9, 3, 409), (6, 1, 1023), (8, 1, 1023)]
    tiebreak = index.search(**search, rank="tiebreak")  # type: ignore[arg-type]
    assert triples(tiebreak, 0) == [(7, 1, 102), (5, 1, 205), (6, 1, 1023), (8, 1, 1023), (9, 3, 409)]
    plain = index.search(**search)  # type: ignore[arg-type]
    assert plain.ids.tolist() == [[5, 6, 7, 8, 9]]
    assert plain.scores is None


@pytest.mark.parametrize("path", core.paths())
@pytest.mark.parametrize("rank", RANKED)
def test_codes_added_and_removed(path: str, rank: ranked.Rank) -> None:
    rng = np.random.default_rng(5)
    codes = clustered(20, 400, 5, 0.2, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("queryopt.runtime.search.hamming._SCAN_UP_TO", 0)  # segments of so few codes would be merged
        index = searcher(path, codes[:360], 20)
        index.add(codes[360:395])
        index.add(codes[395:])
    assert len(index._state.segments) == 2
    gone = np.arange(0, 400, 7)
    index.remove(gone)
    gallery = {id: int(codes[id]) for id in range(400) if id not in gone}
    logits = some_logits("few", 1, 20, rng)
    weights = ranked.quantise(logits, 20)[0].tolist()
    for k in (3, 50, 500):
        found = index.search(codes[:1], k, logits=logits, rank=rank)
        assert triples(found, 0) == literal(gallery, int(codes[0]), weights, k, rank, 20)
    assert index.search(codes[:1], 3, logits=logits, rank=rank, allow=[]).ids.tolist() == [[-1, -1, -1]]


def test_searches_from_many_threads_at_once() -> None:
    """The first of them measures what ranked searches cost, while the others wait for it."""
    rng = np.random.default_rng(3)
    codes = clustered(40, 30_000, 10, 0.1, rng)
    logits = some_logits("normal", 100, 40, rng)
    expected = searcher("numpy", codes, 40).search(codes[:100], 7, logits=logits, rank="weighted")
    index = HammingIndex(codes, 40, threads=2)

    def search(start: int) -> None:
        rows = slice(start, None, 4)
        found = index.search(codes[:100][rows], 7, logits=logits[rows], rank="weighted")
        np.testing.assert_array_equal(found.ids, expected.ids[rows])
        alone = index.search(codes[start : start + 1], 7, logits=logits[start : start + 1], rank="weighted")
        np.testing.assert_array_equal(alone.ids, expected.ids[start : start + 1])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(search, range(4)))


@pytest.mark.usefixtures("native_core")
def test_explain_says_what_a_ranked_search_did() -> None:
    codes = clustered(48, 30_000, 100, 0.05, np.random.default_rng(1))
    index = HammingIndex(codes, 48)
    cost = index.explain(codes[:1], 1, logits=np.ones((1, 48)), rank="weighted").costs[0]
    assert not cost.scanned
    assert 0 < cost.codes < 30_000
    assert 0 < cost.shells <= cost.buckets


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=64))
def test_weights_are_those_of_exact_arithmetic(logits: list[float]) -> None:
    largest = max(abs(Fraction(x)) for x in logits)
    expected = [round(1023 * abs(Fraction(x)) / largest) if largest else 0 for x in logits]
    for dtype in (np.float32, np.float64):
        assert ranked.quantise(np.array([logits], dtype), len(logits))[0].tolist() == expected


def test_weights_round_halves_to_even_and_are_each_querys_own() -> None:
    logits = [[2046.0, 1.0, 3.0, -5.0], [0.0] * 4, [-1.0, 0.0, 1.0, 0.5]]
    assert ranked.quantise(logits, 4).tolist() == [[1023, 0, 2, 2], [0, 0, 0, 0], [1023, 0, 1023, 512]]
    assert ranked.quantise(np.array([[-127, 127, 1, 64]], np.int8), 4).tolist() == [[1023, 1023, 8, 516]]
    assert ranked.quantise(np.empty((0, 3)), 3).shape == (0, 3)


@pytest.mark.parametrize("path", core.paths())
def test_what_can_not_be_ranked_is_refused(path: str) -> None:
    index = searcher(path, np.arange(9, dtype=np.uint64), 4)
    query = np.zeros((1, 1), np.uint8)
    for bad in (np.nan, np.inf, -np.inf, 1e300):
        with pytest.raises(UsageError, match="query 1 hold NaN or infinity"):
            index.search(query.repeat(2, 0), 1, logits=[[1.0, 2.0, 3.0, 4.0], [1.0, bad, 0.0, 0.0]], rank="weighted")
    with pytest.raises(UsageError, match="'tiebreak' needs the queries' logits"):
        index.search(query, 1, rank="tiebreak")
    with pytest.raises(UsageError, match="rank is 'best': it is one of margin, id, weighted, tiebreak"):
        index.search(query, 1, rank="best")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"logits are float64 \[1, 3\]: give real numbers \[queries, 4\]"):
        index.search(query, 1, logits=np.ones((1, 3)), rank="weighted")
    with pytest.raises(UsageError, match="logits of 2 queries, and 1 codes"):
        index.search(query, 1, logits=np.ones((2, 4)), rank="weighted")
