"""Runs the benchmark and holds what came out: figures of every searcher, and how they compare."""

import datetime
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import queryopt
from queryopt.bench.machine import describe_machine, load_average
from queryopt.bench.speed.search.build import Build, measure_build
from queryopt.bench.speed.search.check import Verdict, judge, plain_search
from queryopt.bench.speed.search.data import Data, DataSpec, make_data
from queryopt.bench.speed.search.measure import Timing, run_rounds
from queryopt.bench.speed.search.peers import PEERS, Hits, Searcher, Task, UnavailableError, open_searcher
from queryopt.bench.speed.search.process import ProcessTiming, measure_process
from queryopt.errors import UsageError

__all__ = ["Compared", "Group", "Row", "SearchReport", "Settings", "run_benchmark"]

_PLAIN_QUERIES = 20
"""Queries whose right answer is found without any searcher's code; the others' is queryopt's."""

_BUILDS = 3
"""Processes a build is measured in, where there are as many rounds."""

Log = Callable[[str], object]


@dataclass(frozen=True)
class Settings:
    """What to measure: each of `data` with each of `counts`, by every searcher of `searchers`.

    data: specifications; their own `count` is the largest of `counts`, or None for all of a file. searchers: names as
    `searcher_names` gives them. rounds, seconds: of `run_rounds`. queries, builds, process: what to measure.
    """

    data: tuple[DataSpec, ...]
    counts: tuple[int, ...]
    searchers: tuple[str, ...]
    task: Task = Task()  # noqa: RUF009 (frozen)
    rounds: int = 10
    seconds: float = 20.0
    queries: bool = True
    builds: bool = False
    process: bool = False

    @property
    def steps(self) -> int:
        """How often `progress` is called, at most."""
        per_group = len(self.counts or (0,)) * len(self.searchers)
        return len(self.data) * per_group * (self.rounds * self.queries + self.builds)


@dataclass(frozen=True)
class Row:
    """One searcher on one gallery. Times are microseconds a query: that of a call by the queries in it.

    calls: how many were timed; answered: different queries in them. ratio: how many times the first peer's median this
    one's is smaller (None without it). nbytes: what it holds of the gallery, in bytes. build: seconds, once, in this
    process. cpu_p50, cpu_p95, cpu_ratio: of CPU time. cores: CPU time by wall time; much below 1, other programs had
    the processor meanwhile, and wall times are theirs too. facts: what else the searcher says of itself.
    """

    searcher: str
    n: int
    p50: float
    p95: float
    p99: float
    fastest: float
    slowest: float
    calls: int
    answered: int
    hits: float
    round_medians: tuple[float, ...]
    ratio: float | None
    verdict: Verdict
    promises_order: bool
    nbytes: int | None
    build: float
    cpu_p50: float
    cpu_p95: float
    cpu_ratio: float | None
    cores: float
    facts: dict[str, Any]

    @property
    def pairs(self) -> float:
        """Pairs of a query and a code that are compared (or dealt with otherwise) in a second."""
        return self.n / self.p50 * 1e6

    @property
    def correct(self) -> bool:
        """Whether all that was checked is as it should be."""
        return self.verdict.ordered if self.promises_order else self.verdict.exact

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self) | {"pairs": self.pairs, "correct": self.correct}


