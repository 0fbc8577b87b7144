"""What searches a fixed set of codes: the native core, or NumPy. Both give the same results.

Rows 0 .. n - 1 have ascending ids. Packed codes are uint8 [n, ceil(bits / 8)]; a mask says which rows may be found: bit
r % 64 of word r // 64, uint64 [ceil(n / 64)]. Arguments are checked by the callers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes
from queryopt.errors import FormatError
from queryopt.runtime.search import ranked, scan
from queryopt.runtime.search.core import NUMPY, load_core
from queryopt.runtime.search.margins import Margins, by_margins

if TYPE_CHECKING:
    from queryopt.runtime.search import _core

__all__ = ["SCAN", "Engine", "Hits", "Ids", "Mask", "NumpyEngine", "Packed", "Stored", "make", "restore"]

Packed = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.uint64]
Hits = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]
Spent = tuple[int, int, int, bool]
"""The fields of a Cost."""

Engine: TypeAlias = "_core.Index | NumpyEngine"
"""What can be searched: both have the same methods, which NumpyEngine describes."""

SCAN: Final = "scan"

_MAX_NATIVE: Final = (1 << 32) - 1
"""The native core numbers rows with 32 bits."""


@dataclass(frozen=True, eq=False)
class Stored:
    """An engine as arrays of bytes: structure, counts, and the sections as `sections` gives them."""

    structure: str
    bits: int
    count: int
    unique: int
    sections: Mapping[str, npt.NDArray[np.uint8]]


def make(packed: Packed, bits: int, ids: Ids | None, structure: str, path: str, threads: int) -> Engine:
    """An engine over packed codes; its ids are the row numbers if None. structure: as for HammingIndex."""
    index = load_core()
    if index is not None and path != NUMPY and len(packed) < _MAX_NATIVE:
        return index(packed, bits, ids, structure, path, threads)
    words = scan.to_words(packed)
    # The caller's array must not change under a search.
    return NumpyEngine(words.copy() if np.may_share_memory(words, packed) else words, bits, ids)


def restore(stored: Stored, ids: Ids | None, path: str) -> Engine:
    """An engine over arrays that it keeps, not copies. FormatError where they don't fit together."""
    index = load_core()
    if index is None or path == NUMPY:
        return NumpyEngine(_words_of(stored), stored.bits, ids)
    try:
        return index(stored.structure, stored.bits, stored.count, stored.unique, dict(stored.sections), ids, path)
    except ValueError as error:
        raise FormatError(str(error)) from None


