"""The bare searcher: exact nearest codes by Hamming distance."""

from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_bits, check_codes
from queryopt.errors import UsageError
from queryopt.runtime.search import scan
from queryopt.runtime.search.results import RadiusResult, SearchResult

__all__ = ["HammingIndex"]

_MAX_RESULTS = 1 << 28
"""Queries x k of one search: 3 GiB of ids and distances."""


class HammingIndex:
    """Exact search by Hamming distance over codes in memory; results come in (distance, id) order.

    codes: uint8 [n, ceil(bits / 8)] or uint64 [n], n >= 0; copied.
    bits: the code length, 1..64.
    ids: unique integers >= 0 [n], in any order; the row numbers if None.

    Raises UsageError for another dtype, shape or k, and MismatchError where padding bits are set (codes of another
    length). Safe to search from several threads at once.
    """

    def __init__(self, codes: npt.ArrayLike, bits: int, ids: npt.ArrayLike | None = None) -> None:
        self._bits = check_bits(bits)
        words = scan.to_words(check_codes(codes, self._bits))
        if ids is None:
            self._ids = np.arange(len(words), dtype=np.int64)
        else:
            self._ids = _check_ids(ids, len(words))
            if np.any(self._ids[1:] <= self._ids[:-1]):
                order = np.argsort(self._ids, kind="stable")
                self._ids, words = self._ids[order], words[order]
                _check_unique(self._ids)
        # The caller's array must not change under a search.
        self._words: scan.Words = words.copy() if np.may_share_memory(words, np.asarray(codes)) else words

    @property
    def bits(self) -> int:
        """The code length."""
        return self._bits

    def __len__(self) -> int:
        """How many codes there are."""
        return len(self._words)

    def search(self, codes: npt.ArrayLike, k: int) -> SearchResult:
        """The k nearest codes of each query (codes: uint8 [queries, ceil(bits / 8)] or uint64 [queries]; k >= 0)."""
        queries = self._queries(codes)
        k = _check_count(k, "k")
        if k * len(queries) > _MAX_RESULTS:
            raise UsageError(
                f"{len(queries)} queries x k = {k} are more than {_MAX_RESULTS} results: ask for fewer at once"
            )
        ids = np.full((len(queries), k), -1, np.int64)
        distances = np.full((len(queries), k), self._bits + 1, np.int32)
        for i, (rows, near) in enumerate(scan.nearest(self._words, queries, k, self._bits)):
            ids[i, : len(rows)] = self._ids[rows]
            distances[i, : len(rows)] = near
        return SearchResult(ids, distances)

    def search_radius(self, codes: npt.ArrayLike, radius: int) -> RadiusResult:
        """All codes at a distance <= radius (>= 0) of each query (codes as in `search`)."""
        queries = self._queries(codes)
        radius = min(_check_count(radius, "radius"), self._bits)
        hits = list(scan.within(self._words, queries, radius))
        offsets = np.zeros(len(queries) + 1, np.int64)
        np.cumsum([len(rows) for rows, _ in hits], out=offsets[1:])
        ids, distances = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int32)
        for i, (rows, near) in enumerate(hits):
            ids[offsets[i] : offsets[i + 1]] = self._ids[rows]
            distances[offsets[i] : offsets[i + 1]] = near
        return RadiusResult(offsets, ids, distances)

    def _queries(self, codes: npt.ArrayLike) -> scan.Words:
        return scan.to_words(check_codes(codes, self._bits))


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
