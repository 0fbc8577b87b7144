"""Equal distances ordered by margins, on every structure and instruction path, against a sort of Python integers."""

import threading
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from queryopt.codes import pack_codes
from queryopt.errors import UsageError
from queryopt.runtime.search import HammingIndex, RadiusResult, SearchResult, UnknownMarginsError, core
from queryopt.runtime.search.engines import NumpyEngine
from queryopt.runtime.search.hamming import STRUCTURES

SHARES = (0.0, 0.25, np.inf)
"""How much of a scan's cost a query may spend on look-ups: none, as it is, or all it needs."""

Margins = npt.NDArray[np.int8]


def searcher(path: str, margins: Margins, ids: Any = None, share: float = 0.25, **options: Any) -> HammingIndex:
    """Over the codes that the margins' signs are, with these margins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(core.PATH_VARIABLE, path)
        made = HammingIndex(pack_codes(margins > 0), margins.shape[1], ids, **options)
    for segment in made._state.segments:
        if not isinstance(segment.engine, NumpyEngine):
            segment.engine.share = share
    made.set_margins(np.arange(len(margins)) if ids is None else ids, margins)
    return made


def drawn(bits: int, count: int, largest: int, centres: int, flip: float, rng: np.random.Generator) -> Margins:
    """Margins up to `largest`, whose signs lie in clusters, a fifth of them those of another row."""
    signs = rng.choice([-1, 1], (centres, bits))[rng.integers(0, centres, count)]
    signs[rng.random((count, bits)) < flip] *= -1
    margins = (signs * rng.integers(1, largest + 1, (count, bits))).astype(np.int8)
    again = rng.random(count) < 0.2
    margins[again] = margins[rng.integers(0, max(count, 1), again.sum())]
    return margins


Hit = tuple[int, int, int]


def literal(gallery: dict[int, list[int]], query: list[int]) -> list[Hit]:
    """All (distance, squared distance of margins, id), by the definition."""
    return sorted(
        (
            sum((a > 0) != (b > 0) for a, b in zip(query, margins, strict=True)),
            sum((a - b) ** 2 for a, b in zip(query, margins, strict=True)),
            id,
        )
        for id, margins in gallery.items()
    )


def hits(result: SearchResult | RadiusResult, query: int) -> list[Hit]:
    row = slice(*result.offsets[query : query + 2]) if isinstance(result, RadiusResult) else query
    assert result.scores is not None
    arrays = (result.distances, result.scores, result.ids)
    return list(zip(*(array[row].tolist() for array in arrays), strict=True))


@st.composite
def galleries(draw: st.DrawFn, counts: st.SearchStrategy[int]) -> tuple[Margins, Margins, np.random.Generator]:
    """Margins and those of queries, one of which is among them. Small ones tie; equal signs tie in heaps."""
    bits, count = draw(st.integers(1, 64)), draw(counts)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    largest, centres = draw(st.sampled_from([1, 2, 127])), draw(st.sampled_from([1, 3, 50]))
    margins = drawn(bits, count, largest, centres, draw(st.sampled_from([0.0, 0.02, 0.3])), rng)
    return margins, np.concatenate([margins[:1], drawn(bits, 2, largest, 2, 0.5, rng)]), rng


@settings(max_examples=100)
@given(
    st.sampled_from(core.paths()),
    st.sampled_from(STRUCTURES),
    st.sampled_from(SHARES),
    galleries(st.integers(0, 120)),
    st.data(),
)
def test_equals_a_literal_sort(
    path: str, structure: str, share: float, drawn: tuple[Margins, Margins, np.random.Generator], data: st.DataObject
) -> None:
    margins, queries, rng = drawn
    (count, bits), codes = margins.shape, pack_codes(queries > 0)
    ids = rng.permutation(2 * count + 1)[:count] if data.draw(st.booleans()) else np.arange(count)
    gallery = dict(zip(ids.tolist(), margins.tolist(), strict=True))
    only: dict[str, Any] = {}
    if filtered := data.draw(st.sampled_from(["", "allow", "deny"])):
        some = ids[rng.random(count) < data.draw(st.sampled_from([0.02, 0.5]))]
        only = {filtered: some}
        gallery = {id: gallery[id] for id in gallery if (id in some) == (filtered == "allow")}
    index = searcher(path, margins, ids, share, structure=structure, threads=2)
    expected = [literal(gallery, query) for query in queries.tolist()]
    for k in {1, data.draw(st.integers(0, count + 3))}:
        found = index.search(codes, k, margins=queries, rank="margin", **only)
        alone = index.search(codes[-1:], k, margins=queries[-1:], rank="margin", **only)
        padded = [(every + [(bits + 1, -1, -1)] * k)[:k] for every in expected]
        assert [hits(found, i) for i in range(len(queries))] == padded
        assert hits(alone, 0) == padded[-1]
    radius = data.draw(st.integers(0, bits))
    near = index.search_radius(codes, radius, margins=queries, **only)
    within = [[hit for hit in every if hit[0] <= radius] for every in expected]
    assert [hits(near, i) for i in range(len(queries))] == within
    assert hits(index.search_radius(codes[-1:], radius, margins=queries[-1:], **only), 0) == within[-1]


@settings(max_examples=40)
@given(
    st.sampled_from(core.paths()[:-1]),
    st.sampled_from(STRUCTURES),
    st.sampled_from(SHARES),
    galleries(st.integers(250, 4000)),
)
def test_equals_numpy(
    path: str, structure: str, share: float, drawn: tuple[Margins, Margins, np.random.Generator]
) -> None:
    margins, queries, rng = drawn
    codes, allow = pack_codes(queries > 0), np.flatnonzero(rng.random(len(margins)) < 0.4)
    native, numpy = searcher(path, margins, share=share, structure=structure), searcher("numpy", margins)
    for k, only in ((1, None), (10, None), (10, allow), (len(margins), None)):
        one, two = (index.search(codes, k, margins=queries, rank="margin", allow=only) for index in (native, numpy))
        assert [hits(one, i) for i in range(len(queries))] == [hits(two, i) for i in range(len(queries))]


@pytest.mark.parametrize("path", core.paths())
def test_a_code_that_is_there_finds_itself_first(path: str) -> None:
    margins = drawn(12, 3000, 127, 1, 0.0, np.random.default_rng(1))
    margins = np.unique(margins, axis=0)[::-1].copy()
    index = searcher(path, margins)
    rows = np.arange(0, len(margins), 97)
    found = index.search(pack_codes(margins[rows] > 0), 2, margins=margins[rows], rank="margin")
    assert found.ids[:, 0].tolist() == rows.tolist()
    assert not found.distances.any()
    assert found.scores is not None
    assert not found.scores[:, 0].any()
    assert found.scores[:, 1].all()


@pytest.mark.parametrize("path", core.paths())
def test_margins_stay_with_their_codes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through added, removed and replaced codes, in segments of their own and merged into others."""
    monkeypatch.setenv(core.PATH_VARIABLE, path)
    rng = np.random.default_rng(3)
    bits = 17
    margins, queries = drawn(bits, 300, 9, 2, 0.05, rng), drawn(bits, 2, 9, 2, 0.05, rng)
    codes = pack_codes(margins > 0)
    index = HammingIndex(codes[:200], bits)
    index.set_margins(np.arange(299, -1, -1), margins[::-1])  # 200 to 299 are not there
    gallery = dict(enumerate(margins[:200].tolist()))

    def check() -> None:
        found = index.search(pack_codes(queries > 0), 40, margins=queries, rank="margin")
        assert [hits(found, i) for i in range(2)] == [literal(gallery, query)[:40] for query in queries.tolist()]

    check()
    index.remove(np.arange(0, 50))
    gallery = {id: of for id, of in gallery.items() if id >= 50}
    check()
    index.add(codes[200:260], np.arange(900, 960))
    index.set_margins(np.arange(900, 960), margins[200:260])
    gallery |= dict(zip(range(900, 960), margins[200:260].tolist(), strict=True))
    check()
    index.replace([60, 61], codes[[298, 299]], [60, 61])
    index.set_margins([61, 60], margins[[299, 298]])
    gallery |= {60: margins[298].tolist(), 61: margins[299].tolist()}
    check()
    index.remove(np.arange(100, 200))
    gallery = {id: of for id, of in gallery.items() if not 100 <= id < 200}
    index.compact()
    check()
    index.restructure("multi-index")
    check()


