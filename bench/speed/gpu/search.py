"""Exact search on a GPU: how many pairs of codes it compares in a second, what share that is of what the device could,
and what PyTorch and FAISS on the same device, and the processor, take for the same.
"""

import datetime
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.table import Table

import queryopt
from queryopt.bench.machine import describe_machine
from queryopt.bench.speed.gpu.peers import GPU_PEERS, Cpu, Kernel, check_gpu_peers, open_gpu_peer
from queryopt.bench.speed.gpu.section import Figure, Turn, left_out_tables
from queryopt.bench.speed.search.check import Verdict, judge, plain_search
from queryopt.bench.speed.search.contender import SearchContender, Task, UnavailableError
from queryopt.bench.speed.search.data import Data, DataSpec, make_data
from queryopt.runtime.cuda import CudaRuntime, Device, open_runtime
from queryopt.runtime.search.gpu import Tuning
from queryopt.text import counted

__all__ = ["GpuReport", "GpuRow", "LeftOut", "measure_gpu_search", "memory_limit", "popcount_limit"]

_CHECKED = 3
"""Queries of a row whose answers are compared with a plain scan."""

_POPCOUNTS = 16
"""Population counts of 32 bits that a multiprocessor does in a clock cycle, on compute capabilities 7.5 to 12.0 (CUDA
C++ Programming Guide, throughput of native arithmetic instructions)."""

_NO_DEVICE = Device("the CPU in a GPU's place", 0, (0, 0), 0, 0)


@dataclass(frozen=True)
class GpuRow:
    """One kind of search by one searcher.

    seconds: of each call, from Python, copies of queries and results included. verdict: on the answers that were
    compared with a plain scan. promises_order: whether the order of equally near codes is to be that of ids. limits:
    pairs of a query and a code in a second that the device's population counts ('popcount') and one reading of the
    codes ('memory') allow, as far as they are known; empty for what runs elsewhere.
    """

    searcher: str
    bits: int
    data: str
    n: int
    queries: int
    k: int | None
    radius: int | None
    seconds: tuple[float, ...]
    verdict: Verdict
    promises_order: bool
    limits: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether the answers are as promised."""
        return self.verdict.ordered if self.promises_order else self.verdict.exact

    @property
    def median(self) -> float:
        """Seconds of a call, the median."""
        return statistics.median(self.seconds)

    @property
    def pairs(self) -> float:
        """Pairs of a query and a code in a second, from the median."""
        return self.n * self.queries / self.median

    @property
    def shares(self) -> dict[str, float]:
        """Pairs a second as a share of each limit; codes that half a code tells to be too far can take it above 1."""
        return {name: self.pairs / limit for name, limit in self.limits.items()}

    def to_dict(self) -> dict[str, Any]:
        """All fields and figures, JSON-serialisable."""
        return asdict(self) | {
            "right": self.right,
            "median": self.median,
            "pairs": self.pairs,
            "shares": self.shares,
        }


@dataclass(frozen=True)
class LeftOut:
    """A peer that did not take part in the searches of one gallery, or in one of them, and why."""

    searcher: str
    bits: int
    n: int
    what: str
    reason: str


@dataclass(frozen=True)
class GpuReport:
    """What was measured, on what. build: seconds to bring each gallery to the device."""

    runtime: str
    device: Device
    machine: str
    rows: tuple[GpuRow, ...]
    build: tuple[float, ...]
    left_out: tuple[LeftOut, ...] = ()
    version: str = queryopt.__version__
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    @property
    def wrong(self) -> tuple[GpuRow, ...]:
        """Rows of queryopt's with answers that are not right."""
        return tuple(row for row in self.rows if row.promises_order and not row.right)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self) | {"rows": [row.to_dict() for row in self.rows]}

    def tables(self) -> list[Table]:
        """All rows, and who did not take part."""
        title = f"{self.runtime}; {self.machine}"
        table = Table(box=None, header_style="dim", title=title, title_justify="left")
        table.add_column("searcher")
        columns = ("bits", "N", "queries", "search", "ms", "x kernel", "G pairs/s", "of popcount", "of memory", "right")
        for name in columns:
            table.add_column(name, justify="right")
        kernel = 0.0
        for row in self.rows:
            kernel = row.median if row.searcher == Kernel.name else kernel
            asked = f"k = {row.k:,}" if row.k is not None else f"radius {row.radius}"
            shares = (f"{row.shares[name]:.0%}" if name in row.shares else "" for name in ("popcount", "memory"))
            verdict = "ordered" if row.verdict.ordered else "yes" if row.verdict.exact else "NO"
            figures = (f"{row.median * 1e3:.3f}", f"{row.median / kernel:,.2f}", f"{row.pairs / 1e9:,.1f}")
            sizes = (str(row.bits), f"{row.n:,}", f"{row.queries:,}")
            table.add_row(row.searcher, *sizes, asked, *figures, *shares, verdict)
        return [table, *left_out_tables([(one.searcher, one.what, one.reason) for one in self.left_out])]

    def figures(self) -> list[Figure]:
        """Each of the kernel's searches: milliseconds, and how many times as long each peer took for the same."""
        figures: list[Figure] = []
        for row in self.rows:
            if row.searcher == Kernel.name:
                kernel = row
                asked = Task(row.k, row.radius, row.queries).describe()
                what = f"search of {row.n:,} codes of {row.bits} bits, {asked}"
                figures.append(Figure(what, f"{row.median * 1e3:.3f} ms", row.median))
            else:
                beside = f"; {row.searcher} {row.median / kernel.median:,.1f}x"
                figures[-1] = replace(figures[-1], value=figures[-1].value + beside)
        return figures

    def problems(self) -> list[str]:
        """Searches of queryopt's whose results are wrong."""
        return [
            f"{row.searcher}, {row.bits} bits, {counted(row.queries, 'query', 'queries')}: the results are not those "
            "of an exact search: this is a bug"
            for row in self.wrong
        ]


