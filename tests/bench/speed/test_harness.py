"""The timing harness, by a clock that moves only where a contender works."""

import gc
import math
import subprocess
import sys

import pytest

from queryopt.bench.speed.harness import CHILDREN, Clock, Contender, Schedule, Timing, WallCpu, run_rounds, timed
from queryopt.errors import UsageError


class FakeTime:
    """Moves on when work says so, by twice the CPU time where two threads work."""

    def __init__(self):
        self.now, self.worked = 100.0, 7.0
        self.clock = Clock(lambda: self.now, lambda: self.worked)
        self.log = []

    def worker(self, name, *seconds, threads=1):
        """Work whose calls take `seconds` in turn, the last of them again and again; it returns its input."""
        left = list(seconds)

        def work(item):
            taken = left.pop(0) if len(left) > 1 else left[0]
            self.now += taken
            self.worked += threads * taken
            self.log.append(name if item is None else f"{name}{item}")
            return item

        return work


@pytest.fixture
def fake():
    return FakeTime()


def test_rounds_rotate_and_the_first_calls_are_apart(fake):
    contenders = [Contender(name, fake.worker(name, 5, 1), calls=None) for name in "ab"]
    ticks = []
    schedule = Schedule(rounds=2, seconds=1e-9, first_calls=3, warm_up=1)
    timings = run_rounds(contenders, schedule, progress=ticks.append, clock=fake.clock)
    # Three calls each before the rounds, then in each turn one that is not timed and one that is.
    assert "".join(fake.log) == "aaabbb" + "aabb" + "bbaa"
    assert [timing.first for timing in timings] == [5, 5]
    assert [timing.wall for timing in timings] == [[[1], [1]]] * 2
    assert ticks == [1] * 4


def test_a_turn_ends_with_its_calls_or_its_seconds(fake):
    contenders = [
        Contender("a", fake.worker("a", 1), calls=3),
        Contender("b", fake.worker("b", 3), calls=3),
        Contender("c", fake.worker("c", 4), calls=None),
        Contender("d", fake.worker("d", 50), calls=9),
    ]
    timings = run_rounds(contenders, Schedule(rounds=2, seconds=12), clock=fake.clock)
    assert [list(map(len, timing.wall)) for timing in timings] == [[3, 3], [2, 2], [2, 2], [1, 1]]
    untimed = run_rounds([Contender("a", fake.worker("a", 1000), calls=5)], Schedule(rounds=1), clock=fake.clock)
    assert len(untimed[0].calls) == 5


def test_inputs_come_in_turn_and_what_calls_return_is_kept(fake):
    kept = []
    contender = Contender(
        "a",
        fake.worker("a", 1),
        inputs=range(5),
        calls=3,
        prepare=lambda number: 10 * number,
        keep=lambda number, value: kept.append((number, value)),
    )
    run_rounds([contender], Schedule(rounds=2, warm_up=2), clock=fake.clock)
    # The calls of a warm-up are those before the ones that are timed, and their answers are not kept.
    assert fake.log == [f"a{n}" for n in (40, 30, 0, 10, 20, 20, 10, 30, 40, 0)]
    assert kept == [(n, 10 * n) for n in (0, 1, 2, 3, 4, 0)]


def test_preparing_is_not_timed_and_keeping_comes_after_the_turn(fake):
    slow = fake.worker("p", 100)
    contender = Contender("a", fake.worker("a", 1), ["x"], 2, prepare=slow, keep=lambda *_: fake.log.append("kept"))
    (timing,) = run_rounds([contender], Schedule(rounds=1), clock=fake.clock)
    assert timing.wall == [[1, 1]]
    assert fake.log == ["px", "ax", "px", "ax", "kept", "kept"]


def test_a_warm_up_takes_a_share_of_the_turn_at_most(fake):
    schedule = Schedule(rounds=2, seconds=200, warm_up=5, warm_up_share=0.05)
    for seconds, calls in ((1, 5), (2, 3), (6, 1)):
        fake.log.clear()
        run_rounds([Contender("a", fake.worker("a", seconds))], Schedule(1, 100, 0, 5, 0.05), clock=fake.clock)
        assert len(fake.log) == calls + 1
    fake.log.clear()
    # One call of a slow one is as long as all of a warm-up: after its first turn it has none.
    run_rounds([Contender("a", fake.worker("a", 7))], schedule, clock=fake.clock)
    assert len(fake.log) == 3


def test_what_is_beside_comes_after_each_round(fake):
    contenders = [Contender(name, fake.worker(name, 1)) for name in "ab"]
    run_rounds(contenders, Schedule(rounds=2), beside=lambda: fake.log.append("|"), clock=fake.clock)
    assert "".join(fake.log) == "ab|ba|"
    fake.log.clear()
    run_rounds(contenders, Schedule(rounds=2, rotate=False), clock=fake.clock)
    assert "".join(fake.log) == "abab"


def test_both_clocks_are_read_without_what_reading_them_costs(fake):
    class Costly(FakeTime):
        def cpu(self):
            self.worked += 0.25
            return self.worked

    costly = Costly()
    clock = Clock(lambda: costly.now, costly.cpu)
    assert clock.reading_cost() == 0.25
    (timing,) = run_rounds([Contender("a", costly.worker("a", 2, threads=3), calls=2)], Schedule(1), clock=clock)
    assert (timing.wall, timing.cpu) == ([[2, 2]], [[6, 6]])
    assert timing.cores == 3
    assert timed(lambda: fake.worker("a", 3, threads=2)(None), fake.clock) == WallCpu(3, 6)


def test_figures_of_a_timing():
    timing = Timing([[4, 1, 2], [8]], [[4, 2, 3], [20]])
    assert timing.median == WallCpu(3, 3.5)
    assert timing.rounds == (WallCpu(2, 3), WallCpu(8, 20))
    assert (timing.fastest, timing.quantiles(0, 50, 100)) == (1, (1, 3, 8))
    baseline = Timing([[6], [6]], [[7], [14]])
    assert timing.ratio(baseline) == WallCpu(2, 3)
    assert timing.ratio_by_round(baseline) == WallCpu((3 + 0.75) / 2, pytest.approx((7 / 3 + 0.7) / 2))
    assert timing.ratio(timing) == timing.ratio_by_round(timing) == WallCpu(1, 1)
    coarse = Timing([[1]], [[0]])
    assert math.isnan(coarse.ratio(baseline).cpu)
    assert coarse.ratio(baseline).wall == 6


def test_no_garbage_is_collected_in_a_turn_and_then_again(fake):
    seen = []
    run_rounds([Contender("a", lambda _: seen.append(gc.isenabled()))], Schedule(1), clock=fake.clock)
    assert seen == [False]
    assert gc.isenabled()

    def fail(item):
        raise UsageError("no")

    with pytest.raises(UsageError):
        run_rounds([Contender("a", fail)], Schedule(1), clock=fake.clock)
    assert gc.isenabled()


def test_nobody_and_no_rounds():
    assert run_rounds([], Schedule(2)) == []
    with pytest.raises(UsageError, match="rounds is 0: at least 1"):
        Schedule(0)


def test_the_children_clock_counts_processes_that_have_ended():
    code = "import time\nwhile time.process_time() < 0.05: pass"
    taken = timed(lambda: subprocess.run([sys.executable, "-c", code], check=True), CHILDREN)
    assert taken.cpu > 0.02  # the system counts in ticks of 10 ms
