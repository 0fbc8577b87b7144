"""How long a piece of work took."""

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Timing", "timed"]


@dataclass(frozen=True)
class Timing:
    """What a piece of work took. wall: seconds. cpu: CPU seconds of all threads, which others' work leaves alone."""

    wall: float
    cpu: float


def timed(work: Callable[[], object]) -> Timing:
    """Do it once."""
    cpu, started = time.process_time(), time.perf_counter()
    work()
    return Timing(time.perf_counter() - started, time.process_time() - cpu)
