"""Whether what a contender found is right: against a plain exact search here, and against queryopt's results."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import Hits, Task
from queryopt.bench.speed.search.data import to_words

__all__ = ["Verdict", "judge", "plain_search"]

_CHUNK = 1 << 18


@dataclass(frozen=True)
class Verdict:
    """What a comparison with the right answers gave.

    checked: queries that were compared.
    recall: share of the right codes that was found, on average; among codes at equal distance, all are as good.
    exact: every query's distances are right and are those of the codes named.
    ordered: also the codes themselves are right, in (distance, id) order.
    """

    checked: int
    recall: float
    exact: bool
    ordered: bool

    @property
    def text(self) -> str:
        """In one word."""
        return "?" if not self.checked else "ordered" if self.ordered else "yes" if self.exact else "NO"


def plain_search(codes: npt.NDArray[np.uint8], query: npt.NDArray[np.uint8], task: Task) -> Hits:
    """The right answer for one query (uint8 [bytes]), in (distance, id) order, without a contender's code."""
    word = to_words(query[None])[0]
    rows, near = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for start in range(0, len(codes), _CHUNK):
        distances = np.bitwise_count(to_words(codes[start : start + _CHUNK]) ^ word)
        limit = task.radius
        if task.k is not None:
            limit = int(np.partition(distances, task.k - 1)[task.k - 1]) if task.k < len(distances) else 64
        hits = np.flatnonzero(distances <= limit)
        rows.append(hits + start)
        near.append(distances[hits].astype(np.int64))
    ids, distances = np.concatenate(rows), np.concatenate(near)
    order = np.argsort(distances, kind="stable")[: task.k]
    return Hits(ids[order], distances[order])


def judge(
    answers: Mapping[int, Hits],
    right: Mapping[int, Hits],
    codes: npt.NDArray[np.uint8],
    queries: npt.NDArray[np.uint8],
) -> Verdict:
    """Compare answers with the right ones, for the queries (row numbers) that both have.

    codes: uint8 [n, bytes], queries: uint8 [q, bytes]. Claimed distances are computed again from the codes.
    """
    both = sorted(answers.keys() & right.keys())
    recalls, exact, ordered = [], True, True
    for query in both:
        answer, expected = answers[query], right[query]
        real = _unique(answer.ids, len(codes))
        words = to_words(codes[answer.ids[real]]) ^ to_words(queries[query][None])
        distances = np.bitwise_count(words).astype(np.int64)
        limit = expected.distances[-1] if len(expected.distances) else -1
        recalls.append(np.count_nonzero(distances <= limit) / len(expected.ids) if len(expected.ids) else 1.0)
        exact &= (
            bool(real.all())
            and np.array_equal(distances, answer.distances)
            and np.array_equal(np.sort(distances), expected.distances)
        )
        ordered &= np.array_equal(answer.ids, expected.ids) and np.array_equal(answer.distances, expected.distances)
    return Verdict(
        checked=len(both),
        recall=float(np.mean(recalls)) if both else float("nan"),
        exact=exact and bool(both),
        ordered=ordered and exact and bool(both),
    )


def _unique(ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.bool_]:
    """Which ids are of the gallery and come for the first time."""
    real = np.zeros(len(ids), np.bool_)
    real[np.unique(ids, return_index=True)[1]] = True
    return real & (ids >= 0) & (ids < count)
