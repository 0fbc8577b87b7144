"""The section `search`: pairs of codes that a GPU compares in a second, their share of what the device could, and what
PyTorch and FAISS on the same device, and the processor, take for the same.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import queryopt
from queryopt.bench.machine import load_average, take_head
from queryopt.bench.speed.gpu.peers import Cpu, Kernel, open_gpu_peer
from queryopt.bench.speed.gpu.section import Figure, GpuOptions, SectionReport, Turn
from queryopt.bench.speed.harness import Contender, Schedule, run_rounds, timed
from queryopt.bench.speed.search.check import Verdict, judge, plain_search
from queryopt.bench.speed.search.contender import SearchContender, Task
from queryopt.bench.speed.search.data import Data, DataSpec, make_data
from queryopt.bench.tables import figures_table
from queryopt.runtime.cuda import CudaRuntime, Device, open_runtime
from queryopt.runtime.search.gpu import Tuning
from queryopt.text import counted

__all__ = ["GpuRow", "LeftOut", "measure_search", "memory_limit", "popcount_limit"]

_T = TypeVar("_T")
_CHECKED = 3
"""Queries of a row whose answers are compared with a plain scan."""

_POPCOUNTS = 16
"""Population counts of 32 bits that a multiprocessor does in a clock cycle, on compute capabilities 7.5 to 12.0 (CUDA
C++ Programming Guide, throughput of native arithmetic instructions)."""

_NO_DEVICE = Device("the CPU in a GPU's place", 0, (0, 0), 0, 0)


@dataclass(frozen=True)
class GpuRow:
    """One kind of search by one contender.

    seconds: of each call, from Python, copies of queries and results included.
    verdict: on the answers that were compared with a plain scan.
    promises_order: whether the order of equally near codes is to be that of ids.
    limits: pairs of a query and a code in a second that the device's population counts ('popcount') and one reading of
    the codes ('memory') allow, as far as they are known; empty for what runs elsewhere.
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

    @property
    def task(self) -> Task:
        return Task(self.k, self.radius, self.queries)

    def to_dict(self) -> dict[str, Any]:
        """All fields and figures, JSON-serialisable."""
        figures = {"right": self.right, "median": self.median, "pairs": self.pairs, "shares": self.shares}
        return asdict(self) | figures


@dataclass(frozen=True)
class LeftOut:
    """A peer that did not take part in the searches of one gallery, or in one of them, and why."""

    searcher: str
    bits: int
    n: int
    what: str
    reason: str


def popcount_limit(device: Device, bits: int) -> float | None:
    """Pairs a second that the device's population counts allow; None where its clock isn't known."""
    if not device.clock:
        return None
    return device.multiprocessors * _POPCOUNTS * device.clock / (1 if bits <= 32 else 2)


def memory_limit(device: Device, bits: int, queries: int) -> float | None:
    """Pairs a second if the codes are read once for all queries; None where the device's bandwidth isn't known."""
    return queries * device.bandwidth / (4 if bits <= 32 else 8) if device.bandwidth else None


def measure_search(options: GpuOptions, turn: Turn, tuning: Tuning | None = None) -> SectionReport:
    """Search each of the data with each number of queries at once, for each of the tasks (their own is ignored).

    Peers do so in turn with the kernel; one that can't is left out, by name. The first call of each search isn't timed.
    In a rehearsal, which has no runtime, the CPU searches in the kernel's place. MissingError without a GPU, or what
    runs it.
    """
    runtime = None if options.runtime is None else open_runtime(options.runtime)
    search = _Search(runtime, tuning, options.rounds, turn)
    tasks = [replace(task, batch=batch) for batch in options.batches for task in options.tasks]
    for spec in options.data:
        search.gallery(spec, tasks, options.peers)
    return search.report()


