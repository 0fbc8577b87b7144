"""The bare searcher: exact nearest codes by Hamming distance."""

import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_bits, check_codes
from queryopt.errors import UsageError
from queryopt.runtime.search import scan
from queryopt.runtime.search.core import NUMPY, core_path, load_core
from queryopt.runtime.search.results import RadiusResult, SearchResult

__all__ = ["STRUCTURES", "HammingIndex"]

STRUCTURES: Final = ("auto", "scan", "table", "multi-index")
"""What HammingIndex can keep the codes in; 'auto' is a scan up to 20,000 codes, else a table up to 24 bits, else a
multi-index."""

_MAX_RESULTS = 1 << 28
"""Queries x k of one search: 3 GiB of ids and distances."""

_MAX_NATIVE = (1 << 32) - 1
"""The native core numbers rows with 32 bits."""


class HammingIndex:
    """Exact search by Hamming distance over codes in memory; results come in (distance, id) order.

    codes: uint8 [n, ceil(bits / 8)] or uint64 [n], n >= 0; copied.
    bits: the code length, 1..64.
    ids: unique integers >= 0 [n], in any order; the row numbers if None.
    structure: one of STRUCTURES. All give the same results; they differ in time and memory.
    threads: of the build and of searches for many queries; all of this process's processors if None.

    Raises UsageError for another dtype, shape or k, and MismatchError where padding bits are set (codes of another
    length). Safe to search from several threads at once.
    """

    def __init__(
        self,
        codes: npt.ArrayLike,
        bits: int,
        ids: npt.ArrayLike | None = None,
        *,
        structure: str = "auto",
        threads: int | None = None,
    ) -> None:
        self._bits = check_bits(bits)
        if structure not in STRUCTURES:
            raise UsageError(f"structure is {structure!r}: it is one of {', '.join(STRUCTURES)}")
        self._threads = _check_threads(threads)
        packed = check_codes(codes, self._bits)
        self._count = len(packed)
        self._ids: npt.NDArray[np.int64] | None = None  # of the rows; None where they are the row numbers
        if ids is not None:
            self._ids = _check_ids(ids, len(packed))
            if np.any(self._ids[1:] <= self._ids[:-1]):
                order = np.argsort(self._ids, kind="stable")
                self._ids, packed = self._ids[order], packed[order]
                _check_unique(self._ids)
            if len(packed) == 0 or self._ids[-1] == len(packed) - 1:
                self._ids = None
        path = core_path()
        index = load_core()
        self._core = None
        self._words: scan.Words | None = None  # without the native core
        if index is not None and path != NUMPY and len(packed) < _MAX_NATIVE:
            self._core = index(packed, self._bits, self._ids, structure, path, self._threads)
        else:
            words = scan.to_words(packed)
            # The caller's array must not change under a search.
            self._words = words.copy() if np.may_share_memory(words, np.asarray(codes)) else words

    @property
    def bits(self) -> int:
        """The code length."""
        return self._bits

    @property
    def structure(self) -> str:
        """What the codes are kept in: 'scan', 'table' or 'multi-index'."""
        return self._core.structure if self._core is not None else "scan"

    @property
    def path(self) -> str:
        """What searches run on: 'avx512', 'avx2', 'plain' or 'numpy'."""
        return self._core.path if self._core is not None else NUMPY

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the structure and the ids take."""
        ids = 0 if self._ids is None else self._ids.nbytes
        if self._core is not None:
            return self._core.bytes + ids
        assert self._words is not None
        return self._words.nbytes + ids

    def __len__(self) -> int:
        """How many codes there are."""
        return self._count

    def search(self, codes: npt.ArrayLike, k: int) -> SearchResult:
        """The k nearest codes of each query (codes: uint8 [queries, ceil(bits / 8)] or uint64 [queries]; k >= 0)."""
        # A look-up takes a few microseconds, as much as careful checks: the core says whether it can take the codes.
        if self._core is not None and type(codes) is np.ndarray and codes.ndim and type(k) is int:
            count = len(codes)
            if 0 <= k * count <= _MAX_RESULTS:
                shape = (count, k)
                ids, distances = np.empty(shape, np.int64), np.empty(shape, np.int32)
                if self._core.search(codes, k, ids, distances, self._threads):
                    return SearchResult(ids, distances)
        packed = check_codes(codes, self._bits)
        k = _check_count(k, "k")
        if k * len(packed) > _MAX_RESULTS:
            raise UsageError(
                f"{len(packed)} queries x k = {k} are more than {_MAX_RESULTS} results: ask for fewer at once"
            )
        ids = np.full((len(packed), k), -1, np.int64)
        distances = np.full((len(packed), k), self._bits + 1, np.int32)
        if self._core is not None:
            assert self._core.search(packed, k, ids, distances, self._threads)
        else:
            assert self._words is not None
            for i, (rows, near) in enumerate(scan.nearest(self._words, scan.to_words(packed), k, self._bits)):
                ids[i, : len(rows)] = self._to_ids(rows)
                distances[i, : len(rows)] = near
        return SearchResult(ids, distances)

    def search_radius(self, codes: npt.ArrayLike, radius: int) -> RadiusResult:
        """All codes at a distance <= radius (>= 0) of each query (codes as in `search`)."""
        packed = check_codes(codes, self._bits)
        radius = min(_check_count(radius, "radius"), self._bits)
        if self._core is not None:
            found = self._core.search_radius(packed, radius, self._threads)
            assert found is not None
            return RadiusResult(*found)
        assert self._words is not None
        hits = list(scan.within(self._words, scan.to_words(packed), radius))
        offsets = np.zeros(len(packed) + 1, np.int64)
        np.cumsum([len(rows) for rows, _ in hits], out=offsets[1:])
        ids, distances = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int32)
        for i, (rows, near) in enumerate(hits):
            ids[offsets[i] : offsets[i + 1]] = self._to_ids(rows)
            distances[offsets[i] : offsets[i + 1]] = near
        return RadiusResult(offsets, ids, distances)

    def _to_ids(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return rows if self._ids is None else self._ids[rows]


def _check_threads(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads is {threads!r}: it is an integer >= 1")
    return threads


def _check_count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise UsageError(f"{name} is {value!r}: it is an integer >= 0")
    return int(value)


def _check_ids(ids: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    array = np.asarray(ids)
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (count,):
        raise UsageError(f"ids are {array.dtype} {list(array.shape)}: {count} codes need {count} integers")
    if count and array.min() < 0:
        raise UsageError(f"an id is {array.min()}: ids are >= 0 (-1 stands for 'no result')")
    if count and int(array.max()) > np.iinfo(np.int64).max:
        raise UsageError(f"an id is {array.max()}: the largest is {np.iinfo(np.int64).max}")
    return array.astype(np.int64)


def _check_unique(ids: npt.NDArray[np.int64]) -> None:
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if twice.size:
        raise UsageError(f"id {ids[twice[0]]} is there twice: ids are unique")
