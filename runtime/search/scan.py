"""Exact scans over codes held as integers, in NumPy: the whole of the arithmetic behind HammingIndex.

Codes are words of one unsigned dtype, rows ascend by id, and every function answers in row numbers, so a faster core
takes these functions' place without touching ids or arguments. Rows are read in blocks that fit a core's cache; the
memory needed beside the codes is a few blocks and the hits, whatever their number.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Words", "nearest", "to_words", "within"]

Words = npt.NDArray[np.unsignedinteger[Any]]
_Hits = tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]

_BLOCK = 1 << 15
"""Rows of one block: 256 KiB of 64-bit words, so that a block stays in the second-level cache for all queries."""


def to_words(packed: npt.NDArray[np.uint8]) -> Words:
    """Packed codes uint8 [n, bytes] as words [n] of the narrowest unsigned dtype (8, 16, 32, 64 bits)."""
    count, width = packed.shape
    word = next(size for size in (1, 2, 4, 8) if size >= width)
    if word != width:
        padded = np.zeros((count, word), np.uint8)
        padded[:, :width] = packed
        packed = padded
    words: Words = np.ascontiguousarray(packed).view(f"<u{word}")[:, 0]
    return words.astype(words.dtype.newbyteorder("="), copy=False)


def nearest(words: Words, queries: Words, k: int, bits: int) -> Iterator[_Hits]:
    """For each query, the k rows (all, where there are fewer) that come first in (distance, row) order, in that order.

    words [n] and queries [q] of one dtype. Yields (rows int64, distances uint8), each [min(k, n)].
    """
    best = [_Nearest(min(k, len(words)), bits) for _ in queries]
    if k and len(words):
        for query, start, distances in _distances(words, queries):
            best[query].offer(start, distances)
    for one in best:
        yield one.hits()


def within(words: Words, queries: Words, radius: int) -> Iterator[_Hits]:
    """For each query, all rows at a distance <= radius in (distance, row) order: (rows int64, distances uint8)."""
    rows: list[list[npt.NDArray[np.int64]]] = [[] for _ in queries]
    near: list[list[npt.NDArray[np.uint8]]] = [[] for _ in queries]
    for query, start, distances in _distances(words, queries):
        hits = np.flatnonzero(distances <= radius)
        if hits.size:
            near[query].append(distances[hits])
            rows[query].append(hits + start)
    for query in range(len(queries)):
        yield _ordered(*_join(rows[query], near[query]))


def _distances(words: Words, queries: Words) -> Iterator[tuple[int, int, npt.NDArray[np.uint8]]]:
    """Every block of rows against every query: (query, first row, distances uint8 [rows], good until the next step)."""
    size = min(_BLOCK, len(words))
    difference, distances = np.empty(size, words.dtype), np.empty(size, np.uint8)
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        for query, word in enumerate(queries):
            xor, counts = difference[: len(block)], distances[: len(block)]
            np.bitwise_xor(block, word, out=xor)
            np.bitwise_count(xor, out=counts)
            yield query, start, counts


class _Nearest:
    """The best k rows of those offered so far, chosen by counting distances instead of sorting rows."""

    def __init__(self, k: int, bits: int) -> None:
        self.k = k
        self.limit = bits + 1
        """A row offered from now on is among the best k only at a distance below this."""
        self.counts = np.zeros(bits + 1, np.int64)
        self.rows: list[npt.NDArray[np.int64]] = []
        self.distances: list[npt.NDArray[np.uint8]] = []
        self.held = 0

    def offer(self, start: int, distances: npt.NDArray[np.uint8]) -> None:
        hits = np.flatnonzero(distances < self.limit)
        if not hits.size:
            return
        near = distances[hits]
        self.rows.append(hits + start)
        self.distances.append(near)
        self.held += len(hits)
        self.counts += np.bincount(near, minlength=len(self.counts))
        # With k rows held at a distance <= limit, a later row at the limit itself comes after all of them.
        self.limit = min(self.limit, int(np.searchsorted(np.cumsum(self.counts), self.k)))
        if self.held > self.k + 2 * _BLOCK:
            self._drop()

    def hits(self) -> _Hits:
        self._drop()
        return _ordered(*_join(self.rows, self.distances))

    def _drop(self) -> None:
        """Let go of rows that are no longer among the best k: all beyond the limit, and the last ones at it."""
        if self.held <= self.k:
            return
        rows, distances = _join(self.rows, self.distances)
        keep = distances < self.limit
        at_limit = np.flatnonzero(distances == self.limit)[: self.k - int(np.count_nonzero(keep))]
        keep[at_limit] = True
        self.rows, self.distances = [rows[keep]], [distances[keep]]
        self.held = len(self.rows[0])
        self.counts = np.bincount(self.distances[0], minlength=len(self.counts))


def _join(rows: list[npt.NDArray[np.int64]], distances: list[npt.NDArray[np.uint8]]) -> _Hits:
    if not rows:
        return np.empty(0, np.int64), np.empty(0, np.uint8)
    return np.concatenate(rows), np.concatenate(distances)


def _ordered(rows: npt.NDArray[np.int64], distances: npt.NDArray[np.uint8]) -> _Hits:
    # Rows ascend, so a stable sort by distance (a radix sort, for uint8) leaves (distance, row) order.
    order = np.argsort(distances, kind="stable")
    return rows[order], distances[order]