class NumpyEngine:
    """A scan in NumPy.

    A search fills arrays that the caller gives, [queries, k] each, and returns True (the native core False where an
    argument is not what it must be): ids int64, filled up with -1; distances int32, with bits + 1; scores int32, with
    -1. What searches do is told as the fields of a Cost, a query each.
    """

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

    def search(
        self,
        codes: Packed,
        k: int,
        ids: Ids,
        distances: npt.NDArray[np.int32],
        threads: int = 1,
        allowed: Mask | None = None,
    ) -> bool:
        """The nearest k, in (distance, id) order."""
        words, to_ids = self._allowed(allowed)
        ids[:], distances[:] = -1, self._bits + 1
        for i, (rows, near) in enumerate(scan.nearest(words, scan.to_words(codes), k, self._bits)):
            ids[i, : len(rows)] = rows if to_ids is None else to_ids[rows]
            distances[i, : len(rows)] = near
        return True

    def search_by_margins(
        self,
        codes: Packed,
        margins: Margins,
        k: int,
        table: Margins,
        ids: Ids,
        distances: npt.NDArray[np.int32],
        scores: npt.NDArray[np.int32],
        threads: int = 1,
        allowed: Mask | None = None,
    ) -> bool | Ids:
        """The nearest k, equal distances by margins, with the squares as scores; or the ids whose margins are missing.

        margins: of the queries, int8 [queries, bits]. table: of the rows, see `MarginTable.values`.
        """
        words, _ = self._allowed(allowed)
        last = [
            int(near[-1]) if len(near) else -1 for _, near in scan.nearest(words, scan.to_words(codes), k, self._bits)
        ]
        ids[:], distances[:], scores[:] = -1, self._bits + 1, -1
        missing: list[Ids] = []
        for i, (found, near, squares, unknown) in enumerate(self._by_margins(codes, last, margins, table, allowed)):
            count = min(k, len(found))
            ids[i, :count], distances[i, :count], scores[i, :count] = found[:k], near[:k], squares[:k]
            missing.append(unknown)
        return True if not any(map(len, missing)) else np.concatenate(missing)

    def search_radius_by_margins(
        self,
        codes: Packed,
        margins: Margins,
        radius: int,
        table: Margins,
        threads: int = 1,
        allowed: Mask | None = None,
    ) -> tuple[Ids, Ids, npt.NDArray[np.int32], npt.NDArray[np.int32]] | Ids | bool:
        """Offsets, ids, distances and squares of all within the radius; or the ids whose margins are missing."""
        offsets = np.zeros(len(codes) + 1, np.int64)
        all_hits = list(self._by_margins(codes, [radius] * len(codes), margins, table, allowed))
        np.cumsum([len(ids) for ids, *_ in all_hits], out=offsets[1:])
        if any(len(unknown) for *_, unknown in all_hits):
            return np.concatenate([unknown for *_, unknown in all_hits])
        ids = np.concatenate([np.empty(0, np.int64), *(ids for ids, *_ in all_hits)])
        distances = np.concatenate([np.empty(0, np.int32), *(near for _, near, *_ in all_hits)])
        return offsets, ids, distances, np.concatenate([np.empty(0, np.int32), *(s for *_, s, _ in all_hits)])

    def _by_margins(
        self, codes: Packed, limits: list[int], margins: Margins, table: Margins, allowed: Mask | None
    ) -> Iterator[tuple[Ids, npt.NDArray[np.int32], npt.NDArray[np.int32], Ids]]:
        """All within a distance of each query, in order: ids, distances, squares, and ids without margins."""
        words, to_ids = self._allowed(allowed)
        own = table if allowed is None else table[_rows_of(allowed, len(self._words))]
        for query, limit, of_query in zip(scan.to_words(codes), limits, margins, strict=True):
            ((rows, near),) = scan.within(words, query[None], limit)
            order, squares, unknown = by_margins(rows, near, own, of_query)
            rows, near = rows[order], near[order]
            ids = rows if to_ids is None else to_ids[rows]
            yield ids, near.astype(np.int32), squares, unknown if to_ids is None else to_ids[unknown]

    def search_ranked(
        self,
        codes: Packed,
        weights: npt.NDArray[np.uint16],
        k: int,
        rank: ranked.Rank,
        ids: Ids,
        distances: npt.NDArray[np.int32],
        scores: npt.NDArray[np.int32],
        threads: int = 1,
        allowed: Mask | None = None,
    ) -> bool:
        """The first k in the order of `rank`, 'weighted' or 'tiebreak'. weights: [queries, bits], <= MAX_WEIGHT."""
        words, to_ids = self._allowed(allowed)
        ids[:], distances[:], scores[:] = -1, self._bits + 1, -1
        for i, (rows, keys) in enumerate(ranked.nearest(words, scan.to_words(codes), weights, k, rank)):
            ids[i, : len(rows)] = rows if to_ids is None else to_ids[rows]
            distances[i, : len(rows)], scores[i, : len(rows)] = ranked.split_keys(keys, rank)
        return True

    def search_radius(self, codes: Packed, radius: int, threads: int = 1, allowed: Mask | None = None) -> Hits:
        """Offsets [queries + 1], ids and distances of all within the radius."""
        words, to_ids = self._allowed(allowed)
        hits = list(scan.within(words, scan.to_words(codes), radius))
        offsets = np.zeros(len(codes) + 1, np.int64)
        np.cumsum([len(rows) for rows, _ in hits], out=offsets[1:])
        ids, distances = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int32)
        for i, (rows, near) in enumerate(hits):
            ids[offsets[i] : offsets[i + 1]] = rows if to_ids is None else to_ids[rows]
            distances[offsets[i] : offsets[i + 1]] = near
        return offsets, ids, distances

    def codes(self, rows: npt.NDArray[np.uint32] | None, codes: Packed) -> None:
        """Fill `codes` (zeroed) with the codes of all rows, or of these."""
        words = self._words if rows is None else self._words[rows]
        codes[:] = _bytes_of(words)[:, : code_bytes(self._bits)]

    def explain(self, codes: Packed, k: int | None, radius: int, allowed: Mask | None = None) -> list[Spent]:
        """What each of these searches does: for the nearest k, or (k None) for all within the radius."""
        words, _ = self._allowed(allowed)
        return [(0, len(words), 0, True)] * len(codes)

    def explain_ranked(
        self, codes: Packed, weights: npt.NDArray[np.uint16], k: int, rank: ranked.Rank, allowed: Mask | None = None
    ) -> list[Spent]:
        """What each of these ranked searches does; its steps are levels of equal weight in one chunk."""
        return self.explain(codes, k, 0, allowed)

    def sections(self) -> dict[str, npt.NDArray[np.uint8]]:
        """The arrays, as views: {section name: uint8 [bytes]} (see docs/formats.md)."""
        columns = _bytes_of(self._words)
        if 32 < self._bits <= 48:
            sections = {"words": columns[:, :4].ravel(), "words.high": columns[:, 4:6].ravel()}
        else:
            sections = {"words": columns.ravel()}
        return {name: section for name, section in sections.items() if section.size}

    def _allowed(self, mask: Mask | None) -> tuple[scan.Words, npt.NDArray[np.int64] | None]:
        """The words that may be found, and the ids of these rows (None: the row numbers)."""
        if mask is None:
            return self._words, self._ids
        rows = _rows_of(mask, len(self._words))
        return self._words[rows], rows if self._ids is None else self._ids[rows]


def _rows_of(mask: Mask, count: int) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=count, bitorder="little"))


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
