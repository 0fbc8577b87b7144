"""Runs the search benchmark: all contenders on the same codes, with the same queries, in turn."""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import queryopt
from queryopt.bench.machine import load_average, take_head
from queryopt.bench.speed.harness import Contender, Schedule, Timing, run_rounds
from queryopt.bench.speed.search.build import measure_build
from queryopt.bench.speed.search.check import Verdict, judge, plain_search
from queryopt.bench.speed.search.contender import PEERS, Hits, SearchContender, Task, UnavailableError, open_contender
from queryopt.bench.speed.search.data import Data, DataSpec, make_data
from queryopt.bench.speed.search.process import measure_process
from queryopt.bench.speed.search.report import Group, Row, SearchReport
from queryopt.errors import UsageError
from queryopt.progress import Advance, no_advance

__all__ = ["Answered", "Settings", "run_benchmark", "time_searches"]

_PLAIN_QUERIES = 20
"""Queries whose right answer is found without any contender's code; the others' is queryopt's."""

_BUILDS = 3
"""Processes a build is measured in, where there are as many rounds."""

_WARM_UP, _WARM_UP_SHARE = 5, 0.05
"""Calls before each turn that are not timed, and the share of its seconds that they may take. They find the caches full
of what the contender before it read, which is the interleaving's doing, not the contender's."""

Log = Callable[[str], object]


@dataclass(frozen=True)
class Settings:
    """What to measure: each of `data` with each of `counts`, by every one of `contenders`.

    data: specifications; their own `count` is the largest of `counts`, or None for all of a file.
    contenders: names as `contender_names` gives them.
    rounds, seconds: see `time_searches`.
    queries, builds, process: whether these are measured.
    """

    data: tuple[DataSpec, ...]
    counts: tuple[int, ...]
    contenders: tuple[str, ...]
    task: Task = Task()  # noqa: RUF009 (frozen)
    rounds: int = 10
    seconds: float = 20.0
    queries: bool = True
    builds: bool = False
    process: bool = False

    @property
    def steps(self) -> int:
        """How often `progress` is called, at most."""
        per_group = len(self.counts or (0,)) * len(self.contenders)
        return len(self.data) * per_group * (self.rounds * self.queries + self.builds)


def run_benchmark(settings: Settings, log: Log = lambda message: None, progress: Advance = no_advance) -> SearchReport:
    """Measure what the settings ask for. log: gets a line on each step; progress: see `Settings.steps`.

    InputError, FormatError and MismatchError for files of codes, as `read_codes`.
    """
    before = load_average()
    run = _Run(settings, log, progress)
    for spec in settings.data:
        if settings.queries:
            run.search(spec)
        if settings.builds:
            run.build(spec)
        if settings.process:
            run.start_processes(spec)
    searchers = {row["searcher"] for group in run.groups for row in group.rows}
    skipped = dict(run.not_built)
    for group in run.groups:
        for name, reason in group.skipped.items():
            if (searcher := name.partition(" (")[0]) not in searchers:
                skipped.setdefault(searcher, reason)
    versions = {"queryopt": queryopt.__version__, "numpy": np.__version__} | run.versions
    return SearchReport(
        take_head(before, versions), run.one_thread, tuple(run.groups), tuple(run.builds), tuple(run.processes), skipped
    )


