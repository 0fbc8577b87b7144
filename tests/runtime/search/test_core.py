"""Every structure on every instruction path of the native core, against the searcher in NumPy."""

import logging
import re
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from queryopt.errors import UsageError
from queryopt.runtime.search import HammingIndex, RadiusResult, SearchResult, core
from queryopt.runtime.search.hamming import STRUCTURES

NATIVE = core.paths()[:-1]
SHARES = (0.0, 0.25, np.inf)
"""How much of a scan's cost a query may spend on look-ups: none, as it is, or all it needs."""


def searcher(path: str, codes: npt.NDArray[Any], bits: int, ids: Any = None, **options: Any) -> HammingIndex:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(core.PATH_VARIABLE, path)
        made = HammingIndex(codes, bits, ids, **options)
    assert made.path == path
    return made


def clustered(bits: int, count: int, centres: int, flip: float, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    centre = rng.integers(0, 2**bits, centres, np.uint64, endpoint=False)
    flips = (rng.random((count, bits)) < flip).astype(np.uint64) << np.arange(bits, dtype=np.uint64)
    codes: npt.NDArray[np.uint64] = centre[rng.integers(0, centres, count)] ^ np.bitwise_or.reduce(flips, axis=1)
    return codes


@st.composite
def galleries(draw: st.DrawFn) -> tuple[int, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """(bits, codes, queries): spread evenly, in clusters, or nearly all equal; queries among them and anywhere."""
    bits, count = draw(st.integers(1, 64)), draw(st.integers(0, 60) | st.integers(0, 5000))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centres = draw(st.sampled_from([1, 3, 50, 5000]))
    codes = clustered(bits, count, centres, draw(st.sampled_from([0.0, 0.001, 0.05, 0.15, 0.5])), rng)
    queries = np.concatenate([codes[:2], clustered(bits, 2, 2, 0.5, rng)])
    return bits, codes, queries


Result = SearchResult | RadiusResult


def same(one: Result, two: Result) -> None:
    if isinstance(one, RadiusResult):
        assert isinstance(two, RadiusResult)
        np.testing.assert_array_equal(one.offsets, two.offsets)
    np.testing.assert_array_equal(one.ids, two.ids)
    np.testing.assert_array_equal(one.distances, two.distances)


def same_search(one: HammingIndex, two: HammingIndex, queries: npt.NDArray[np.uint64], k: int) -> None:
    same(one.search(queries, k), two.search(queries, k))


def same_radius(one: HammingIndex, two: HammingIndex, queries: npt.NDArray[np.uint64], radius: int) -> None:
    same(one.search_radius(queries, radius), two.search_radius(queries, radius))


def test_the_native_core_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(core.PATH_VARIABLE, raising=False)
    assert NATIVE[-1:] == ("plain",)
    assert HammingIndex(np.zeros((3, 1), np.uint8), 8).path == NATIVE[0]


@settings(max_examples=120)
@given(galleries(), st.sampled_from(NATIVE), st.sampled_from(STRUCTURES), st.sampled_from(SHARES), st.data())
def test_equals_numpy(
    gallery: tuple[int, npt.NDArray[np.uint64], npt.NDArray[np.uint64]],
    path: str,
    structure: str,
    share: float,
    data: st.DataObject,
) -> None:
    bits, codes, queries = gallery
    ids = None
    if data.draw(st.booleans()):
        ids = np.random.default_rng(len(codes)).permutation(2 * len(codes) + 1)[: len(codes)]
    threads = data.draw(st.integers(1, 3))
    native = searcher(path, codes, bits, ids, structure=structure, threads=threads)
    if native._state.core is not None:
        native._state.core.share = share
    numpy = searcher("numpy", codes, bits, ids)
    for k in {1, 10, data.draw(st.integers(0, len(codes) + 3))}:
        same_search(native, numpy, queries, k)
        same_search(native, numpy, queries[:1], k)
    for radius in {2, data.draw(st.integers(0, bits + 2))}:
        same_radius(native, numpy, queries, radius)


def near_and_many(index: HammingIndex, queries: npt.NDArray[np.uint64]) -> list[Result]:
    return [index.search(queries[:20], 1000), index.search(queries, 10), index.search_radius(queries[:20], 3)]


def far(index: HammingIndex, queries: npt.NDArray[np.uint64]) -> list[Result]:
    return [index.search(queries[-20:], 10), index.search_radius(queries[-20:], index.bits // 4)]


@cache
def large(bits: int, flip: float) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], list[Result], list[Result]]:
    """Codes, queries, and what NumPy finds, once for all paths."""
    rng = np.random.default_rng(bits)
    codes = clustered(bits, 60_000, 20, flip, rng)
    queries = np.concatenate([codes[:300], clustered(bits, 20, 20, 0.5, rng)])
    numpy = searcher("numpy", codes, bits)
    return codes, queries, near_and_many(numpy, queries), far(numpy, queries)


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize(
    ("bits", "flip"), [(12, 0.05), (20, 0.05), (24, 0.5), (32, 0.05), (48, 0.05), (57, 0.5), (64, 0.15)]
)
def test_large_enough_for_every_structure_of_its_own_accord(path: str, bits: int, flip: float) -> None:
    """Buckets of many codes, several shells, batches over several threads: what a few thousand codes don't reach."""
    codes, queries, expected, expected_far = large(bits, flip)
    native = searcher(path, codes, bits, threads=2)
    assert native.structure == ("table" if bits <= 24 else "multi-index")
    for one, two in zip(near_and_many(native, queries), expected, strict=True):
        same(one, two)
    # Shells further out than it would look on its own.
    assert native._state.core is not None
    native._state.core.share = np.inf
    for one, two in zip(far(native, queries), expected_far, strict=True):
        same(one, two)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_all_codes_but_one_equal(structure: str) -> None:
    codes = np.full(50_000, 0xFFFF00, np.uint64)
    codes[31_000] = 1
    index = HammingIndex(codes, 48, structure=structure)
    far = index.search(np.array([1], np.uint64), 3)
    assert far.ids.tolist() == [[31_000, 0, 1]]
    assert far.distances.tolist() == [[0, 17, 17]]
    assert index.search(codes[:1], 50_000).ids[0, [0, 30_999, 31_000, -1]].tolist() == [0, 30_999, 31_001, 31_000]


@pytest.mark.usefixtures("native_core")
@pytest.mark.parametrize("bits", [12, 24, 48])
def test_duplicates_are_kept_once(bits: int) -> None:
    codes = np.repeat(np.arange(300, dtype=np.uint64), 100)
    assert HammingIndex(codes, bits, structure="scan").nbytes >= 30_000
    index = HammingIndex(codes, bits)
    assert index._state.core is not None
    assert index.explain().unique == 300


@pytest.mark.parametrize("path", core.paths())
def test_explain_says_in_words_what_was_compared(path: str) -> None:
    codes = np.full(15_000, 5, np.uint64)
    index = searcher(path, codes, 12)
    index.remove(range(5000))
    first, segment, near, far = str(index.explain(np.array([5, 4095], np.uint64), k=10)).splitlines()
    assert first.startswith("10,000 codes of 12 bits, ")
    assert segment.startswith(
        "  scan: 15,000 rows, 5,000 of them removed (passed over until they are half of the rows), "
    )
    if path == "numpy":
        assert (near, far) == tuple(f"  query {i}: scanned: compared with 10,000 codes" for i in (0, 1))
        return
    assert re.fullmatch(r"  query 0: scanned: compared with [\d,]+ codes: no other could come before those found", near)
    assert far == "  query 1: scanned: compared with 15,000 codes"
    many = np.random.default_rng(0).integers(0, 1 << 24, 30_000).astype(np.uint64)
    _, table, query = str(searcher(path, many, 24).explain(many[:1], k=1)).splitlines()
    assert re.match(r"  table: 30,000 rows, 29,972 distinct codes, ", table)
    assert re.fullmatch(r"  query 0: looked up 1 bucket in \d steps?, compared with \d codes?", query)
    # All of them: look-ups would be in vain, or come before the scan.
    _, _, query = str(searcher(path, many, 24).explain(many[:1], k=30_000)).splitlines()
    assert re.fullmatch(r"  query 0: (scanned|looked up .*, then scanned, .*): compared with .* codes( in all)?", query)


def test_searches_from_many_threads_at_once() -> None:
    rng = np.random.default_rng(3)
    codes = clustered(40, 30_000, 10, 0.1, rng)
    index = HammingIndex(codes, 40, threads=2)
    expected = index.search(codes[:400], 7).ids
    wrong: list[int] = []

    def search(start: int) -> None:
        for i in range(start, 400, 4):
            if not np.array_equal(index.search(codes[i : i + 1], 7).ids[0], expected[i]):
                wrong.append(i)
        if not np.array_equal(index.search(codes[:400], 7).ids, expected):
            wrong.append(-1)

    threads = [threading.Thread(target=search, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_unknown_path_or_structure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.zeros((3, 1), np.uint8)
    with pytest.raises(UsageError, match="structure is 'tree': it is one of auto, scan"):
        HammingIndex(codes, 8, structure="tree")
    with pytest.raises(UsageError, match="threads is 0"):
        HammingIndex(codes, 8, threads=0)
    monkeypatch.setenv(core.PATH_VARIABLE, "sse9")
    with pytest.raises(UsageError, match=r"QUERYOPT_SEARCH_PATH is 'sse9'.*plain, numpy"):
        HammingIndex(codes, 8)


def test_without_the_native_core_numpy_searches_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(core.PATH_VARIABLE, raising=False)
    code = (
        "import sys, numpy as np\n"
        "sys.modules['queryopt.runtime.search._core'] = None\n"
        "from queryopt.runtime.search import HammingIndex\n"
        "for _ in range(2):\n"
        "    index = HammingIndex(np.arange(100, dtype=np.uint64), 48)\n"
        "print(index.path, index.structure, index.search(np.array([5], np.uint64), 2).ids.tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["numpy", "scan", "[[5,", "1]]"]
    assert done.stderr.count("native search core is not there") == 1


def test_with_the_native_core_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    core.load_core.cache_clear()
    with caplog.at_level(logging.WARNING, "queryopt"):
        HammingIndex(np.zeros((3, 1), np.uint8), 8)
    assert not caplog.records
