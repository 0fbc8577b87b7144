"""Who is asked what, and when."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import Hits, SearchContender, Task
from queryopt.bench.speed.search.run import time_searches
from queryopt.codes import uint64_to_codes


class Recorder(SearchContender):
    """Writes down which queries it is asked; its hit is the query's own number."""

    name: ClassVar[str] = "recorder"
    package: ClassVar[str] = "queryopt"
    one_thread: ClassVar[str] = "it has none"

    def __init__(self, label: str, log: list[tuple[str, list[int]]], batch: int = 1, work: int = 0) -> None:
        super().__init__(np.zeros((1, 8), np.uint8), 64, Task(1, batch=batch))
        self.called, self.log, self.work = label, log, work

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        return [int.from_bytes(query.tobytes(), "little") for query in queries]

    def nearest(self, queries: Any, k: int) -> Any:
        self.log.append((self.called, queries))
        sum(range(self.work))
        return queries

    def hits(self, result: Any) -> list[Hits]:
        return [Hits.of([query], [0]) for query in result]


def queries(count: int) -> npt.NDArray[np.uint8]:
    return uint64_to_codes(np.arange(count, dtype=np.uint64), 64)


def test_all_answer_all_queries_in_turn() -> None:
    log: list[tuple[str, list[int]]] = []
    ticks: list[int] = []

    def tick(count: int = 1, note: str | None = None) -> None:
        ticks.append(count)

    recorders = [Recorder(name, log) for name in "abc"]
    answered = time_searches(recorders, queries(12), rounds=3, seconds=60, progress=tick)
    order = [name for i, (name, _) in enumerate(log) if i == 0 or log[i - 1][0] != name]
    assert order == list("abcbcacab")
    assert ticks == [1] * 9
    for one in answered:
        assert [len(calls) for calls in one.timing.wall] == [4, 4, 4]
        assert len(one.timing.calls) == len(one.timing.cpu_calls) == 12
        assert {row: hits.ids.tolist() for row, hits in one.answers.items()} == {row: [row] for row in range(12)}


def test_batches_and_queries_that_come_again() -> None:
    log: list[tuple[str, list[int]]] = []
    (one,) = time_searches([Recorder("a", log, batch=5)], queries(12), rounds=3, seconds=60)
    # Whole batches only; fewer calls than rounds are repeated.
    assert sorted(one.answers) == list(range(10))
    assert [len(calls) for calls in one.timing.wall] == [1, 1, 1]
    assert {tuple(asked) for _, asked in log} == {(0, 1, 2, 3, 4), (5, 6, 7, 8, 9)}
    (one,) = time_searches([Recorder("a", log, batch=50)], queries(12), rounds=1)
    assert sorted(one.answers) == list(range(12))


def test_a_slow_one_answers_fewer() -> None:
    log: list[tuple[str, list[int]]] = []
    slow, quick = time_searches(
        [Recorder("slow", log, work=200_000), Recorder("quick", log)], queries(400), rounds=2, seconds=0.04
    )
    assert 2 <= len(slow.timing.calls) < 400
    assert len(slow.timing.calls) < len(quick.timing.calls)
    assert sorted(slow.answers) == list(range(len(slow.answers)))
    assert slow.timing.cores == slow.timing.cpu_calls.sum() / slow.timing.calls.sum()


def test_nobody() -> None:
    assert time_searches([], queries(3)) == []
