"""NumPy: bitwise_count of all codes, then argpartition."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.peers.base import Hits, Searcher, Task, padded

__all__ = ["NumPy"]


class NumPy(Searcher):
    """numpy.bitwise_count and argpartition, a query at a time."""

    name: ClassVar[str] = "numpy"
    package: ClassVar[str] = "numpy"
    one_thread: ClassVar[str] = "none of these functions has threads"

    @classmethod
    def memory(cls, count: int, bits: int) -> int:
        """Words, their differences, distances and the row numbers of argpartition."""
        return count * 26

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task)
        self._width = next(width for width in (1, 2, 4, 8) if 8 * width >= bits)
        self._words = self.prepare(codes)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the words."""
        return int(self._words.nbytes)

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """Codes as words of 1, 2, 4 or 8 bytes."""
        return padded(queries, self._width).view(f"<u{self._width}")[:, 0]

    def nearest(self, queries: Any, k: int) -> Any:
        """For each query, (rows, distances) of the k nearest, sorted by distance."""
        found = []
        for query in queries:
            distances = np.bitwise_count(self._words ^ query)
            rows = np.argpartition(distances, k)[:k] if k < len(distances) else np.arange(len(distances))
            near = distances[rows]
            order = np.argsort(near)
            found.append((rows[order], near[order]))
        return found

    def within(self, queries: Any, radius: int) -> Any:
        """For each query, (rows, distances) of all within the radius, sorted by distance."""
        found = []
        for query in queries:
            distances = np.bitwise_count(self._words ^ query)
            rows = np.flatnonzero(distances <= radius)
            near = distances[rows]
            order = np.argsort(near)
            found.append((rows[order], near[order]))
        return found

    def hits(self, found: Any) -> list[Hits]:
        """Query by query."""
        return [Hits.of(rows, near) for rows, near in found]
