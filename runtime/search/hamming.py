"""The bare searcher: exact nearest codes by Hamming distance."""

# Signatures stay as they are written: in help(), npt.ArrayLike would fill a dozen lines each time.
from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_bits, check_codes, code_bytes
from queryopt.cores import usable_cores
from queryopt.errors import UsageError
from queryopt.runtime.search import ranked, saved
from queryopt.runtime.search.arguments import (
    MAX_ID,
    MAX_RESULTS,
    ascending,
    check_count,
    check_ids,
    check_results,
    check_wanted,
)
from queryopt.runtime.search.core import core_path
from queryopt.runtime.search.device import DeviceChoice, Devices
from queryopt.runtime.search.engines import Ids, NumpyEngine, Packed
from queryopt.runtime.search.explain import Cost, Explanation, SegmentExplanation
from queryopt.runtime.search.margins import UnknownMarginsError, check_margins
from queryopt.runtime.search.results import RadiusResult, SearchResult
from queryopt.runtime.search.saved import SavedIndex
from queryopt.runtime.search.segment import Part, Segment, merged
from queryopt.text import counted

if TYPE_CHECKING:
    from queryopt.runtime.cuda import CudaRuntime
    from queryopt.runtime.search import _core

__all__ = ["STRUCTURES", "HammingIndex"]

STRUCTURES: Final = ("auto", "scan", "table", "multi-index")
"""What HammingIndex can keep the codes in; 'auto' is a scan up to 20,000 codes, else a table up to 24 bits, else a
multi-index."""

_SCAN_UP_TO: Final = 20_000
"""As in native/build.cpp."""

_TABLE_BITS: Final = 24
"""As in native/build.cpp."""

_GROWTH: Final = 8
"""A segment is merged into the one before it unless that is so many times larger: a code is copied at most about so
many times for each factor of 8 that the index grows, and ten million codes are searched in at most 4 segments."""


@dataclass(frozen=True, eq=False)
class _State:
    """What a search sees: it never changes, so a search that has it needs no lock.

    segments: the largest first, roughly. core: the native core of the only segment, if there are no removed rows.
    next_id: larger than every id that was ever there.
    """

    segments: tuple[Segment, ...]
    next_id: int
    core: _core.Index | None = None


