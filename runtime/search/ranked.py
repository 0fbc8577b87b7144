"""Names of ranks; ranking by how much a query minds each bit: the definitions, and exact scans in NumPy.

A logit near zero is a bit that the network was unsure of. Its magnitude, as an integer weight, says how much it costs
a code to differ there: a code's score w is the sum of the weights of the bits in which it differs from the query.
Integers make sums exact in any order, so every device gives the same results, bit for bit.

A rank orders codes by one integer, the key, that is itself a sum over the differing bits:

    weighted   (w, distance): a bit counts weight << 7 | 1, and the key is w << 7 | distance, as distances are <= 64
    tiebreak   (distance, w): a bit counts 1 << 16 | weight, and the key is distance << 16 | w, as w <= 64 x 1023

What is equal in both is in the order of ids.
"""

from collections.abc import Iterator
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError
from queryopt.runtime.search.scan import Words

__all__ = [
    "MAX_WEIGHT",
    "RANKS",
    "Rank",
    "RankName",
    "bit_keys",
    "check_rank",
    "nearest",
    "quantise",
    "split_keys",
]

Rank = Literal["margin", "id", "weighted", "tiebreak"]

RankName = Literal["margin", "id", "weighted", "tiebreak", "hamming"]
"""What `check_rank` takes."""

RANKS: Final[tuple[Rank, ...]] = ("margin", "id", "weighted", "tiebreak")
"""What a search can order by: the distance, what is equally far by the distance of its margins (see `margins`); the
distance alone; the weights of the bits that differ; or these among equal distances. What is equal then is in the order
of ids."""

MAX_WEIGHT: Final = 1023
"""The weight of a query's surest bit."""

_BLOCK = 1 << 14
"""Rows of one block: its codes, sums and one column of indices stay in the second-level cache."""

_QUERIES = 256
"""Queries that share a pass over the codes: their tables take 2 MiB."""

_ROW_BITS = 40
"""Below a key (at most 23 bits) in a 64-bit integer there is room for so many bits of a row number."""

_Keys = npt.NDArray[np.int32]


def check_rank(rank: str) -> Rank:
    """The rank of this name; 'hamming' is the former one of 'id'. UsageError."""
    for known in RANKS:
        if rank == known:
            return known
    if rank == "hamming":
        return "id"
    raise UsageError(f"rank is {rank!r}: it is one of {', '.join(RANKS)}")


def quantise(logits: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint16]:
    """Weights uint16 [q, bits], 0..1023, of logits [q, bits] (any real dtype; their signs don't matter).

    weight = round(1023 |logit| / the largest |logit| of the query), halves to even; all 0 where all logits are 0.
    Logits are rounded to float32 first. Then 1023 |logit| is exact in float64, and the division's own rounding is too
    small to move a quotient of such numbers to or over a half: the result is that of exact arithmetic, whatever
    computes it.

    Raises UsageError for another shape, and for logits that are NaN or infinite (or too large for float32).
    """
    array = np.asarray(logits)
    if array.ndim != 2 or array.shape[1] != bits or array.dtype.kind not in "iuf":
        raise UsageError(f"logits are {array.dtype} {list(array.shape)}: give real numbers [queries, {bits}]")
    with np.errstate(over="ignore"):
        magnitudes = np.abs(array.astype(np.float32)).astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(magnitudes).all(axis=1))
    if bad.size:
        raise UsageError(f"the logits of query {bad[0]} hold NaN or infinity: they rank nothing")
    largest = magnitudes.max(axis=1, initial=0, keepdims=True)
    weights = np.rint(magnitudes * MAX_WEIGHT / np.where(largest > 0, largest, 1))
    return weights.astype(np.uint16)


def bit_keys(weights: npt.NDArray[np.uint16], rank: Rank) -> _Keys:
    """What each bit adds to a code's key, int32 of the shape of `weights`; rank: 'weighted' or 'tiebreak'."""
    wide = weights.astype(np.int32)
    return wide << 7 | 1 if rank == "weighted" else wide | 1 << 16