@pytest.mark.parametrize("path", core.paths())
def test_names_codes_without_margins(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(core.PATH_VARIABLE, path)
    margins = np.array([[5, 5, 5], [4, 4, 4], [-3, 3, 3], [-3, -3, -3]], np.int8)
    index = HammingIndex(pack_codes(margins > 0), 3, [10, 20, 30, 40])
    with pytest.raises(UnknownMarginsError, match=r"^2 codes that may be .* \(the first is id 10\) have no") as raised:
        index.search(pack_codes(margins[:1] > 0), 1, margins=margins[:1], rank="margin")
    assert raised.value.ids.tolist() == [10, 20]
    with pytest.raises(UnknownMarginsError) as raised:
        index.search_radius(pack_codes(margins[:2] > 0), 1, margins=margins[:2])
    assert raised.value.ids.tolist() == [10, 20, 30]
    index.set_margins([20, 10], margins[[1, 0]])
    assert index.search(pack_codes(margins[:1] > 0), 2, margins=margins[:1], rank="margin").ids.tolist() == [[10, 20]]
    # What has margins keeps them.
    index.set_margins([20, 10], margins[[0, 1]])
    assert index.search(pack_codes(margins[:1] > 0), 1, margins=margins[:1], rank="margin").ids.tolist() == [[10]]


@pytest.mark.parametrize("path", core.paths())
def test_searches_while_margins_come(path: str) -> None:
    """Each search is right, or says what it lacks."""
    rng = np.random.default_rng(5)
    margins = drawn(33, 20_000, 127, 3, 0.02, rng)
    codes, rows = pack_codes(margins > 0), rng.permutation(len(margins))
    whole = searcher(path, margins).search(codes[:40], 20, margins=margins[:40], rank="margin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(core.PATH_VARIABLE, path)
        index = HammingIndex(codes, 33)
    found: list[SearchResult] = []

    def search() -> None:
        while len(found) < 3:
            try:
                found.append(index.search(codes[:40], 20, margins=margins[:40], rank="margin"))
            except UnknownMarginsError as missing:
                some = missing.ids[: max(len(missing.ids) // 3, 1)]
                index.set_margins(some, margins[some])

    def fill() -> None:
        for some in np.array_split(rows, 50):
            index.set_margins(some, margins[some])

    threads = [threading.Thread(target=target) for target in (search, search, fill)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in found:
        assert [hits(one, i) for i in range(40)] == [hits(whole, i) for i in range(40)]


def test_arguments() -> None:
    margins = np.array([[3, -2, 1], [1, 1, -1]], np.int8)
    index, codes = HammingIndex(pack_codes(margins > 0), 3), pack_codes(margins > 0)
    with pytest.raises(UsageError, match=r"^margins are none: 2 codes need int8 \[2, 3\]$"):
        index.search(codes, 1, rank="margin")
    with pytest.raises(UsageError, match=r"^margins are float32 \[2, 3\]"):
        index.search(codes, 1, margins=margins.astype(np.float32), rank="margin")
    with pytest.raises(UsageError, match=r"^margins are int8 \[1, 3\]: 2 codes need"):
        index.search_radius(codes, 1, margins=margins[:1])
    with pytest.raises(UsageError, match="row 1: the margin of bit 2 is 0"):
        index.set_margins([0, 1], margins * np.array([[1, 1, 1], [1, 1, 0]], np.int8))
    with pytest.raises(UsageError, match=r"^margins are int8 \[2, 3\]: 1 code needs"):
        index.set_margins([0], margins)
    with pytest.raises(UsageError, match="rank is 'nearest': it is one of margin, id, weighted, tiebreak"):
        index.search(codes, 1, rank="nearest")  # type: ignore[arg-type]
    # The former name of 'id'.
    assert index.search(codes, 2, rank="hamming").ids.tolist() == index.search(codes, 2).ids.tolist()
