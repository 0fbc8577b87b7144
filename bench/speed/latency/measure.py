"""Interleaved timing of contenders: rounds of rotated order, the first calls of each turn apart.

A machine that slows down for a while does so for all of them, so ratios of medians hold where times don't. CPU time is
that of the whole process: all threads of whoever has its turn, and of nobody else, for the others' threads don't spin.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from queryopt.bench.speed.latency.contenders import Contender

__all__ = ["Timing", "time_contenders"]

_FIRST_CALLS = 3
"""Calls of a contender before the first round: sessions allocate and choose in them."""


@dataclass
class Timing:
    """Wall and CPU seconds of a contender's calls, one batch each, in the order in which they were made.

    first: wall seconds of the first call, which is in neither.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    first: float = 0.0

    def percentile(self, share: float) -> float:
        """The `share`-th percentile of the wall times, in seconds."""
        return float(np.percentile(self.wall, share))

    @property
    def cpu_median(self) -> float:
        """Median CPU seconds of a call."""
        return float(np.median(self.cpu))


def time_contenders(
    contenders: Sequence[Contender],
    batch: int,
    *,
    rounds: int = 10,
    seconds: float = 5.0,
    beside: Callable[[], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Timing]:
    """Time contenders on one batch of random pixels.

    Each round, every contender works for `seconds / rounds`, at least one call, after one call that is not timed; who
    begins changes from round to round. beside: called once a round (what the machine's peak is measured with).
    progress: called with 1 after each contender's part of a round.
    """
    rng = np.random.default_rng(0)
    inputs: dict[int, Any] = {}
    prepared = []
    for contender in contenders:
        size = contender.image_size
        if size not in inputs:
            inputs[size] = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
        prepared.append(contender.prepare(inputs[size]))
    timings = [Timing() for _ in contenders]
    for contender, ready, timing in zip(contenders, prepared, timings, strict=True):
        started = time.perf_counter()
        contender.run(ready)
        timing.first = time.perf_counter() - started
        for _ in range(_FIRST_CALLS - 1):
            contender.run(ready)
    for number in range(rounds):
        for turn in range(len(contenders)):
            which = (number + turn) % len(contenders)
            _turn(contenders[which], prepared[which], seconds / rounds, timings[which])
            if progress is not None:
                progress(1)
        if beside is not None:
            beside()
    return timings


def _turn(contender: Contender, batch: Any, seconds: float, timing: Timing) -> None:
    clock, work, run = time.perf_counter, time.process_time, contender.run
    run(batch)
    begun = clock()
    while True:
        worked, started = work(), clock()
        run(batch)
        ended = clock()
        timing.cpu.append(work() - worked)
        timing.wall.append(ended - started)
        if ended - begun >= seconds:
            break