class HammingIndex:
    """Exact search by Hamming distance over codes in memory; results come in (distance, id) order.

    codes: uint8 [n, ceil(bits / 8)] or uint64 [n], n >= 0; copied.
    bits: the code length, 1..64.
    ids: unique integers >= 0 [n], in any order; the row numbers if None.
    structure: one of STRUCTURES. All give the same results; they differ in time and memory.
    threads: of the build and of searches for many queries; all of this process's processors if None.
    runtime: what reaches a GPU, for searches there: see `queryopt.runtime.cuda.open_runtime`; None is
        $QUERYOPT_CUDA_RUNTIME, else whatever is installed.

    Raises UsageError for another dtype, shape or k, and MismatchError where padding bits are set (codes of another
    length). Safe to search from several threads at once, also while others add and remove: a search sees all of an
    `add` or `remove`, or nothing of it.
    """

    def __init__(
        self,
        codes: npt.ArrayLike,
        bits: int,
        ids: npt.ArrayLike | None = None,
        *,
        structure: str = "auto",
        threads: int | None = None,
        runtime: str | CudaRuntime | None = None,
    ) -> None:
        self._bits = check_bits(bits)
        self._structure = _check_structure(structure)
        self._threads = _check_threads(threads)
        self._path = core_path()
        self._changing = threading.Lock()
        self._devices = Devices(runtime)
        packed = check_codes(codes, self._bits)
        sorted_ids = None if ids is None else check_ids(ids, len(packed))
        if sorted_ids is not None:
            packed, sorted_ids = _sorted(packed, sorted_ids)
            if len(packed) == 0 or sorted_ids[-1] == len(packed) - 1:
                sorted_ids = None
        next_id = len(packed) if sorted_ids is None else int(sorted_ids[-1]) + 1
        self._set([self._build(packed, sorted_ids)], next_id)

    @property
    def bits(self) -> int:
        """The code length."""
        return self._bits

    @property
    def structure(self) -> str:
        """What (most of) the codes are kept in: 'scan', 'table' or 'multi-index'."""
        segments = self._state.segments
        return segments[0].engine.structure if segments else "scan"

    @property
    def path(self) -> str:
        """What searches run on: 'avx512', 'avx2', 'plain' or 'numpy'."""
        segments = self._state.segments
        return segments[0].engine.path if segments else self._path

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the codes, their structures and the ids take."""
        return sum(segment.nbytes for segment in self._state.segments)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        """All ids, ascending: int64 [n]."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *(s.live_ids() for s in self._state.segments)]))

    def __repr__(self) -> str:
        return f"<HammingIndex: {counted(len(self), 'code', 'codes')} of {self._bits} bits, {self.structure}>"

    def __len__(self) -> int:
        return sum(segment.alive for segment in self._state.segments)

    def search(
        self,
        codes: npt.ArrayLike,
        k: int,
        *,
        logits: npt.ArrayLike | None = None,
        margins: npt.ArrayLike | None = None,
        rank: ranked.RankName = "id",
        allow: npt.ArrayLike | None = None,
        deny: npt.ArrayLike | None = None,
        device: str = "cpu",
    ) -> SearchResult:
        """The first k codes of each query, exactly; where fewer can be found, id -1 at distance bits + 1 fills up.

        codes: uint8 [queries, ceil(bits / 8)] or uint64 [queries]. k >= 0.
        rank: the order of the results. 'id' (or 'hamming') is (distance, id). 'margin' is (distance, m, id), with m the
            squared L2 distance of the code's margins (see `set_margins`) to the query's. For the others, a bit weighs
            as much as the query was sure of it, and w is the sum over the bits that differ: 'weighted' is
            (w, distance, id), 'tiebreak' (distance, w, id). The result has m or w as its scores. See `ranked.quantise`
            for the weights.
        logits: of the queries, real numbers [queries, bits]; 'weighted' and 'tiebreak' need them.
        margins: of the queries, int8 [queries, bits]; 'margin' needs them.
        allow: only these ids may be found (int [m]; those that are not there don't matter). deny: these may not.
        device: 'cpu'; 'cuda', where a GPU gets a copy of the codes at the first such search; or 'auto', which takes the
            GPU for many queries at once in many codes where there is one, and logs what it took (see `choose_device`).
            The results are the same. Other ranks and filters are the CPU's.
        """
        # A look-up takes a few microseconds, as much as careful checks: the core says whether it can take the codes.
        state = self._state
        core = state.core
        plain = allow is None and deny is None and device == "cpu"
        if core is not None and plain and type(codes) is np.ndarray and codes.ndim:
            count = len(codes)
            if type(k) is int and 0 <= k * count <= MAX_RESULTS:
                shape = (count, k)
                ids, distances = np.empty(shape, np.int64), np.empty(shape, np.int32)
                if rank == "id":
                    if core.search(codes, k, ids, distances, self._threads):
                        return SearchResult.of(ids, distances)
                elif rank == "margin":
                    scores, table = np.empty(shape, np.int32), state.segments[0].margins.values
                    done = core.search_by_margins(codes, margins, k, table, ids, distances, scores, self._threads)
                    if done is True:
                        return SearchResult.of(ids, distances, scores)
                    if done is not False:
                        raise UnknownMarginsError(done)
        rank = ranked.check_rank(rank)
        packed = check_codes(codes, self._bits)
        k = check_results(k, len(packed))
        own = check_margins(margins, len(packed), self._bits) if rank == "margin" else None
        weights = _check_weights(rank, logits, len(packed), self._bits)
        if device != "cpu" and self.choose_device(device, len(packed), _cpu_only(rank, allow, deny)).device == "cuda":
            return self._devices.copy_of(self._state.segments, self._bits).search(packed, k)
        if own is not None:
            missing: list[Ids] = []
            parts = self._parts(allow, deny)
            results = [part.search_by_margins(packed, own, k, self._threads, missing) for part in parts]
            if missing:
                raise UnknownMarginsError(np.concatenate(missing))
        else:
            results = [part.search(packed, k, weights, rank, self._threads) for part in self._parts(allow, deny)]
        return results[0] if len(results) == 1 else _first(results, len(packed), k, self._bits, rank)

    def search_radius(
        self,
        codes: npt.ArrayLike,
        radius: int,
        *,
        margins: npt.ArrayLike | None = None,
        allow: npt.ArrayLike | None = None,
        deny: npt.ArrayLike | None = None,
        device: str = "cpu",
    ) -> RadiusResult:
        """All codes at a distance <= radius (>= 0) of each query (the other arguments as in `search`).

        margins: of the queries, int8 [queries, bits], for the rank 'margin'; without them the order is (distance, id).
        """
        packed = check_codes(codes, self._bits)
        radius = min(check_count(radius, "radius"), self._bits)
        own = None if margins is None else check_margins(margins, len(packed), self._bits)
        rank: ranked.Rank = "id" if own is None else "margin"
        if device != "cpu" and self.choose_device(device, len(packed), _cpu_only(rank, allow, deny)).device == "cuda":
            return self._devices.copy_of(self._state.segments, self._bits).search_radius(packed, radius)
        parts = self._parts(allow, deny)
        if own is None:
            each = [RadiusResult(*part.search_radius(packed, radius, self._threads)) for part in parts]
        else:
            missing: list[Ids] = []
            each = [part.search_radius_by_margins(packed, own, radius, self._threads, missing) for part in parts]
            if missing:
                raise UnknownMarginsError(np.concatenate(missing))
        return each[0] if len(each) == 1 else _joined(each, len(packed), own is not None)

    def choose_device(self, device: str, queries: int, cpu_only: str | None = None) -> DeviceChoice:
        """Where a search for so many queries at once runs, and why.

        device: as in `search`. cpu_only: what only the CPU can do, in words, if the search needs it. UsageError for
        another device; MissingError for 'cuda' where there is no GPU or no package that reaches it.
        """
        return self._devices.choose(device, queries, len(self), cpu_only)

    def add(self, codes: npt.ArrayLike, ids: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
        """Add codes; searches that begin from now on find them. Returns their ids, int64 [n].

        codes: as for the index. ids: unique integers >= 0 [n] of which none is there; if None, the next ones after the
        largest id that was ever there. UsageError for an id that is there, and nothing is added.

        They lie in a segment of their own at first, which is merged into larger ones as it grows: adding many at once
        is much cheaper than one by one.
        """
        packed = check_codes(codes, self._bits)
        own_ids = None if ids is None else check_ids(ids, len(packed))
        return self._change(np.empty(0, np.int64), packed, own_ids)[1]

    def set_margins(self, ids: npt.ArrayLike, margins: npt.ArrayLike) -> None:
        """Give codes their margins: searches by them (rank 'margin') need those of every code that comes into question,
        and raise UnknownMarginsError, which names the others.

        ids: unique integers [n]; those that are not there don't matter. margins: int8 [n, bits], none 0, the sign of
        each the bit. A code that has margins keeps them, as it does its bits: `replace` changes both. `save` leaves
        them out.
        """
        wanted, order = ascending(check_ids(ids, np.size(ids)))
        own = check_margins(margins, len(wanted), self._bits)
        own = own if order is None else own[order]
        with self._changing:
            for segment in self._state.segments:
                segment.set_margins(wanted, own)

    def remove(self, ids: npt.ArrayLike) -> int:
        """Remove codes by id; searches that begin from now on don't find them. Returns how many were there.

        ids: integers [m], or one; those that are not there don't matter.
        """
        wanted = check_wanted(ids, "ids")
        return self._change(wanted, np.empty((0, code_bytes(self._bits)), np.uint8), np.empty(0, np.int64))[0]

    def replace(self, remove: npt.ArrayLike, codes: npt.ArrayLike, ids: npt.ArrayLike) -> int:
        """`remove` and `add` in one step: a search sees both or neither. Returns how many were removed.

        An id may be in both: its code is replaced.
        """
        wanted = check_wanted(remove, "remove")
        packed = check_codes(codes, self._bits)
        return self._change(wanted, packed, check_ids(ids, len(packed)))[0]

    def _change(self, remove: Ids, packed: Packed, ids: Ids | None) -> tuple[int, Ids]:
        """How many were removed, and the ids of the codes that were added."""
        with self._changing:
            state = self._state
            next_id = state.next_id
            if ids is None:
                if len(packed) > MAX_ID + 1 - next_id:
                    raise UsageError(f"the largest id is {MAX_ID}: there are no {len(packed)} after {next_id - 1}")
                ids = np.arange(next_id, next_id + len(packed))
            segments, removed = [], 0
            for segment in state.segments:
                rows = segment.rows_of(remove)
                segments.append(segment.without(rows) if len(rows) else segment)
                removed += len(rows)
            if len(packed):
                packed, ascending = _sorted(packed, ids)
                for segment in segments:
                    there = segment.rows_of(ascending)
                    if len(there):
                        id = there[0] if segment.ids is None else segment.ids[there[0]]
                        raise UsageError(f"id {id} is there already: remove it first")
                segments.append(self._build(packed, ascending))
                next_id = max(next_id, int(ascending[-1]) + 1)
            if removed or len(packed):
                self._set(segments, next_id)
            return removed, ids

    def compact(self) -> None:
        """Build all anew as one segment: what added and removed codes cost a search is gone."""
        with self._changing:
            segments = self._state.segments
            if len(segments) > 1 or any(segment.live is not None for segment in segments):
                self._rebuild()

    def restructure(self, structure: str) -> None:
        """Keep the codes, all of them and those to come, in another of STRUCTURES."""
        _check_structure(structure)
        with self._changing:
            self._structure = structure
            self._rebuild()

    def _rebuild(self) -> None:
        state = self._state
        if state.segments:
            whole = merged(list(state.segments), self._structure, self._path, self._threads)
            self._set([whole], state.next_id, settle=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file that `open` takes. A file of that name is replaced, when the new one is whole.

        UsageError where it can't be written.
        """
        state = self._state
        saved.save(path, SavedIndex(self._bits, self._structure, state.next_id, state.segments))

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, mapped: bool = True, verify: bool = True, threads: int | None = None
    ) -> HammingIndex:
        """Open a file that `save` wrote, without building anything.

        mapped: map the file (its pages come from the disk when first used, and processes share them), or read it into
        memory (quicker searches: with large memory pages). verify: compare all checksums, which reads the whole file.
        Codes can be added and removed as always; the file stays as it is until the next `save`.

        UsageError where there is no such file; FormatError where it is cut off, damaged, foreign, or newer.
        """
        index = cls.__new__(cls)
        index._threads = _check_threads(threads)
        index._path = core_path()
        index._changing = threading.Lock()
        index._devices = Devices()
        loaded = saved.load(path, index._path, mapped, verify)
        index._bits, index._structure = loaded.bits, loaded.structure
        index._set(loaded.segments, loaded.next_id, settle=False)
        return index

    def explain(
        self,
        codes: npt.ArrayLike | None = None,
        k: int = 10,
        *,
        radius: int | None = None,
        logits: npt.ArrayLike | None = None,
        rank: ranked.RankName = "id",
    ) -> Explanation:
        """Which structures there are and why, and what searches for these codes cost.

        codes, logits, rank: as in `search`; k, or `radius`: what is searched for. `print` shows it as a few lines. By
        'margin' a search does what it does by 'id', and reads the margins of all that is as near as the last hit.
        """
        rank = ranked.check_rank(rank)
        state = self._state
        costs: tuple[Cost, ...] = ()
        if codes is not None:
            packed = check_codes(codes, self._bits)
            k = check_count(k, "k")
            limit = self._bits if radius is None else min(check_count(radius, "radius"), self._bits)
            nearest = None if radius is not None else k
            weights = None if radius is not None else _check_weights(rank, logits, len(packed), self._bits)
            spent = [
                s.engine.explain(packed, nearest, limit, s.live)
                if weights is None
                else s.engine.explain_ranked(packed, weights, k, rank, s.live)
                for s in state.segments
            ]
            costs = tuple(_total(of_query) for of_query in zip(*filter(None, spent), strict=True))
        return Explanation(
            self._bits,
            sum(segment.alive for segment in state.segments),
            self.path,
            self._threads,
            sum(segment.nbytes for segment in state.segments),
            tuple(
                SegmentExplanation(
                    segment.engine.structure,
                    self._reason(segment),
                    segment.count,
                    segment.count - segment.alive,
                    segment.engine.unique,
                    segment.nbytes,
                )
                for segment in state.segments
            ),
            costs,
        )

    def _parts(self, allow: npt.ArrayLike | None, deny: npt.ArrayLike | None) -> list[Part]:
        allowed = None if allow is None else check_wanted(allow, "allow")
        denied = None if deny is None else check_wanted(deny, "deny")
        parts = (segment.part(allowed, denied, self._threads) for segment in self._state.segments)
        return [part for part in parts if part is not None]

    def _build(self, packed: Packed, ids: Ids | None) -> Segment:
        return Segment.build(packed, self._bits, ids, self._structure, self._path, self._threads)

    def _set(self, segments: Sequence[Segment], next_id: int, settle: bool = True) -> None:
        """Make this the state, after merging what is too small or too thin to stay by itself."""
        kept = [segment for segment in segments if segment.alive]
        if settle:
            kept = [self._dense(segment) for segment in kept]
            while len(kept) > 1 and kept[-2].alive < max(_GROWTH * kept[-1].alive, _SCAN_UP_TO):
                kept[-2:] = [merged(kept[-2:], self._structure, self._path, self._threads)]
        core = None
        if len(kept) == 1 and kept[0].live is None and not isinstance(kept[0].engine, NumpyEngine):
            core = kept[0].engine
        self._state = _State(tuple(kept), next_id, core)

    def _dense(self, segment: Segment) -> Segment:
        return (
            merged([segment], self._structure, self._path, self._threads)
            if 2 * segment.alive <= segment.count
            else segment
        )

    def _reason(self, segment: Segment) -> str:
        engine = segment.engine
        if isinstance(engine, NumpyEngine):
            return "NumPy only scans"
        if self._structure != "auto":
            return "as asked for"
        if engine.structure == "scan":
            return f"up to {_SCAN_UP_TO:,} codes a scan is quickest"
        few = engine.structure == "table"
        return f"over {_SCAN_UP_TO:,} codes, {'up to' if few else 'over'} {_TABLE_BITS} bits"


def _sorted(packed: Packed, ids: Ids) -> tuple[Packed, Ids]:
    """Both in the order of the ids. UsageError where one is there twice."""
    ids, order = ascending(ids)
    return packed if order is None else packed[order], ids


def _check_weights(
    rank: ranked.Rank, logits: npt.ArrayLike | None, queries: int, bits: int
) -> npt.NDArray[np.uint16] | None:
    """The weights that a rank needs; None for 'id' and 'margin', which need none."""
    if rank in ("id", "margin"):
        return None
    if logits is None:
        raise UsageError(f"rank {rank!r} needs the queries' logits: give logits=")
    weights = ranked.quantise(logits, bits)
    if len(weights) != queries:
        raise UsageError(f"there are logits of {len(weights)} queries, and {queries} codes")
    return weights


def _first(results: Sequence[SearchResult], queries: int, k: int, bits: int, rank: ranked.Rank) -> SearchResult:
    """The first k of several results, of k each, that have no id in common."""
    if not results:
        shape = (queries, k)
        ids, distances = np.full(shape, -1, np.int64), np.full(shape, bits + 1, np.int32)
        return SearchResult(ids, distances, None if rank == "id" else np.full(shape, -1, np.int32))
    ids = np.concatenate([result.ids for result in results], axis=1)
    distances = np.concatenate([result.distances for result in results], axis=1)
    if rank == "id":
        # Where there are too few, -1 comes at bits + 1: last.
        return SearchResult(*_reordered(k, (ids, distances), ids, distances))
    scores = np.concatenate([result.scores for result in results if result.scores is not None], axis=1)
    keys = (ids, distances, scores) if rank == "weighted" else (ids, scores, distances)
    return SearchResult(*_reordered(k, (*keys, ids < 0), ids, distances, scores))


def _joined(each: Sequence[RadiusResult], queries: int, by_margins: bool) -> RadiusResult:
    """The hits of several searches (none, too) for the same queries, that have no id in common."""
    counts = [np.diff(one.offsets) for one in each]
    query = np.concatenate([np.empty(0, np.int64), *(np.repeat(np.arange(queries), c) for c in counts)])
    ids = np.concatenate([np.empty(0, np.int64), *(one.ids for one in each)])
    distances = np.concatenate([np.empty(0, np.int32), *(one.distances for one in each)])
    scores = np.concatenate([np.empty(0, np.int32), *(one.scores for one in each if one.scores is not None)])
    order = np.lexsort((ids, scores, distances, query) if by_margins else (ids, distances, query))
    offsets = np.zeros(queries + 1, np.int64)
    np.cumsum(sum(counts, np.zeros(queries, np.int64)), out=offsets[1:])
    return RadiusResult(offsets, ids[order], distances[order], scores[order] if by_margins else None)


def _reordered(k: int, keys: tuple[npt.NDArray[Any], ...], *arrays: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The first k columns of each array [queries, columns] in the order of the keys, of which the last counts most."""
    order = np.lexsort(keys, axis=1)[:, :k]
    if len(order) == 1:  # a third of the time of what does for any number
        return (array[:, order[0]] for array in arrays)
    return (np.take_along_axis(array, order, axis=1) for array in arrays)


def _total(spent: Iterable[tuple[int, int, int, bool]]) -> Cost:
    """What a query did in all segments."""
    buckets, codes, shells, scanned = zip(*spent, strict=True)
    return Cost(sum(buckets), sum(codes), sum(shells), any(scanned))


def _cpu_only(rank: str, allow: object, deny: object) -> str | None:
    """What of a search a GPU can't do."""
    if rank != "id":
        return f"rank={rank!r}"
    return None if allow is None and deny is None else "a filter"


def _check_structure(structure: str) -> str:
    if structure not in STRUCTURES:
        raise UsageError(f"structure is {structure!r}: it is one of {', '.join(STRUCTURES)}")
    return structure


def _check_threads(threads: int | None) -> int:
    if threads is None:
        return usable_cores()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads is {threads!r}: it is an integer >= 1")
    return threads
