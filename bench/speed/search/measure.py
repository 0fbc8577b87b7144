"""Interleaved timing: all searchers answer queries in turn, in rounds of rotated order.

A machine that slows down for a while, or is busy with something else, then does so for all of them; a round is short,
so that ratios hold where absolute times don't. A searcher's part of a round begins with a few calls that are not
timed: they find the caches full of what the one before it read, which is the interleaving's doing, not the searcher's.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.peers.base import Hits, Searcher

__all__ = ["Timing", "run_rounds"]

_WARM_UP, _WARM_UP_SHARE = 5, 0.05
"""Calls before each slice that are not timed, and the share of its time that they may take."""


@dataclass
class Timing:
    """What a searcher took: seconds of its calls, wall time by round and CPU time of the whole process; its answers by
    query (row number), those of the last time where it was asked more than once.

    On a machine that does other things too, wall time is longer than the work for a long call more often than for a
    short one; CPU time is the work. What reading the clock costs is taken off it.
    """

    rounds: list[list[float]] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    answers: dict[int, Hits] = field(default_factory=dict)

    @property
    def calls(self) -> npt.NDArray[np.float64]:
        """Wall seconds of every call."""
        return np.array([seconds for one in self.rounds for seconds in one])

    @property
    def cores(self) -> float:
        """CPU time as a share of wall time: above 1, the searcher used more than one thread."""
        return float(sum(self.cpu) / self.calls.sum())


def run_rounds(
    searchers: Sequence[Searcher],
    queries: npt.NDArray[np.uint8],
    *,
    rounds: int = 10,
    seconds: float = 20.0,
    progress: Callable[[int], object] | None = None,
) -> list[Timing]:
    """Time searchers that do one task, on the same queries (uint8 [q, bytes]).

    Each round, every searcher takes the next `1 / rounds` of the queries, or fewer where that takes it longer than
    `seconds / rounds` (of which one call is the least): a slow one answers fewer, the first ones, and medians are
    compared. progress: called with 1 after each searcher's part of a round.
    """
    batch = searchers[0].task.batch if searchers else 1
    starts = list(range(0, max(1, len(queries) - batch + 1), batch))
    prepared = [[s.prepare(queries[start : start + batch]) for start in starts] for s in searchers]
    timings = [Timing() for _ in searchers]
    share = -(-len(starts) // rounds)
    following = [0] * len(searchers)
    for number in range(rounds):
        for turn in range(len(searchers)):
            which = (number + turn) % len(searchers)
            searcher, calls = searchers[which], prepared[which]
            picked = [(following[which] + i) % len(starts) for i in range(share)]
            if not timings[which].rounds or timings[which].rounds[-1][-1] < seconds / rounds * _WARM_UP_SHARE:
                _warm_up(searcher, calls, following[which], seconds / rounds)
            done = _slice(searcher, [calls[i] for i in picked], seconds / rounds, timings[which])
            following[which] += len(done)
            for i, found in zip(picked, done, strict=False):
                for row, hits in enumerate(searcher.hits(found), start=starts[i]):
                    timings[which].answers[row] = hits
            if progress is not None:
                progress(1)
    return timings


@cache
def _clock_cost() -> float:
    """CPU seconds that reading the clocks adds to a call's: some 0.4 µs, a quarter of the quickest look-up."""
    costs = []
    for _ in range(1000):
        worked, _started = time.process_time(), time.perf_counter()
        time.perf_counter()
        costs.append(time.process_time() - worked)
    return float(np.median(costs))


def _warm_up(searcher: Searcher, calls: list[Any], following: int, seconds: float) -> None:
    """Do the calls that come before `following`, at least one."""
    begun = time.perf_counter()
    for number in range(_WARM_UP):
        searcher.ask(calls[(following - 1 - number) % len(calls)])
        if time.perf_counter() - begun > seconds * _WARM_UP_SHARE:
            break


def _slice(searcher: Searcher, calls: list[Any], seconds: float, timing: Timing) -> list[Any]:
    """Time calls until `seconds` are over, at least one; returns what they found."""
    found: list[Any] = []
    took: list[float] = []
    clock, work, ask = time.perf_counter, time.process_time, searcher.ask
    clock_cost = _clock_cost()
    collecting = gc.isenabled()
    gc.disable()
    try:
        begun = clock()
        for call in calls:
            worked, started = work(), clock()
            answer = ask(call)
            ended = clock()
            timing.cpu.append(max(0.0, work() - worked - clock_cost))
            took.append(ended - started)
            found.append(answer)
            if ended - begun > seconds:
                break
    finally:
        if collecting:
            gc.enable()
    timing.rounds.append(took)
    return found
