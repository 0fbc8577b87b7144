"""What searches a fixed set of codes: the native core, or NumPy. Both give the same results.

Rows 0 .. n - 1 have ascending ids. Packed codes are uint8 [n, ceil(bits / 8)]; a mask says which rows may be found: bit
r % 64 of word r // 64, uint64 [ceil(n / 64)]. Arguments are checked by the callers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes
from queryopt.errors import FormatError
from queryopt.runtime.search import ranked, scan
from queryopt.runtime.search.core import NUMPY, load_core

if TYPE_CHECKING:
    from queryopt.runtime.search import _core

__all__ = ["SCAN", "Cost", "Engine", "Ids", "Mask", "NativeEngine", "NumpyEngine", "Stored", "make", "restore"]

Packed = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint64]
Hits = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]
Ranked = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]

SCAN: Final = "scan"

_MAX_NATIVE: Final = (1 << 32) - 1
"""The native core numbers rows with 32 bits."""


@dataclass(frozen=True)
class Cost:
    """What one query did.

    buckets: buckets of chunk tables looked up. codes: codes that the query was compared with, a scan's included.
    shells: steps (one distance in one chunk) that were finished. scanned: whether it ended in a scan of all codes.
    """

    buckets: int
    codes: int
    shells: int
    scanned: bool


@dataclass(frozen=True, eq=False)
class Stored:
    """An engine as arrays of bytes: structure, counts, and {section name: uint8 [bytes]} (see docs/formats.md)."""

    structure: str
    bits: int
    count: int
    unique: int
    sections: Mapping[str, npt.NDArray[np.uint8]]


class Engine(Protocol):
    """A fixed set of codes that can be searched."""

    @property
    def structure(self) -> str:
        """What the codes are kept in: 'scan', 'table' or 'multi-index'."""

    @property
    def path(self) -> str:
        """What searches run on: 'avx512', 'avx2', 'plain' or 'numpy'."""

    @property
    def unique(self) -> int:
        """How many codes are kept: the distinct ones, or for a scan all."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory, without the ids."""

    def search(self, codes: Packed, k: int, allowed: Mask | None, threads: int) -> tuple[Ids, npt.NDArray[np.int32]]:
        """Ids int64 and distances int32 [queries, k], in (distance, id) order; filled up with -1 and bits + 1."""

    def search_ranked(
        self,
        codes: Packed,
        weights: npt.NDArray[np.uint16],
        k: int,
        rank: ranked.Rank,
        allowed: Mask | None,
        threads: int,
    ) -> Ranked:
        """Ids int64, distances and scores int32 [queries, k], in the order of `rank`; filled up with -1, bits + 1, -1.

        weights: [queries, bits], each <= ranked.MAX_WEIGHT. rank: 'weighted' or 'tiebreak'.
        """

    def search_radius(self, codes: Packed, radius: int, allowed: Mask | None, threads: int) -> Hits:
        """Offsets [queries + 1], ids and distances of all within the radius."""

    def codes(self, rows: npt.NDArray[np.uint32] | None = None) -> Packed:
        """The codes of all rows, or of these."""

    def costs(self, codes: Packed, k: int | None, radius: int, allowed: Mask | None) -> list[Cost]:
        """What each of these searches does."""

    def ranked_costs(
        self, codes: Packed, weights: npt.NDArray[np.uint16], k: int, rank: ranked.Rank, allowed: Mask | None
    ) -> list[Cost]:
        """What each of these ranked searches does; its steps are levels of equal weight in one chunk."""

    def stored(self) -> Stored:
        """The engine's arrays, as views."""


def make(packed: Packed, bits: int, ids: Ids | None, structure: str, path: str, threads: int) -> Engine:
    """An engine over packed codes; its ids are the row numbers if None. structure: as for HammingIndex."""
    index = load_core()
    if index is not None and path != NUMPY and len(packed) < _MAX_NATIVE:
        return NativeEngine(index(packed, bits, ids, structure, path, threads), bits, len(packed))
    words = scan.to_words(packed)
    # The caller's array must not change under a search.
    return NumpyEngine(words.copy() if np.may_share_memory(words, packed) else words, bits, ids)


def restore(stored: Stored, ids: Ids | None, path: str) -> Engine:
    """An engine over arrays that it keeps, not copies. FormatError where they don't fit together."""
    index = load_core()
    if index is not None and path != NUMPY:
        try:
            core = index(stored.structure, stored.bits, stored.count, stored.unique, dict(stored.sections), ids, path)
        except ValueError as error:
            raise FormatError(str(error)) from None
        return NativeEngine(core, stored.bits, stored.count)
    return NumpyEngine(_words_of(stored), stored.bits, ids)