def popcount_limit(device: Device, bits: int) -> float | None:
    """Pairs a second that the device's population counts allow; None where its clock isn't known."""
    if not device.clock:
        return None
    return device.multiprocessors * _POPCOUNTS * device.clock / (1 if bits <= 32 else 2)


def memory_limit(device: Device, bits: int, queries: int) -> float | None:
    """Pairs a second if the codes are read once for all queries; None where the device's bandwidth isn't known."""
    return queries * device.bandwidth / (4 if bits <= 32 else 8) if device.bandwidth else None


def measure_gpu_search(
    data: Sequence[DataSpec],
    batches: Sequence[int],
    tasks: Sequence[Task],
    *,
    peers: Sequence[str] = GPU_PEERS,
    runtime: str | CudaRuntime | None = "auto",
    tuning: Tuning | None = None,
    rounds: int = 7,
    turn: Turn | None = None,
) -> GpuReport:
    """Search each of `data` with each of `batches` queries at once, for each of `tasks` (their own batch is ignored).

    peers: who else does so, in turn with the kernel; one that can't is left out, by name.
    runtime: as in `open_runtime`; None searches on the CPU in the kernel's place, for rehearsals.
    rounds: timed calls of each search, after one that isn't.
    turn: what it has no time for is left out.

    Raises MissingError without a GPU, or what runs it.
    """
    check_gpu_peers(tuple(peers))
    turn = turn or Turn()
    running = None if runtime is None else open_runtime(runtime)
    device = _NO_DEVICE if running is None else running.device
    rows: list[GpuRow] = []
    left_out: list[LeftOut] = []
    build: list[float] = []

    def leave_out(peer: str, made: Data, what: str, error: Exception) -> None:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        left_out.append(LeftOut(peer, made.bits, len(made.codes), what, reason))
        turn.log(f"without {peer} ({what}): {reason}")

    def report() -> GpuReport:
        name = device.name if running is None else running.name
        return GpuReport(name, device, describe_machine(), tuple(rows), tuple(build), tuple(left_out))

    took = 0.0  # the slowest step so far

    for spec in data:
        words = spec.describe() + (f", {spec.bits} bits" if spec.bits else "")
        if rows and not turn.has(took, words):
            continue
        before = turn.spent
        made = make_data(spec)
        started = time.perf_counter()
        searchers: list[SearchContender] = [Kernel(made.codes, made.bits, tasks[0], running, tuning)]
        build.append(time.perf_counter() - started)
        try:
            for peer in peers:
                # What a peer can do is asked for each task; its codes are the same for all.
                try:
                    searchers.append(open_gpu_peer(peer, made.codes, made.bits))
                except UnavailableError as error:
                    leave_out(peer, made, "all searches", error)
            took = max(took, turn.spent - before)
            for batch in batches:
                for task in (replace(task, batch=batch) for task in tasks):
                    if rows and not turn.has(took, f"{words}, {task.describe()}"):
                        continue
                    before = turn.spent
                    for searcher in searchers:
                        searcher.task = task
                    taking = []
                    for searcher in searchers:
                        # The first call, which isn't timed, tells whether it can do it: also whether memory suffices.
                        try:
                            taking.append((searcher, _answers(searcher, made, batch)))
                        except (UnavailableError, RuntimeError) as error:
                            if isinstance(searcher, Kernel):
                                raise
                            leave_out(searcher.name, made, task.describe(), error)
                    for row in _measure(taking, made, spec.describe(), task, rounds, device):
                        asked = f"{row.bits} bits, N = {row.n:,}, {task.describe()}"
                        turn.log(f"{row.searcher}: {asked}: {row.median * 1e3:.3f} ms")
                        rows.append(row)
                    took = max(took, turn.spent - before)
                    turn.keep(report())
        finally:
            for searcher in searchers:
                searcher.close()
    return report()


def _queries(made: Data, batch: int) -> Any:
    # Repeated where there are fewer than a batch takes.
    return made.queries[np.arange(batch) % len(made.queries)]


def _answers(searcher: SearchContender, made: Data, batch: int) -> Verdict:
    queries = _queries(made, batch)
    found = dict(enumerate(searcher.hits(searcher.ask(searcher.prepare(queries)))[:_CHECKED]))
    right = {query: plain_search(made.codes, queries[query], searcher.task) for query in found}
    return judge(found, right, made.codes, queries)


def _measure(
    taking: Sequence[tuple[SearchContender, Verdict]], made: Data, words: str, task: Task, rounds: int, device: Device
) -> list[GpuRow]:
    seconds: list[list[float]] = [[] for _ in taking]
    prepared = [searcher.prepare(_queries(made, task.batch)) for searcher, _ in taking]
    for turn in range(rounds):
        for i in range(len(taking)):
            one = (turn + i) % len(taking)
            started = time.perf_counter()
            taking[one][0].ask(prepared[one])
            seconds[one].append(time.perf_counter() - started)
    limits = {"popcount": popcount_limit(device, made.bits), "memory": memory_limit(device, made.bits, task.batch)}
    known = {name: limit for name, limit in limits.items() if limit}
    return [
        GpuRow(
            searcher.label,
            made.bits,
            words,
            len(made.codes),
            task.batch,
            task.k,
            task.radius,
            tuple(took),
            verdict,
            searcher.ordered,
            {} if isinstance(searcher, Cpu) else known,
        )
        for (searcher, verdict), took in zip(taking, seconds, strict=True)
    ]
