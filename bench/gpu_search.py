"""Exact search on a GPU: how many pairs of codes it compares in a second, and what share that is of what it could."""

import datetime
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import queryopt
from queryopt.bench.machine import describe_machine
from queryopt.bench.search.check import plain_search
from queryopt.bench.search.data import Data, DataSpec, make_data
from queryopt.bench.search.peers.base import Task
from queryopt.runtime.cuda import CudaRuntime, Device, open_runtime
from queryopt.runtime.search.gpu import CudaHammingIndex, Tuning

__all__ = ["GpuReport", "GpuRow", "measure_gpu_search", "popcount_limit"]

_CHECKED = 3
"""Queries of a row whose answers are compared with a plain scan."""

_POPCOUNTS = 16
"""Population counts of 32 bits that a multiprocessor does in a clock cycle, on compute capabilities 7.5 to 12.0 (CUDA
C++ Programming Guide, throughput of native arithmetic instructions)."""


@dataclass(frozen=True)
class GpuRow:
    """One kind of search. seconds: of each call, from Python, copies of queries and results included. right: whether
    the answers that were checked are those of a plain scan, ids and distances and order.
    """

    bits: int
    data: str
    n: int
    queries: int
    k: int | None
    radius: int | None
    seconds: tuple[float, ...]
    right: bool
    roofline: float | None

    @property
    def median(self) -> float:
        """Seconds of a call, the median."""
        return statistics.median(self.seconds)

    @property
    def pairs(self) -> float:
        """Pairs of a query and a code in a second, from the median."""
        return self.n * self.queries / self.median

    @property
    def share(self) -> float | None:
        """Pairs a second as a share of the roofline; codes that half a code tells to be too far can take it above 1."""
        return self.pairs / self.roofline if self.roofline else None

    def to_dict(self) -> dict[str, Any]:
        """All fields and figures, JSON-serialisable."""
        return asdict(self) | {"median": self.median, "pairs": self.pairs, "share": self.share}


@dataclass(frozen=True)
class GpuReport:
    """What was measured, on what. build: seconds to bring each gallery to the device."""

    runtime: str
    device: Device
    machine: str
    rows: tuple[GpuRow, ...]
    build: tuple[float, ...]
    version: str = queryopt.__version__
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    @property
    def wrong(self) -> tuple[GpuRow, ...]:
        """Rows with answers that are not right."""
        return tuple(row for row in self.rows if not row.right)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self) | {"rows": [row.to_dict() for row in self.rows]}


def popcount_limit(device: Device, bits: int) -> float | None:
    """Pairs a second that the device's population counts allow; None where its clock isn't known."""
    if not device.clock:
        return None
    return device.multiprocessors * _POPCOUNTS * device.clock / (1 if bits <= 32 else 2)


def measure_gpu_search(
    data: Sequence[DataSpec],
    batches: Sequence[int],
    tasks: Sequence[Task],
    *,
    runtime: str | CudaRuntime = "auto",
    tuning: Tuning | None = None,
    rounds: int = 7,
    log: Callable[[str], object] = lambda message: None,
) -> GpuReport:
    """Search each of `data` with each of `batches` queries at once, for each of `tasks` (their own batch is ignored).

    rounds: timed calls of each search, after one that isn't. Raises MissingError without a GPU, or what runs it.
    """
    running = open_runtime(runtime)
    rows: list[GpuRow] = []
    build: list[float] = []
    for spec in data:
        made = make_data(spec)
        started = time.perf_counter()
        with CudaHammingIndex(made.codes, made.bits, None, running, tuning) as index:
            build.append(time.perf_counter() - started)
            for batch in batches:
                for task in tasks:
                    row = _measure(index, made, spec.describe(), batch, task, rounds)
                    asked = f"k = {task.k:,}" if task.k is not None else f"radius {task.radius}"
                    log(f"{row.bits} bits, N = {row.n:,}, {batch:,} queries, {asked}: {row.median * 1e3:.3f} ms")
                    rows.append(row)
    return GpuReport(running.name, running.device, describe_machine(), tuple(rows), tuple(build))


def _measure(index: CudaHammingIndex, data: Data, words: str, batch: int, task: Task, rounds: int) -> GpuRow:
    # Queries are repeated where there are fewer than a batch takes.
    queries = data.queries[np.arange(batch) % len(data.queries)]

    def search() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        if task.radius is not None:
            near = index.search_radius(queries, task.radius)
            return near.ids, near.distances, near.offsets
        assert task.k is not None
        best = index.search(queries, task.k)
        return best.ids.ravel(), best.distances.ravel(), np.arange(batch + 1, dtype=np.int64) * task.k

    ids, distances, offsets = search()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        search()
        seconds.append(time.perf_counter() - started)
    right = True
    for query in range(min(_CHECKED, batch)):
        part = slice(offsets[query], offsets[query + 1])
        expected = plain_search(data.codes, queries[query], task)
        found = ids[part] >= 0
        right &= np.array_equal(ids[part][found], expected.ids)
        right &= np.array_equal(distances[part][found], expected.distances)
    limit = popcount_limit(index.runtime.device, index.bits)
    return GpuRow(index.bits, words, len(index), batch, task.k, task.radius, tuple(seconds), right, limit)