class NativeEngine:
    """The native core's index; it knows its ids."""

    def __init__(self, core: "_core.Index", bits: int, count: int) -> None:
        self.core = core
        self._bits = bits
        self._count = count

    @property
    def structure(self) -> str:
        return self.core.structure

    @property
    def path(self) -> str:
        return self.core.path

    @property
    def unique(self) -> int:
        return self.core.unique

    @property
    def nbytes(self) -> int:
        return self.core.bytes

    def search(self, codes: Packed, k: int, allowed: Mask | None, threads: int) -> tuple[Ids, npt.NDArray[np.int32]]:
        shape = (len(codes), k)
        ids, distances = np.empty(shape, np.int64), np.empty(shape, np.int32)
        assert self.core.search(codes, k, ids, distances, threads, allowed)
        return ids, distances

    def search_ranked(
        self,
        codes: Packed,
        weights: npt.NDArray[np.uint16],
        k: int,
        rank: ranked.Rank,
        allowed: Mask | None,
        threads: int,
    ) -> Ranked:
        shape = (len(codes), k)
        ids, distances, scores = np.empty(shape, np.int64), np.empty(shape, np.int32), np.empty(shape, np.int32)
        assert self.core.search_ranked(codes, weights, k, rank, ids, distances, scores, threads, allowed)
        return ids, distances, scores

    def search_radius(self, codes: Packed, radius: int, allowed: Mask | None, threads: int) -> Hits:
        found = self.core.search_radius(codes, radius, threads, allowed)
        assert found is not None
        return found

    def codes(self, rows: npt.NDArray[np.uint32] | None = None) -> Packed:
        packed = np.zeros((self._count if rows is None else len(rows), code_bytes(self._bits)), np.uint8)
        self.core.codes(rows, packed)
        return packed

    def costs(self, codes: Packed, k: int | None, radius: int, allowed: Mask | None) -> list[Cost]:
        found = self.core.explain(codes, k, radius, allowed)
        assert found is not None
        return [Cost(*cost) for cost in found]

    def ranked_costs(
        self, codes: Packed, weights: npt.NDArray[np.uint16], k: int, rank: ranked.Rank, allowed: Mask | None
    ) -> list[Cost]:
        found = self.core.explain_ranked(codes, weights, k, rank, allowed)
        assert found is not None
        return [Cost(*cost) for cost in found]

    def stored(self) -> Stored:
        return Stored(self.structure, self._bits, self._count, self.unique, self.core.sections())


class NumpyEngine:
    """A scan in NumPy."""

    structure = SCAN
    path = NUMPY

    def __init__(self, words: scan.Words, bits: int, ids: Ids | None) -> None:
        self._words = words
        self._bits = bits
        self._ids = ids

    @property
    def unique(self) -> int:
        return len(self._words)

    @property
    def nbytes(self) -> int:
        return self._words.nbytes

    def search(self, codes: Packed, k: int, allowed: Mask | None, threads: int) -> tuple[Ids, npt.NDArray[np.int32]]:
        words, to_ids = self._allowed(allowed)
        ids = np.full((len(codes), k), -1, np.int64)
        distances = np.full((len(codes), k), self._bits + 1, np.int32)
        for i, (rows, near) in enumerate(scan.nearest(words, scan.to_words(codes), k, self._bits)):
            ids[i, : len(rows)] = rows if to_ids is None else to_ids[rows]
            distances[i, : len(rows)] = near
        return ids, distances

    def search_ranked(
        self,
        codes: Packed,
        weights: npt.NDArray[np.uint16],
        k: int,
        rank: ranked.Rank,
        allowed: Mask | None,
        threads: int,
    ) -> Ranked:
        words, to_ids = self._allowed(allowed)
        ids = np.full((len(codes), k), -1, np.int64)
        distances = np.full((len(codes), k), self._bits + 1, np.int32)
        scores = np.full((len(codes), k), -1, np.int32)
        for i, (rows, keys) in enumerate(ranked.nearest(words, scan.to_words(codes), weights, k, rank)):
            ids[i, : len(rows)] = rows if to_ids is None else to_ids[rows]
            distances[i, : len(rows)], scores[i, : len(rows)] = ranked.split_keys(keys, rank)
        return ids, distances, scores

    def search_radius(self, codes: Packed, radius: int, allowed: Mask | None, threads: int) -> Hits:
        words, to_ids = self._allowed(allowed)
        hits = list(scan.within(words, scan.to_words(codes), radius))
        offsets = np.zeros(len(codes) + 1, np.int64)
        np.cumsum([len(rows) for rows, _ in hits], out=offsets[1:])
        ids, distances = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int32)
        for i, (rows, near) in enumerate(hits):
            ids[offsets[i] : offsets[i + 1]] = rows if to_ids is None else to_ids[rows]
            distances[offsets[i] : offsets[i + 1]] = near
        return offsets, ids, distances

    def codes(self, rows: npt.NDArray[np.uint32] | None = None) -> Packed:
        words = self._words if rows is None else self._words[rows]
        return _bytes_of(words)[:, : code_bytes(self._bits)].copy()

    def costs(self, codes: Packed, k: int | None, radius: int, allowed: Mask | None) -> list[Cost]:
        words, _ = self._allowed(allowed)
        return [Cost(0, len(words), 0, True)] * len(codes)

    def ranked_costs(
        self, codes: Packed, weights: npt.NDArray[np.uint16], k: int, rank: ranked.Rank, allowed: Mask | None
    ) -> list[Cost]:
        return self.costs(codes, k, 0, allowed)

    def stored(self) -> Stored:
        words = self._words
        if 32 < self._bits <= 48:
            halves = _bytes_of(words)
            sections = {"words": halves[:, :4].ravel(), "words.high": halves[:, 4:6].ravel()}
        else:
            sections = {"words": _bytes_of(words).ravel()}
        return Stored(SCAN, self._bits, len(words), len(words), {k: v for k, v in sections.items() if v.size})

    def _allowed(self, mask: Mask | None) -> tuple[scan.Words, npt.NDArray[np.int64] | None]:
        """The words that may be found, and the ids of these rows (None: the row numbers)."""
        if mask is None:
            return self._words, self._ids
        rows = np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=len(self._words), bitorder="little"))
        return self._words[rows], rows if self._ids is None else self._ids[rows]