@dataclass
class _Run:
    """What was measured so far."""

    settings: Settings
    log: Log
    progress: Advance
    versions: dict[str, str] = field(default_factory=dict)
    one_thread: dict[str, str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    builds: list[dict[str, Any]] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    not_built: dict[str, str] = field(default_factory=dict)

    def search(self, spec: DataSpec) -> None:
        settings = self.settings
        self.log(f"data: {spec.describe()}")
        data = make_data(spec)
        contenders: list[SearchContender] = []
        skipped: dict[str, str] = {}
        try:
            for count in sorted({min(count, len(data.codes)) for count in settings.counts or (len(data.codes),)}):
                for name in settings.contenders:
                    try:
                        contenders.append(self._open(name, data.codes[:count], data.bits))
                    except UnavailableError as error:
                        skipped[f"{name.replace(':', ' ')} (N = {count:,})"] = str(error)
            answered = time_searches(
                contenders, data.queries, rounds=settings.rounds, seconds=settings.seconds, progress=self.progress
            )
            self.log("checking results")
            rows = tuple(_rows(answered, data, settings.task))
        finally:
            for contender in contenders:
                contender.close()
        self.groups.append(Group(spec.describe(), data.bits, settings.task, rows, skipped))

    def _open(self, name: str, codes: npt.NDArray[np.uint8], bits: int) -> SearchContender:
        contender = open_contender(name, codes, bits, self.settings.task)
        package = importlib.import_module(contender.package)
        self.versions[contender.name] = str(getattr(package, "__version__", "?"))
        self.one_thread[contender.name] = contender.one_thread
        self.log(f"built {contender.label} over {len(codes):,} codes of {bits} bits in {contender.build_seconds:.1f} s")
        return contender

    def build(self, spec: DataSpec) -> None:
        for count in self.settings.counts or (None,):
            for name in self.settings.contenders:
                try:
                    build = measure_build(name, spec.resized(count), min(_BUILDS, self.settings.rounds))
                except UnavailableError as error:
                    self.not_built.setdefault(name.replace(":", " "), str(error))
                else:
                    self.builds.append({"data": spec.describe()} | build.to_dict())
                    self.log(
                        f"built {build.searcher} over {build.n:,} codes in processes of its own: {build.seconds:.2f} s"
                    )
                self.progress(1)

    def start_processes(self, spec: DataSpec) -> None:
        for count in self.settings.counts or (spec.count,):
            if count is None:
                raise UsageError(f"{spec.kind}: qo-search as a process is measured on generated data")
            self.log(f"qo-search: making an index of {count:,} codes of {spec.bits} bits")
            timing = measure_process(spec.resized(count), k=self.settings.task.k or 10, rounds=self.settings.rounds)
            self.processes.append({"data": spec.describe()} | timing)


@dataclass(frozen=True, eq=False)
class Answered:
    """A contender, what its calls took, and its answers by query (row number), those of the last time where one came
    more than once.
    """

    contender: SearchContender
    timing: Timing
    answers: dict[int, Hits]


def time_searches(
    contenders: Sequence[SearchContender],
    queries: npt.NDArray[np.uint8],
    *,
    rounds: int = 10,
    seconds: float = 20.0,
    progress: Advance = no_advance,
) -> list[Answered]:
    """Time contenders that do one task, on the same queries (uint8 [q, bytes]).

    Each round, each takes the next `1 / rounds` of the queries, or fewer where that takes it longer than
    `seconds / rounds` (of which one call is the least): a slow one answers fewer, the first ones, and medians are
    compared. progress: called with 1 after each contender's part of a round.
    """
    answers: list[dict[int, Hits]] = [{} for _ in contenders]
    timed = [_timed(one, queries, rounds, into) for one, into in zip(contenders, answers, strict=True)]
    schedule = Schedule(rounds, seconds, warm_up=_WARM_UP, warm_up_share=_WARM_UP_SHARE)
    timings = run_rounds(timed, schedule, progress=progress)
    return [Answered(*parts) for parts in zip(contenders, timings, answers, strict=True)]


def _timed(
    contender: SearchContender, queries: npt.NDArray[np.uint8], rounds: int, answers: dict[int, Hits]
) -> Contender:
    batch = contender.task.batch
    starts = range(0, max(1, len(queries) - batch + 1), batch)

    def keep(number: int, result: object) -> None:
        answers.update(enumerate(contender.hits(result), start=starts[number]))

    return Contender(
        contender.label,
        contender.ask,
        [contender.prepare(queries[start : start + batch]) for start in starts],
        calls=-(-len(starts) // rounds),
        keep=keep,
    )


def _rows(answered: Sequence[Answered], data: Data, task: Task) -> Iterator[Row]:
    """A row a contender and gallery. Times are microseconds a query: that of a call by the queries in it.

    answered: different queries in the timed calls.
    ratio: how many times the first peer's median this one's is smaller (None without it).
    nbytes: what it holds of the gallery. build: seconds, once, in this process.
    cores: CPU time by wall time; much below 1, other programs had the processor meanwhile, and wall times are theirs
    too.
    pairs: of a query and a code, that are compared (or dealt with otherwise) in a second.
    """
    by_size: dict[int, list[Answered]] = {}
    for one in answered:
        by_size.setdefault(len(one.contender.codes), []).append(one)
    for size, here in by_size.items():
        peer = next((one.timing for one in here if one.contender.name == PEERS[0]), None)
        for one, verdict in zip(here, _verdicts(here, data, task), strict=True):
            contender, timing = one.contender, one.timing
            micros = 1e6 / min(task.batch, len(data.queries))
            p50, p95, p99 = (micros * seconds for seconds in timing.quantiles(50, 95, 99))
            ratio = None if peer is None else timing.ratio(peer)
            yield {
                "searcher": contender.label,
                "n": size,
                "p50": p50,
                "p95": p95,
                "p99": p99,
                "fastest": micros * timing.fastest,
                "slowest": micros * float(timing.calls.max()),
                "calls": len(timing.calls),
                "answered": len(one.answers),
                "hits": float(np.mean([len(hits.ids) for hits in one.answers.values()])),
                "round_medians": tuple(micros * median.wall for median in timing.rounds),
                "ratio": None if ratio is None else ratio.wall,
                "verdict": verdict,
                "promises_order": contender.ordered,
                "nbytes": contender.nbytes,
                "build": contender.build_seconds,
                "cpu_p50": micros * timing.median.cpu,
                "cpu_p95": micros * float(np.percentile(timing.cpu_calls, 95)),
                "cpu_ratio": None if ratio is None else ratio.cpu,
                "cores": timing.cores,
                "facts": contender.facts,
                "pairs": size / p50 * 1e6,
                "correct": verdict.ordered if contender.ordered else verdict.exact,
            }


def _verdicts(here: Sequence[Answered], data: Data, task: Task) -> list[Verdict]:
    """Verdicts on contenders of one gallery.

    The first few queries' right answers come from a plain scan here. Those of the others are queryopt's, whose own
    verdict rests on the plain ones (and on any other structure's of its).
    """
    codes = here[0].contender.codes
    rows = sorted(set().union(*(one.answers for one in here)))
    plain = {row: plain_search(codes, data.queries[row], task) for row in rows[:_PLAIN_QUERIES]}
    ours = next((one for one in here if one.contender.name == "queryopt"), None)
    known = plain if ours is None else ours.answers | plain
    return [judge(one.answers, plain if one is ours else known, codes, data.queries) for one in here]