@dataclass
class _Search:
    """What was measured so far. build: seconds to bring each gallery to the device. slowest: seconds of a step."""

    runtime: CudaRuntime | None
    tuning: Tuning | None
    rounds: int
    turn: Turn
    rows: list[GpuRow] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    build: list[float] = field(default_factory=list)
    slowest: float = 0.0
    load: float | None = field(default_factory=load_average)

    @property
    def device(self) -> Device:
        return _NO_DEVICE if self.runtime is None else self.runtime.device

    def gallery(self, spec: DataSpec, tasks: Sequence[Task], peers: Sequence[str]) -> None:
        """Do all tasks on one gallery, as far as there is time."""
        words = spec.describe() + (f", {spec.bits} bits" if spec.bits else "")
        if not self._has_time(words):
            return
        before = self.turn.spent
        data = make_data(spec)
        contenders: list[SearchContender] = []
        try:
            kernel = partial(Kernel, data.codes, data.bits, tasks[0], self.runtime, self.tuning)
            self.build.append(timed(lambda: contenders.append(kernel())).wall)
            for peer in peers:
                # What a peer can do is asked for each task; its codes are the same for all.
                opened = self._attempt(peer, data, "all searches", partial(open_gpu_peer, peer, data.codes, data.bits))
                contenders += [] if opened is None else [opened]
            self.slowest = max(self.slowest, self.turn.spent - before)
            for task in tasks:
                if self._has_time(f"{words}, {task.describe()}"):
                    before = self.turn.spent
                    self.task(task, data, spec.describe(), contenders)
                    self.slowest = max(self.slowest, self.turn.spent - before)
                    self.turn.keep(self.report())
        finally:
            for contender in contenders:
                contender.close()

    def task(self, task: Task, data: Data, words: str, contenders: Sequence[SearchContender]) -> None:
        """Do a task by all contenders that can, in turn."""
        # Repeated where there are fewer than a batch takes.
        queries = data.queries[np.arange(task.batch) % len(data.queries)]
        verdicts: dict[SearchContender, Verdict] = {}
        for contender in contenders:
            contender.task = task
            # The first call, which isn't timed, tells whether it can do it: also whether memory suffices.
            check = partial(_check, contender, data.codes, queries)
            if isinstance(contender, Kernel):
                verdicts[contender] = check()
                continue
            verdict = self._attempt(contender.name, data, task.describe(), check)
            if verdict is not None:
                verdicts[contender] = verdict
        works = [Contender(one.label, one.ask, [one.prepare(queries)]) for one in verdicts]
        timings = run_rounds(works, Schedule(self.rounds))
        for (contender, verdict), timing in zip(verdicts.items(), timings, strict=True):
            row = GpuRow(
                searcher=contender.label,
                bits=data.bits,
                data=words,
                n=len(data.codes),
                queries=task.batch,
                k=task.k,
                radius=task.radius,
                seconds=tuple(timing.calls.tolist()),
                verdict=verdict,
                promises_order=contender.ordered,
                limits={} if isinstance(contender, Cpu) else self._limits(data.bits, task.batch),
            )
            self.rows.append(row)
            what = f"{row.bits} bits, N = {row.n:,}, {task.describe()}"
            self.turn.log(f"{row.searcher}: {what}: {row.median * 1e3:.3f} ms")

    def report(self) -> SectionReport:
        name = self.device.name if self.runtime is None else self.runtime.name
        head = take_head(self.load)
        values = head.to_dict() | {
            "runtime": name,
            "device": asdict(self.device),
            "rows": [row.to_dict() for row in self.rows],
            "build": list(self.build),
            "left_out": [asdict(one) for one in self.left_out],
            "version": queryopt.__version__,
        }
        columns = ("bits", "N", "queries", "search", "ms", "x kernel", "G pairs/s", "of popcount", "of memory", "right")
        table = figures_table(f"{name}; {head.machine}", "searcher", *columns, plain=True)
        for row, kernel in _beside_kernel(self.rows):
            shares = (f"{row.shares[limit]:.0%}" if limit in row.shares else "" for limit in ("popcount", "memory"))
            figures = (f"{row.median * 1e3:.3f}", f"{row.median / kernel.median:,.2f}", f"{row.pairs / 1e9:,.1f}")
            sizes = (str(row.bits), f"{row.n:,}", f"{row.queries:,}")
            table.add_row(row.searcher, *sizes, row.task.goal, *figures, *shares, row.verdict.text)
        left_out = [(one.searcher, one.what, one.reason) for one in self.left_out]
        problems = [
            f"{row.searcher}, {row.bits} bits, {counted(row.queries, 'query', 'queries')}: the results are not those "
            "of an exact search: this is a bug"
            for row in self.rows
            if row.promises_order and not row.right
        ]
        return SectionReport(values, [table], _figures(self.rows), problems, left_out)

    def _has_time(self, what: str) -> bool:
        """The first search is done in any case."""
        return not self.rows or self.turn.has(self.slowest, what)

    def _attempt(self, peer: str, data: Data, what: str, work: Callable[[], _T]) -> _T | None:
        def note(error: Exception) -> None:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.left_out.append(LeftOut(peer, data.bits, len(data.codes), what, reason))

        return self.turn.attempt(f"{peer} ({what})", work, note)

    def _limits(self, bits: int, queries: int) -> dict[str, float]:
        limits = {"popcount": popcount_limit(self.device, bits), "memory": memory_limit(self.device, bits, queries)}
        return {name: limit for name, limit in limits.items() if limit}


def _check(contender: SearchContender, codes: npt.NDArray[np.uint8], queries: npt.NDArray[np.uint8]) -> Verdict:
    answers = dict(enumerate(contender.hits(contender.ask(contender.prepare(queries)))[:_CHECKED]))
    right = {query: plain_search(codes, queries[query], contender.task) for query in answers}
    return judge(answers, right, codes, queries)


def _beside_kernel(rows: Sequence[GpuRow]) -> Iterator[tuple[GpuRow, GpuRow]]:
    """Each row with the kernel's for the same search, which comes first."""
    kernel: GpuRow | None = None
    for row in rows:
        if kernel is None or row.searcher == Kernel.name:
            kernel = row
        yield row, kernel


def _figures(rows: Sequence[GpuRow]) -> list[Figure]:
    """Each of the kernel's searches: milliseconds, and how many times as long each peer took for the same."""
    figures: list[Figure] = []
    for row, kernel in _beside_kernel(rows):
        if row is kernel:
            what = f"search of {row.n:,} codes of {row.bits} bits, {row.task.describe()}"
            figures.append(Figure(what, f"{row.median * 1e3:.3f} ms", row.median))
        else:
            beside = f"; {row.searcher} {row.median / kernel.median:,.1f}x"
            figures[-1] = replace(figures[-1], value=figures[-1].value + beside)
    return figures
