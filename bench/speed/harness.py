"""The timing harness of all benchmarks: contenders take their turns in rounds of rotated order.

A machine that slows down for a while, or is busy with something else, then does so for all of them, and ratios hold
where times don't. Wall time grows with what others do on the machine, for long calls more often than for short ones;
CPU time, that of all threads of whoever has its turn, is the work.
"""

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError
from queryopt.progress import Advance, no_advance

__all__ = ["CHILDREN", "PROCESS", "Clock", "Contender", "Schedule", "Timing", "WallCpu", "run_rounds", "timed"]


@dataclass(frozen=True)
class Clock:
    """What is read around a call, both in seconds. cpu: of all threads of this process."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time

    def reading_cost(self) -> float:
        """CPU seconds that reading the clock adds to a call's: some 0.4 µs, a quarter of the quickest search."""
        costs = []
        for _ in range(1000):
            worked, _started, _ended = self.cpu(), self.wall(), self.wall()
            costs.append(self.cpu() - worked)
        return statistics.median(costs)


def _children_cpu() -> float:
    times = os.times()
    return times.children_user + times.children_system


PROCESS = Clock()
CHILDREN = Clock(cpu=_children_cpu)
"""For work that starts processes and waits for their ends: CPU seconds are theirs."""


@dataclass(frozen=True)
class WallCpu:
    """One figure by both clocks: seconds, or a ratio of seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True, eq=False)
class Contender:
    """Something that is measured beside others.

    work: a call of it, done to its end: what is timed. It gets one of the inputs.
    inputs: taken call by call, from the first again after the last.
    calls: in a turn, at most; None where the schedule's seconds alone end it.
    prepare: makes what `work` takes of an input, before the clock starts.
    keep: gets the number of each timed call's input and what the call returned, after the turn.
    """

    name: str
    work: Callable[[Any], Any]
    inputs: Sequence[Any] = (None,)
    calls: int | None = 1
    prepare: Callable[[Any], Any] | None = None
    keep: Callable[[int, Any], object] | None = None


@dataclass(frozen=True)
class Schedule:
    """How long is measured. UsageError for less than a round.

    rounds: turns of each contender.
    seconds: of each contender over all rounds; a turn that has had its share of them ends, after one call at least.
    first_calls: of each contender before the first round: sessions choose and allocate in them.
    warm_up: calls before each turn, which find the caches full of what the contender before read.
    warm_up_share: of a turn's seconds: a longer warm-up ends, and where one call takes as long there is none.
    rotate: whether each round begins with the next contender; not where one's work prepares another's.
    """

    rounds: int
    seconds: float = math.inf
    first_calls: int = 0
    warm_up: int = 0
    warm_up_share: float = math.inf
    rotate: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}: at least 1")

    @property
    def turn_seconds(self) -> float:
        return self.seconds / self.rounds


@dataclass
class Timing:
    """Seconds of a contender's timed calls, round by round, in the order in which they were made.

    first: wall seconds of the first of `first_calls`, which are in neither list; None where there were none.
    """

    wall: list[list[float]] = field(default_factory=list)
    cpu: list[list[float]] = field(default_factory=list)
    first: float | None = None

    @property
    def calls(self) -> npt.NDArray[np.float64]:
        """Wall seconds of every call."""
        return np.concatenate(self.wall)

    @property
    def cpu_calls(self) -> npt.NDArray[np.float64]:
        return np.concatenate(self.cpu)

    @property
    def median(self) -> WallCpu:
        """Of all calls."""
        return WallCpu(float(np.median(self.calls)), float(np.median(self.cpu_calls)))

    @property
    def rounds(self) -> tuple[WallCpu, ...]:
        """The medians of each round's calls."""
        both = zip(self.wall, self.cpu, strict=True)
        return tuple(WallCpu(statistics.median(wall), statistics.median(cpu)) for wall, cpu in both)

    @property
    def fastest(self) -> float:
        """Wall seconds of the fastest call: what the machine can do."""
        return float(self.calls.min())

    @property
    def cores(self) -> float:
        """CPU time as a share of wall time: above 1, more than one thread worked; far below, others had the cores."""
        return float(self.cpu_calls.sum() / self.calls.sum())

    def quantiles(self, *percents: float) -> tuple[float, ...]:
        """Percentiles of the calls' wall seconds."""
        return tuple(np.percentile(self.calls, percents).tolist())

    def ratio(self, baseline: "Timing") -> WallCpu:
        """How many times as fast as the baseline this is: the ratio of the medians of all calls."""
        return _ratio(baseline.median, self.median)

    def ratio_by_round(self, baseline: "Timing") -> WallCpu:
        """The same, the median of the rounds' own ratios: for few and long calls, on a machine whose speed changes."""
        ratios = [_ratio(theirs, own) for theirs, own in zip(baseline.rounds, self.rounds, strict=True)]
        return WallCpu(statistics.median(r.wall for r in ratios), statistics.median(r.cpu for r in ratios))