def split_keys(keys: _Keys, rank: Rank) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """(distances, scores) of codes with these keys."""
    return (keys & 127, keys >> 7) if rank == "weighted" else (keys >> 16, keys & 0xFFFF)


def nearest(
    words: Words,
    queries: Words,
    weights: npt.NDArray[np.uint16],
    k: int,
    rank: Rank,
) -> Iterator[tuple[npt.NDArray[np.int64], _Keys]]:
    """For each query, the k rows (all, where there are fewer) that come first in (key, row) order, in that order.

    words [n] and queries [q] of one dtype, weights [q, bits]; rank: 'weighted' or 'tiebreak'. Yields (rows int64,
    keys int32), each [min(k, n)].
    """
    for first in range(0, len(queries), _QUERIES):
        some = slice(first, first + _QUERIES)
        yield from _nearest(words, queries[some], bit_keys(weights[some], rank), k)


def _nearest(words: Words, queries: Words, keys: _Keys, k: int) -> Iterator[tuple[npt.NDArray[np.int64], _Keys]]:
    best = [_Nearest(k) for _ in queries]
    if k and len(words):
        tables = [_tables(query, of_query, words.itemsize) for query, of_query in zip(queries, keys, strict=True)]
        for start in range(0, len(words), _BLOCK):
            block = words[start : start + _BLOCK]
            columns = [(block >> (8 * i) & 255).astype(np.intp) for i in range(words.itemsize)]
            for one, table in zip(best, tables, strict=True):
                sums = table[0][columns[0]]
                for i in range(1, words.itemsize):
                    sums += table[i][columns[i]]
                one.offer(start, sums)
    for one in best:
        yield one.hits()


def _tables(query: np.unsignedinteger, keys: _Keys, width: int) -> _Keys:
    """The sums over the bits in which each byte of a code differs from the query's: int32 [width, 256]."""
    padded = np.zeros((width, 8), np.int32)
    padded.ravel()[: len(keys)] = keys
    code = np.frombuffer(int(query).to_bytes(width, "little"), np.uint8)
    differ = np.unpackbits((np.arange(256, dtype=np.uint8) ^ code[:, None])[..., None], axis=2, bitorder="little")
    tables: _Keys = np.einsum("wvb,wb->wv", differ, padded, dtype=np.int32)
    return tables


class _Nearest:
    """The best k rows of those offered so far, each as key << 40 | row."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.limit = np.iinfo(np.int32).max
        """A row offered from now on is among the best k only with a key below this: rows ascend."""
        self.limited = False
        self.parts: list[npt.NDArray[np.int64]] = []
        self.held = 0

    def offer(self, start: int, keys: _Keys) -> None:
        hits = np.flatnonzero(keys < self.limit)
        if not hits.size:
            return
        self.parts.append(keys[hits].astype(np.int64) << _ROW_BITS | hits + start)
        self.held += len(hits)
        # The sooner the limit is known, the fewer rows come; but k rows are not partitioned again for each few.
        if self.held >= self.k + (min(self.k, _BLOCK) if self.limited else 0):
            self._drop()

    def hits(self) -> tuple[npt.NDArray[np.int64], _Keys]:
        best = np.sort(self._drop())
        return best & ((1 << _ROW_BITS) - 1), (best >> _ROW_BITS).astype(np.int32)

    def _drop(self) -> npt.NDArray[np.int64]:
        """Let go of all but the best k."""
        best = np.concatenate(self.parts) if self.parts else np.empty(0, np.int64)
        if self.k and len(best) >= self.k:
            best = np.partition(best, self.k - 1)[: self.k]
            self.limit, self.limited = int(best[-1] >> _ROW_BITS), True
        self.parts, self.held = [best], len(best)
        return best
