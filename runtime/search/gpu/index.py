"""Exact search by Hamming distance on a GPU."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_bits, check_codes, codes_to_uint64
from queryopt.errors import DeviceMemoryError, UsageError
from queryopt.runtime.cuda import Address, CudaRuntime, Kernel, Memory, Program, open_runtime
from queryopt.runtime.search.arguments import ascending, check_count, check_ids, check_results
from queryopt.runtime.search.gpu.plan import (
    BLOCK_WARPS,
    MAX_ROWS,
    NearestPlan,
    RadiusPlan,
    Tuning,
    plan_nearest,
    plan_radius,
)
from queryopt.runtime.search.results import RadiusResult, SearchResult

__all__ = ["PROGRAM", "CudaHammingIndex"]

PROGRAM: Final = Program(
    Path(__file__).with_name("hamming.cu"),
    (
        "nearest_seed_32",
        "nearest_seed_64",
        "nearest_scan_32",
        "nearest_scan_64",
        "nearest_select",
        "radius_count_32",
        "radius_count_64",
        "radius_offsets",
        "radius_fill_32",
        "radius_fill_64",
    ),
)
"""The kernels: _32 for codes up to 32 bits, _64 for longer ones."""

_BINS = 96
"""Counters of one query: kBins of hamming.cu."""
_UPLOAD_ROWS = 1 << 22
"""Rows that are brought to the device at a time: 32 MiB of 64-bit words."""
_BLOCK_THREADS = 32 * BLOCK_WARPS
_LEAST_WORKSPACE = 1 << 16
"""Below this many bytes a search that finds no memory gives up."""

_log = logging.getLogger("queryopt")


class CudaHammingIndex:
    """Exact search by Hamming distance over codes in a GPU's memory; the results are HammingIndex's, bit for bit.

    codes: uint8 [n, ceil(bits / 8)] or uint64 [n], n >= 0; copied to the device, 4 bytes a code up to 32 bits, else 8.
    bits: the code length, 1..64.
    ids: unique integers >= 0 [n], in any order; kept in the host's memory. The row numbers if None.
    runtime: what runs the kernels, see queryopt.runtime.cuda.open_runtime.
    tuning: how much more device memory a search may take, and how finely it is cut.

    Every query is compared with every code. Beside the codes and the results, a search takes about tuning.workspace
    bytes at most, however the distances lie; except that k near n takes 4 bytes a row, and a radius search 9 bytes a
    hit of a single query. Where the device has less it takes less, in more rounds, and says so. Safe to use from
    several threads at once; searches then wait for each other.

    Raises UsageError for another dtype, shape or k, MismatchError where padding bits are set (codes of another length),
    MissingError where there is no runtime, driver or device, DeviceMemoryError where the device's memory is too small.
    """

    def __init__(
        self,
        codes: npt.ArrayLike,
        bits: int,
        ids: npt.ArrayLike | None = None,
        runtime: str | CudaRuntime = "auto",
        tuning: Tuning | None = None,
    ) -> None:
        self._bits = check_bits(bits)
        packed = check_codes(codes, self._bits)
        if len(packed) > MAX_ROWS:
            raise UsageError(f"{len(packed)} codes: an index on one GPU holds {MAX_ROWS} at most; make several")
        self._count = len(packed)
        order: npt.NDArray[np.intp] | None = None
        self._ids: npt.NDArray[np.int64] | None = None
        if ids is not None:
            self._ids, order = ascending(check_ids(ids, self._count))
            if not self._count or self._ids[-1] == self._count - 1:
                self._ids = None  # the row numbers
        self._tuning = tuning or Tuning()
        self._runtime = open_runtime(runtime)
        self._word: np.dtype[Any] = np.dtype(np.uint32 if self._bits <= 32 else np.uint64)
        self._kernels = self._runtime.load(PROGRAM)
        self._stream = self._runtime.stream()
        self._lock = threading.Lock()
        self._buffers: dict[str, Memory] = {}
        self._codes: Memory | None = None  # None where there are no codes
        self._closed = False
        self._load(packed, order)

    @property
    def bits(self) -> int:
        return self._bits

    @property
    def runtime(self) -> CudaRuntime:
        return self._runtime

    @property
    def nbytes(self) -> int:
        """Bytes of device memory that the codes take."""
        return self._count * self._word.itemsize

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Give the device's memory back; the index can't be searched any more. Twice does no harm."""
        with self._lock:
            self._free_buffers()
            if self._codes is not None:
                self._codes.free()
            self._codes, self._closed = None, True

    def __enter__(self) -> "CudaHammingIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def search(self, codes: npt.ArrayLike, k: int) -> SearchResult:
        """The k nearest codes of each query (codes: uint8 [queries, ceil(bits / 8)] or uint64 [queries]; k >= 0)."""
        words = self._words(check_codes(codes, self._bits))
        k = check_results(k, len(words))
        ids = np.full((len(words), k), -1, np.int64)
        distances = np.full((len(words), k), self._bits + 1, np.int32)
        within = min(k, self._count)
        if len(words) and within:
            rows, near = np.empty((len(words), within), np.int64), np.empty((len(words), within), np.int32)
            with self._searching():
                self._retry(lambda: self._search(words, within, rows, near))
            ids[:, :within] = rows if self._ids is None else self._ids[rows]
            distances[:, :within] = near
        return SearchResult(ids, distances)

    def search_radius(self, codes: npt.ArrayLike, radius: int) -> RadiusResult:
        """All codes at a distance <= radius (>= 0) of each query (codes as in `search`)."""
        words = self._words(check_codes(codes, self._bits))
        radius = min(check_count(radius, "radius"), self._bits)
        totals = np.zeros(len(words), np.int64)
        rows: list[npt.NDArray[np.int64]] = []
        near: list[npt.NDArray[np.uint8]] = []
        if len(words) and self._count:
            with self._searching():
                self._retry(lambda: self._search_radius(words, radius, totals, rows, near))
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum(totals, out=offsets[1:])
        all_rows = np.concatenate([np.empty(0, np.int64), *rows])
        distances = np.concatenate([np.empty(0, np.uint8), *near]).astype(np.int32)
        return RadiusResult(offsets, all_rows if self._ids is None else self._ids[all_rows], distances)

    @contextmanager
    def _searching(self) -> Iterator[None]:
        """One search at a time, and none of a closed index."""
        with self._lock:
            if self._closed:
                raise UsageError("this index is closed")
            yield

    def _retry(self, search: Callable[[], None]) -> None:
        """Search, in smaller rounds where the device's memory is short: others use it too."""
        while True:
            try:
                return search()
            except DeviceMemoryError as error:
                if self._tuning.workspace < _LEAST_WORKSPACE:
                    raise
                self._free_buffers()
                self._tuning = replace(self._tuning, workspace=self._tuning.workspace // 4)
                _log.warning("%s: searching in %d bytes from now on", error, self._tuning.workspace)

    def _search(
        self, words: npt.NDArray[Any], k: int, rows: npt.NDArray[np.int64], near: npt.NDArray[np.int32]
    ) -> None:
        """The k <= n nearest rows of each query into `rows` and `near` [queries, k]."""
        start = 0
        while start < len(words):
            plan = plan_nearest(self._count, len(words) - start, k, self._resident("nearest_scan"), self._tuning)
            end = start + plan.queries
            nearest, distances = self._nearest(words[start:end], k, plan)
            self._stream.download(rows[start:end], nearest)
            self._stream.download(near[start:end], distances)
            self._stream.synchronize()
            start = end

    def _nearest(self, words: npt.NDArray[Any], k: int, plan: NearestPlan) -> tuple[Memory, Memory]:
        """Give the stream one round: the memory that rows int64 and distances int32 [queries, k] will lie in."""
        codes, count = self._codes, len(words)
        assert codes is not None
        queries = self._buffer("queries", words.nbytes)
        limits = self._buffer("limits", 4 * count)
        counts = self._buffer("counts", 4 * count * _BINS)
        lists = self._buffer("lists", plan.list_bytes)
        sizes = self._buffer("sizes", 4 * count * plan.warps)
        rows = self._buffer("rows", 8 * count * k)
        near = self._buffer("near", 4 * count * k)
        n, u32 = np.uint64(self._count), np.uint32
        self._stream.upload(queries, words)
        self._stream.launch(
            self._kernel("nearest_seed"),
            count,
            self._tuning.select_threads,
            *(codes, n, queries, u32(k), u32(self._bits), u32(plan.sample), limits, counts),
        )
        self._stream.launch(
            self._kernel("nearest_scan"),
            (plan.blocks, plan.groups),
            _BLOCK_THREADS,
            *(codes, n, queries, u32(count), u32(plan.group), u32(k), u32(self._bits)),
            *(u32(plan.rows_per_warp), u32(plan.capacity), limits, counts, lists, sizes),
        )
        self._stream.launch(
            self._kernels["nearest_select"],
            count,
            self._tuning.select_threads,
            *(u32(k), u32(plan.warps), u32(plan.rows_per_warp), u32(plan.capacity)),
            *(limits, lists, sizes, rows, near),
        )
        return rows, near

    def _search_radius(
        self,
        words: npt.NDArray[Any],
        radius: int,
        totals: npt.NDArray[np.int64],
        rows: list[npt.NDArray[np.int64]],
        near: list[npt.NDArray[np.uint8]],
    ) -> None:
        """All rows within the radius: how many of each query into `totals` [queries], the rows to the lists."""
        rows.clear()
        near.clear()
        start = 0
        while start < len(words):
            plan = plan_radius(self._count, len(words) - start, radius, self._resident("radius_count"), self._tuning)
            end = start + plan.queries
            part = totals[start:end]
            self._count_within(words[start:end], radius, plan, part)
            first = 0
            while first < len(part):
                # As many queries as the workspace holds hits of, one at least.
                room = max(1, self._tuning.workspace // 9)
                last = max(first + 1, int(np.searchsorted(np.cumsum(part[first:]), room, side="right")) + first)
                if part[first:last].any():
                    self._fill_within(radius, plan, first, part[first:last], rows, near)
                first = last
            start = end

    def _count_within(
        self, words: npt.NDArray[Any], radius: int, plan: RadiusPlan, totals: npt.NDArray[np.int64]
    ) -> None:
        """Hits of each query into `totals`; each warp's places, by query and distance, are left on the device."""
        codes, count = self._codes, len(words)
        assert codes is not None
        queries = self._buffer("queries", words.nbytes)
        counts = self._buffer("counts", plan.count_bytes(radius))
        sums = self._buffer("totals", 8 * count)
        u32 = np.uint32
        self._stream.upload(queries, words)
        self._stream.launch(
            self._kernel("radius_count"),
            (plan.blocks, plan.groups),
            _BLOCK_THREADS,
            *(codes, np.uint64(self._count), queries, u32(count), u32(plan.group), u32(radius)),
            *(u32(plan.rows_per_warp), counts),
        )
        self._stream.launch(
            self._kernels["radius_offsets"],
            count,
            self._tuning.select_threads,
            *(u32((radius + 1) * plan.warps), counts, sums),
        )
        self._stream.download(totals, sums)
        self._stream.synchronize()

    def _fill_within(
        self,
        radius: int,
        plan: RadiusPlan,
        first: int,
        totals: npt.NDArray[np.int64],
        rows: list[npt.NDArray[np.int64]],
        near: list[npt.NDArray[np.uint8]],
    ) -> None:
        """The hits of the round's queries from `first` on, as many queries as there are totals."""
        codes, count = self._codes, len(totals)
        assert codes is not None
        starts = np.zeros(count, np.int64)
        np.cumsum(totals[:-1], out=starts[1:])
        hits = int(totals.sum())
        offsets = self._buffer("offsets", 8 * count)
        within = self._buffer("rows", 8 * hits)
        distances = self._buffer("near", hits)
        u32 = np.uint32
        self._stream.upload(offsets, starts)
        self._stream.launch(
            self._kernel("radius_fill"),
            (plan.blocks, -(-count // plan.group)),
            _BLOCK_THREADS,
            *(codes, np.uint64(self._count), Address(self._buffers["queries"], first * self._word.itemsize)),
            *(u32(count), u32(plan.group), u32(radius), u32(plan.rows_per_warp)),
            *(Address(self._buffers["counts"], 4 * first * (radius + 1) * plan.warps), offsets, within, distances),
        )
        rows.append(np.empty(hits, np.int64))
        near.append(np.empty(hits, np.uint8))
        self._stream.download(rows[-1], within)
        self._stream.download(near[-1], distances)
        self._stream.synchronize()

    def _free_buffers(self) -> None:
        self._stream.synchronize()
        for memory in self._buffers.values():
            memory.free()
        self._buffers = {}

    def _load(self, packed: npt.NDArray[np.uint8], order: npt.NDArray[np.intp] | None) -> None:
        """Bring the codes to the device, rows ascending by id, without a second copy of all of them on the host."""
        if not self._count:
            return
        try:
            self._codes = self._runtime.allocate(self.nbytes)
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"{self._count} codes of {self._bits} bits take {self.nbytes} bytes of the GPU's memory: {error}; "
                "search on the CPU, or spread the codes over several GPUs"
            ) from None
        for start in range(0, self._count, _UPLOAD_ROWS):
            part = (
                packed[start : start + _UPLOAD_ROWS] if order is None else packed[order[start : start + _UPLOAD_ROWS]]
            )
            self._stream.upload(self._codes, self._words(part), start * self._word.itemsize)
        self._stream.synchronize()

    def _words(self, packed: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Packed codes as the device's words, [n]."""
        return codes_to_uint64(packed, self._bits).astype(self._word, copy=False)

    def _kernel(self, name: str) -> Kernel:
        return self._kernels[f"{name}_{8 * self._word.itemsize}"]

    def _resident(self, kernel: str) -> int:
        """Blocks of a kernel that the device runs at a time."""
        return self._runtime.device.multiprocessors * self._kernel(kernel).resident_blocks(_BLOCK_THREADS)

    def _buffer(self, name: str, nbytes: int) -> Memory:
        """Memory of that size or more, kept for the next search; what was in it is lost when it grows."""
        held = self._buffers.get(name)
        if held is None or held.nbytes < nbytes:
            if held is not None:
                self._stream.synchronize()
                del self._buffers[name]
                held.free()
            # A quarter more, so that sizes that creep up don't allocate each time.
            held = self._buffers[name] = self._runtime.allocate(nbytes + nbytes // 4)
        return held