@dataclass(frozen=True)
class Compared:
    """How many times larger something is than something else, in wall time and in CPU time."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Group:
    """What was measured together, interleaved: all searchers on galleries of all sizes of one kind of data.

    skipped: reason by "searcher (N = …)".
    """

    data: str
    bits: int
    task: Task
    rows: tuple[Row, ...]
    skipped: dict[str, str]

    def of(self, searcher: str) -> list[Row]:
        """One searcher's rows, by size."""
        return sorted((row for row in self.rows if row.searcher == searcher), key=lambda row: row.n)

    def growth(self) -> dict[str, Compared]:
        """By searcher: how many times its median on the largest gallery is that on the smallest, where they differ."""
        names = dict.fromkeys(row.searcher for row in self.rows)
        found = {name: (rows[0], rows[-1]) for name in names if (rows := self.of(name))[-1].n > rows[0].n}
        return {
            name: Compared(large.p50 / small.p50, large.cpu_p50 / small.cpu_p50)
            for name, (small, large) in found.items()
        }

    def p95_to_scan(self) -> dict[str, dict[int, Compared]]:
        """Of queryopt's structures beside its scan: by searcher and size, its p95 as a multiple of the scan's."""
        scans = {row.n: row for row in self.of("queryopt scan")}
        found: dict[str, dict[int, Compared]] = {}
        for row in self.rows:
            if row.n in scans and row.searcher.startswith("queryopt ") and row.searcher != "queryopt scan":
                scan = scans[row.n]
                found.setdefault(row.searcher, {})[row.n] = Compared(row.p95 / scan.p95, row.cpu_p95 / scan.cpu_p95)
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-serialisable."""
        return {
            "data": self.data,
            "bits": self.bits,
            "task": asdict(self.task),
            "rows": [row.to_dict() for row in self.rows],
            "growth": {name: asdict(growth) for name, growth in self.growth().items()},
            "p95_to_scan": {
                name: {size: asdict(compared) for size, compared in sizes.items()}
                for name, sizes in self.p95_to_scan().items()
            },
            "skipped": self.skipped,
        }


@dataclass
class SearchReport:
    """What came out, and of what."""

    machine: str
    date: str
    versions: dict[str, str]
    one_thread: dict[str, str]
    load: tuple[float | None, float | None]
    groups: list[Group] = field(default_factory=list)
    builds: list[tuple[str, Build]] = field(default_factory=list)
    """With the data's description."""
    processes: list[tuple[str, ProcessTiming]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Searchers that took part nowhere, with the reason."""

    @property
    def wrong(self) -> list[Row]:
        """Rows of queryopt's own that were not exact, or out of order."""
        return [
            row
            for group in self.groups
            for row in group.rows
            if row.searcher.startswith("queryopt") and row.verdict.checked and not row.correct
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-serialisable."""
        return {
            "machine": self.machine,
            "date": self.date,
            "versions": self.versions,
            "one_thread": self.one_thread,
            "load": list(self.load),
            "groups": [group.to_dict() for group in self.groups],
            "builds": [{"data": data} | build.to_dict() for data, build in self.builds],
            "processes": [{"data": data} | timing.to_dict() for data, timing in self.processes],
            "skipped": self.skipped,
        }


def run_benchmark(
    settings: Settings, log: Log = lambda message: None, progress: Callable[[int], object] | None = None
) -> SearchReport:
    """Measure what the settings ask for. log: gets a line on each step; progress: see `Settings.steps`.

    InputError, FormatError and MismatchError for files of codes, as `read_codes`.
    """
    before = load_average()
    report = SearchReport(
        machine=describe_machine(),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={},
        one_thread={},
        load=(before, None),
    )
    for spec in settings.data:
        if settings.queries:
            report.groups.append(_run_group(settings, spec, report, log, progress))
        if settings.builds:
            _run_builds(settings, spec, report, log, progress)
        if settings.process:
            for count in settings.counts or (spec.count,):
                if count is None:
                    raise UsageError(f"{spec.kind}: qo-search as a process is measured on generated data")
                log(f"qo-search: making an index of {count:,} codes of {spec.bits} bits")
                timing = measure_process(spec.resized(count), k=settings.task.k or 10, rounds=settings.rounds)
                report.processes.append((spec.describe(), timing))
    report.versions = {"queryopt": queryopt.__version__, "numpy": np.__version__} | report.versions
    taken = {row.searcher for group in report.groups for row in group.rows}
    for group in report.groups:
        for name, reason in group.skipped.items():
            if name.partition(" (")[0] not in taken:
                report.skipped.setdefault(name.partition(" (")[0], reason)
    report.load = (before, load_average())
    return report


def _run_group(
    settings: Settings,
    spec: DataSpec,
    report: SearchReport,
    log: Log,
    progress: Callable[[int], object] | None,
) -> Group:
    log(f"data: {spec.describe()}")
    data = make_data(spec)
    counts = sorted({min(count, len(data.codes)) for count in settings.counts or (len(data.codes),)})
    searchers: list[Searcher] = []
    skipped: dict[str, str] = {}
    try:
        for count in counts:
            for name in settings.searchers:
                try:
                    searcher = open_searcher(name, data.codes[:count], data.bits, settings.task)
                except UnavailableError as error:
                    skipped[f"{name.replace(':', ' ')} (N = {count:,})"] = str(error)
                    continue
                searchers.append(searcher)
                package = importlib.import_module(searcher.package)
                report.versions[searcher.name] = str(getattr(package, "__version__", "?"))
                report.one_thread[searcher.name] = searcher.one_thread
                log(
                    f"built {searcher.label} over {count:,} codes of {data.bits} bits in {searcher.build_seconds:.1f} s"
                )
        timings = run_rounds(
            searchers, data.queries, rounds=settings.rounds, seconds=settings.seconds, progress=progress
        )
        log("checking results")
        rows = _rows(searchers, timings, data, settings.task)
    finally:
        for searcher in searchers:
            searcher.close()
    return Group(spec.describe(), data.bits, settings.task, tuple(rows), skipped)


def _rows(searchers: Sequence[Searcher], timings: Sequence[Timing], data: Data, task: Task) -> Iterable[Row]:
    verdicts: dict[int, Verdict] = {}
    for count in {len(searcher.codes) for searcher in searchers}:
        here = [i for i, searcher in enumerate(searchers) if len(searcher.codes) == count]
        verdicts |= _verdicts(here, timings, searchers, data, task)
    batch = min(task.batch, len(data.queries))
    wall = [float(np.median(timing.calls)) for timing in timings]
    cpu = [float(np.median(timing.cpu)) for timing in timings]
    peers = {len(searcher.codes): i for i, searcher in enumerate(searchers) if searcher.name == PEERS[0]}
    for i, (searcher, timing) in enumerate(zip(searchers, timings, strict=True)):
        micros = timing.calls / batch * 1e6
        p50, p95, p99 = np.percentile(micros, (50, 95, 99))
        peer = peers.get(len(searcher.codes))
        yield Row(
            searcher=searcher.label,
            n=len(searcher.codes),
            p50=float(p50),
            p95=float(p95),
            p99=float(p99),
            fastest=float(micros.min()),
            slowest=float(micros.max()),
            calls=len(micros),
            answered=len(timing.answers),
            hits=float(np.mean([len(hits.ids) for hits in timing.answers.values()])),
            round_medians=tuple(float(np.median(one)) / batch * 1e6 for one in timing.rounds),
            ratio=None if peer is None else wall[peer] / wall[i],
            verdict=verdicts[i],
            promises_order=searcher.ordered,
            nbytes=searcher.nbytes,
            build=searcher.build_seconds,
            cpu_p50=cpu[i] / batch * 1e6,
            cpu_p95=float(np.percentile(timing.cpu, 95)) / batch * 1e6,
            cpu_ratio=None if peer is None else cpu[peer] / cpu[i],
            cores=timing.cores,
            facts=searcher.facts,
        )


def _verdicts(
    here: Sequence[int], timings: Sequence[Timing], searchers: Sequence[Searcher], data: Data, task: Task
) -> dict[int, Verdict]:
    """Verdicts on searchers of one gallery.

    The first few queries' right answers come from a plain scan here. Those of the others are queryopt's, whose own
    verdict rests on the plain ones (and on any other structure's of its).
    """
    codes: npt.NDArray[np.uint8] = searchers[here[0]].codes
    asked = sorted(set().union(*(timings[i].answers for i in here)))
    plain = {row: plain_search(codes, data.queries[row], task) for row in asked[:_PLAIN_QUERIES]}
    ours = next((i for i in here if searchers[i].name == "queryopt"), None)
    known: dict[int, Hits] = plain if ours is None else timings[ours].answers | plain
    return {i: judge(timings[i].answers, plain if i == ours else known, codes, data.queries) for i in here}


def _run_builds(
    settings: Settings,
    spec: DataSpec,
    report: SearchReport,
    log: Log,
    progress: Callable[[int], object] | None,
) -> None:
    for count in settings.counts or (None,):
        for name in settings.searchers:
            try:
                build = measure_build(name, spec.resized(count), min(_BUILDS, settings.rounds))
            except UnavailableError as error:
                report.skipped.setdefault(name.replace(":", " "), str(error))
                continue
            finally:
                if progress is not None:
                    progress(1)
            log(f"built {build.searcher} over {build.n:,} codes in processes of its own: {build.seconds:.2f} s")
            report.builds.append((spec.describe(), build))