def _bytes_of(words: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Little-endian bytes of words, [n, itemsize]."""
    little = np.ascontiguousarray(words.astype(words.dtype.newbyteorder("<"), copy=False))
    return little.view(np.uint8).reshape(len(words), words.dtype.itemsize)


def _words_of(stored: Stored) -> scan.Words:
    """The words of all rows, in order, whatever the structure."""
    if stored.unique > stored.count or (stored.structure == SCAN and stored.unique < stored.count):
        raise FormatError("the header's counts don't fit together")
    if stored.structure == SCAN:
        return _integers(stored, "words", stored.bits, stored.count)
    # Chunk 0 holds every distinct code: the bits of its bucket, and the others moved together below them.
    width = stored.bits - _rest_bits(stored)
    starts = _section(stored, "chunk0.starts", "<u4", (1 << width) + 1).astype(np.int64)
    postings = _section(stored, "postings", "<u4", stored.count)
    first = np.arange(stored.count + 1, dtype=np.int64)
    if stored.unique < stored.count:
        first = _section(stored, "first", "<u4", stored.unique + 1).astype(np.int64)
    if (
        starts[0] != 0
        or starts[-1] != stored.unique
        or np.any(starts[1:] < starts[:-1])
        or first[0] != 0
        or first[-1] != stored.count
        or np.any(first[1:] < first[:-1])
        or (stored.count and int(postings.max()) >= stored.count)
    ):
        raise FormatError("the sections of its structure don't fit together")
    values = np.repeat(np.arange(1 << width, dtype=np.uint64), np.diff(starts))
    rest = _integers(stored, "chunk0", stored.bits - width, stored.unique).astype(np.uint64)
    codes = values << np.uint64(stored.bits - width) | rest if stored.bits > width else values
    words = np.zeros(stored.count, np.uint64)
    words[postings] = np.repeat(codes, np.diff(first))
    return scan.to_words(_bytes_of(words)[:, : code_bytes(stored.bits)])


def _rest_bits(stored: Stored) -> int:
    """The bits outside of chunk 0; its table tells its width."""
    starts = stored.sections.get("chunk0.starts")
    width = 0 if starts is None else (len(starts) // 4 - 1).bit_length() - 1
    if not 1 <= width <= min(16, stored.bits):
        raise FormatError("section 'chunk0.starts' is missing or has a wrong size")
    return stored.bits - width


def _integers(stored: Stored, name: str, bits: int, count: int) -> scan.Words:
    """A column of integers of `bits` bits: one array, or (33 to 48 bits) the low 32 and the high 16 in two."""
    if bits == 0:
        return np.zeros(count, np.uint8)
    if 32 < bits <= 48:
        high = _section(stored, f"{name}.high", "<u2", count).astype(np.uint64)
        both: scan.Words = _section(stored, name, "<u4", count) | high << np.uint64(32)
        return both
    size = next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
    words: scan.Words = _section(stored, name, f"<u{size}", count)
    return words.astype(words.dtype.newbyteorder("="), copy=False)


def _section(stored: Stored, name: str, dtype: str, count: int) -> npt.NDArray[Any]:
    size = count * np.dtype(dtype).itemsize
    data = stored.sections.get(name, np.empty(0, np.uint8))
    if len(data) != size:
        raise FormatError(f"section '{name}' has {len(data)} bytes, not {size}")
    values: npt.NDArray[Any] = data.view(dtype)
    return values
