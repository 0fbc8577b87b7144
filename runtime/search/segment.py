"""A set of codes that never changes, and which of them are still there: what a HammingIndex is made of."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes
from queryopt.runtime.search.engines import SCAN, Engine, Hits, Ids, Mask, Packed, make
from queryopt.runtime.search.margins import Margins, MarginTable
from queryopt.runtime.search.ranked import Rank
from queryopt.runtime.search.results import RadiusResult, SearchResult

__all__ = ["Part", "Segment", "full_mask", "merged"]

_SELECTIVE = 64
"""A filter that lets through less than one row in so many scans these rows alone."""


@dataclass(frozen=True, eq=False)
class Part:
    """What one search looks through: an engine, which of its rows may be found (all if None), and their margins."""

    engine: Engine
    allowed: Mask | None
    margins: MarginTable

    def search(
        self, codes: Packed, k: int, weights: npt.NDArray[np.uint16] | None, rank: Rank, threads: int
    ) -> SearchResult:
        """The first k of each query; weights: None for the rank 'id'."""
        shape = (len(codes), k)
        ids, distances = np.empty(shape, np.int64), np.empty(shape, np.int32)
        if weights is None:
            done = self.engine.search(codes, k, ids, distances, threads, self.allowed)
            assert done
            return SearchResult.of(ids, distances)
        scores = np.empty(shape, np.int32)
        done = self.engine.search_ranked(codes, weights, k, rank, ids, distances, scores, threads, self.allowed)
        assert done
        return SearchResult(ids, distances, scores)

    def search_by_margins(
        self, codes: Packed, margins: Margins, k: int, threads: int, missing: list[Ids]
    ) -> SearchResult:
        """The first k of each query, equal distances by margins; ids whose margins it lacks go to `missing`."""
        shape = (len(codes), k)
        ids, distances, scores = np.empty(shape, np.int64), np.empty(shape, np.int32), np.empty(shape, np.int32)
        done = self.engine.search_by_margins(
            codes, margins, k, self.margins.values, ids, distances, scores, threads, self.allowed
        )
        assert done is not False
        if done is not True:
            missing.append(done)
        return SearchResult(ids, distances, scores)

    def search_radius_by_margins(
        self, codes: Packed, margins: Margins, radius: int, threads: int, missing: list[Ids]
    ) -> RadiusResult:
        """All within the radius of each query, equal distances by margins; nothing, where some are `missing`."""
        found = self.engine.search_radius_by_margins(codes, margins, radius, self.margins.values, threads, self.allowed)
        assert not isinstance(found, bool)
        if isinstance(found, tuple):
            return RadiusResult(*found)
        missing.append(found)
        nothing = np.empty(0, np.int32)
        return RadiusResult(np.zeros(len(codes) + 1, np.int64), found[:0], nothing, nothing)

    def search_radius(self, codes: Packed, radius: int, threads: int) -> Hits:
        """All within the radius of each query."""
        hits = self.engine.search_radius(codes, radius, threads, self.allowed)
        assert hits is not None
        return hits


@dataclass(frozen=True, eq=False)
class Segment:
    """Codes with ascending ids.

    engine: searches them.
    count: how many rows it has.
    ids: int64 [count], the row numbers if None.
    margins: of the rows, as far as they are known.
    live: the rows that were not removed; all if None.
    alive: how many these are.
    """

    engine: Engine
    bits: int
    count: int
    ids: Ids | None
    margins: MarginTable
    live: Mask | None = None
    alive: int = -1

    def __post_init__(self) -> None:
        if self.live is None:
            object.__setattr__(self, "alive", self.count)

    @classmethod
    def build(cls, packed: Packed, bits: int, ids: Ids | None, structure: str, path: str, threads: int) -> "Segment":
        """A segment over packed codes whose ids (the row numbers if None) ascend."""
        engine = make(packed, bits, ids, structure, path, threads)
        return cls(engine, bits, len(packed), ids, MarginTable(len(packed), bits))

    @property
    def nbytes(self) -> int:
        arrays = (array for array in (self.ids, self.live) if array is not None)
        return self.engine.nbytes + self.margins.nbytes + sum(array.nbytes for array in arrays)

    def rows_of(self, ids: Ids) -> npt.NDArray[np.int64]:
        """The live rows that have one of these ids (ascending, without repetition)."""
        if self.ids is None:
            rows = ids[: np.searchsorted(ids, self.count)]
        else:
            rows = np.searchsorted(self.ids, ids)
            rows = rows[rows < self.count] if len(rows) and rows[-1] == self.count else rows
            rows = rows[self.ids[rows] == ids[: len(rows)]]
        return rows if self.live is None else rows[_test(self.live, rows)]

    def live_rows(self) -> npt.NDArray[np.int64]:
        """The rows that were not removed, ascending."""
        return np.arange(self.count) if self.live is None else _rows(self.live, self.count)

    def live_ids(self) -> Ids:
        """The ids of the live rows, ascending."""
        return self.live_rows() if self.ids is None else self.ids[self.live_rows()]

    def set_margins(self, ids: Ids, margins: Margins) -> None:
        """Give rows with these ids (ascending, without repetition) their margins, where they have none."""
        rows = self.rows_of(ids)
        self.margins.set(rows, margins[np.searchsorted(ids, rows if self.ids is None else self.ids[rows])])

    def without(self, rows: npt.NDArray[np.int64]) -> "Segment":
        """The same without these live rows."""
        live = full_mask(self.count) if self.live is None else self.live.copy()
        _clear(live, rows)
        return replace(self, live=live, alive=self.alive - len(rows))

    def part(self, allow: Ids | None, deny: Ids | None, threads: int) -> Part | None:
        """What a search with these filters (ids, ascending, without repetition) looks through; None: nothing."""
        if allow is None:
            if deny is None:
                return Part(self.engine, self.live, self.margins)
            mask = full_mask(self.count) if self.live is None else self.live.copy()
            _clear(mask, self.rows_of(deny))
            return Part(self.engine, mask, self.margins)
        rows = self.rows_of(allow if deny is None else np.setdiff1d(allow, deny, assume_unique=True))
        if len(rows) == 0:
            return None
        if len(rows) * _SELECTIVE > self.count:
            return Part(self.engine, _mask(rows, self.count), self.margins)
        ids = rows if self.ids is None else self.ids[rows]
        codes = self._codes(rows.astype(np.uint32))
        engine = make(codes, self.bits, ids, SCAN, self.engine.path, threads)
        return Part(engine, None, MarginTable.gather([(self.margins, rows)]))

    def contents(self) -> tuple[Packed, Ids]:
        """The live codes and their ids."""
        if self.live is None:
            return self._codes(), self.live_ids()
        keep = np.unpackbits(self.live.view(np.uint8), count=self.count, bitorder="little").view(np.bool_)
        return self._codes()[keep], self.live_ids()

    def _codes(self, rows: npt.NDArray[np.uint32] | None = None) -> Packed:
        """The codes of all rows, or of these."""
        packed = np.zeros((self.count if rows is None else len(rows), code_bytes(self.bits)), np.uint8)
        self.engine.codes(rows, packed)
        return packed


def merged(segments: list[Segment], structure: str, path: str, threads: int) -> Segment:
    """One segment of the live codes of several (at least one), whose ids differ."""
    contents = [segment.contents() for segment in segments]
    packed = np.concatenate([codes for codes, _ in contents])
    ids = np.concatenate([ids for _, ids in contents])
    order = None
    if np.any(ids[1:] < ids[:-1]):
        order = np.argsort(ids, kind="stable")
        packed, ids = packed[order], ids[order]
    plain = len(ids) == 0 or ids[-1] == len(ids) - 1
    made = Segment.build(packed, segments[0].bits, None if plain else ids, structure, path, threads)
    margins = MarginTable.gather([(segment.margins, segment.live_rows()) for segment in segments], order)
    return replace(made, margins=margins)


def _words(count: int) -> int:
    return (count + 63) // 64


def full_mask(count: int) -> Mask:
    """The mask of all rows; the bits beyond are zero."""
    mask = np.full(_words(count), np.iinfo(np.uint64).max, np.uint64)
    if count % 64:
        mask[-1] = (1 << count % 64) - 1
    return mask


def _mask(rows: npt.NDArray[np.int64], count: int) -> Mask:
    bits = np.zeros(_words(count) * 64, np.bool_)
    bits[rows] = True
    return np.packbits(bits, bitorder="little").view(np.uint64)


def _rows(mask: Mask, count: int) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=count, bitorder="little"))


def _bit(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return np.uint64(1) << (rows & 63).astype(np.uint64)


def _test(mask: Mask, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    present: npt.NDArray[np.bool_] = (mask[rows >> 6] & _bit(rows)) != 0
    return present


def _clear(mask: Mask, rows: npt.NDArray[np.int64]) -> None:
    np.bitwise_and.at(mask, rows >> 6, ~_bit(rows))