def run_rounds(
    contenders: Sequence[Contender],
    schedule: Schedule,
    *,
    beside: Callable[[], object] | None = None,
    progress: Advance = no_advance,
    clock: Clock = PROCESS,
) -> list[Timing]:
    """Time contenders in turn.

    beside: called after each round: for what is measured in the same minutes, or to count rounds.
    progress: called with 1 after each turn.
    """
    cost = clock.reading_cost()
    runners = [_Runner(contender, schedule, clock, cost) for contender in contenders]
    for runner in runners:
        runner.first_calls()
    for number in range(schedule.rounds):
        for turn in range(len(runners)):
            runner = runners[(number * schedule.rotate + turn) % len(runners)]
            runner.warm_up()
            runner.turn()
            progress(1)
        if beside is not None:
            beside()
    return [runner.timing for runner in runners]


def timed(work: Callable[[], object], clock: Clock = PROCESS) -> WallCpu:
    """Do it once, and say what it took."""
    worked, started = clock.cpu(), clock.wall()
    work()
    return WallCpu(clock.wall() - started, clock.cpu() - worked)


class _Runner:
    """A contender's turns. following: number of the input that is next."""

    def __init__(self, contender: Contender, schedule: Schedule, clock: Clock, reading_cost: float) -> None:
        self.contender, self.schedule, self.clock, self.reading_cost = contender, schedule, clock, reading_cost
        self.timing = Timing()
        self.following = 0

    def first_calls(self) -> None:
        for number in range(self.schedule.first_calls):
            taken = timed(lambda: self._call(0), self.clock)
            if number == 0:
                self.timing.first = taken.wall

    def warm_up(self) -> None:
        """Do the calls that come before the next one."""
        limit = self.schedule.turn_seconds * self.schedule.warm_up_share
        if self.timing.wall and self.timing.wall[-1][-1] >= limit:
            return
        begun = self.clock.wall()
        for number in range(self.schedule.warm_up):
            self._call(self.following - 1 - number)
            if self.clock.wall() - begun > limit:
                break

    def turn(self) -> None:
        """Time calls until there were enough of them, or their seconds are over."""
        wall, cpu, work = self.clock.wall, self.clock.cpu, self.contender.work
        walls: list[float] = []
        cpus: list[float] = []
        returned: list[tuple[int, Any]] = []
        collecting = gc.isenabled()
        gc.disable()
        try:
            begun = wall()
            while self.contender.calls is None or len(walls) < self.contender.calls:
                number, ready = self._input(self.following)
                worked, started = cpu(), wall()
                value = work(ready)
                ended = wall()
                cpus.append(max(0.0, cpu() - worked - self.reading_cost))
                walls.append(ended - started)
                self.following += 1
                if self.contender.keep is not None:
                    returned.append((number, value))
                if ended - begun >= self.schedule.turn_seconds:
                    break
        finally:
            if collecting:
                gc.enable()
        self.timing.wall.append(walls)
        self.timing.cpu.append(cpus)
        if self.contender.keep is not None:
            for number, value in returned:
                self.contender.keep(number, value)

    def _input(self, number: int) -> tuple[int, Any]:
        number %= len(self.contender.inputs)
        item = self.contender.inputs[number]
        return number, item if self.contender.prepare is None else self.contender.prepare(item)

    def _call(self, number: int) -> None:
        self.contender.work(self._input(number)[1])


def _ratio(baseline: WallCpu, own: WallCpu) -> WallCpu:
    """NaN where a clock is too coarse for the work."""
    wall, cpu = ((a / b if b else math.nan) for a, b in ((baseline.wall, own.wall), (baseline.cpu, own.cpu)))
    return WallCpu(wall, cpu)
