"""NumPy: bitwise_count of all codes, then argpartition."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import SearchContender, Task, padded

__all__ = ["NumPy"]


class NumPy(SearchContender):
    """numpy.bitwise_count and argpartition, a query at a time, sorted by distance."""

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
        self.nbytes = int(self._words.nbytes)

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """Codes as words of 1, 2, 4 or 8 bytes."""
        return padded(queries, self._width).view(f"<u{self._width}")[:, 0]

    def nearest(self, queries: Any, k: int) -> Any:
        def rows(distances: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
            return np.argpartition(distances, k)[:k] if k < len(distances) else np.arange(len(distances))

        return [self._sorted(query, rows) for query in queries]

    def within(self, queries: Any, radius: int) -> Any:
        return [self._sorted(query, lambda distances: np.flatnonzero(distances <= radius)) for query in queries]

    def _sorted(self, query: Any, choose: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        distances = np.bitwise_count(self._words ^ query)
        rows = choose(distances)
        near = distances[rows]
        order = np.argsort(near)
        return rows[order], near[order]
