"""queryopt's own searcher, HammingIndex, in one of its structures."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import Hits, SearchContender, Task, split_hits
from queryopt.runtime import HammingIndex
from queryopt.runtime.search import RadiusResult, SearchResult

__all__ = ["Ours"]


class Ours(SearchContender):
    """HammingIndex(structure=…, threads=1)."""

    name: ClassVar[str] = "queryopt"
    package: ClassVar[str] = "queryopt"
    one_thread: ClassVar[str] = "HammingIndex(threads=1)"
    ordered: ClassVar[bool] = True

    @classmethod
    def memory(cls, count: int, bits: int) -> int:
        """A multi-index of random codes of 64 bits while it is built."""
        return count * 48

    def __init__(
        self, codes: npt.NDArray[np.uint8], bits: int, task: Task, structure: str = "auto", threads: int = 1
    ) -> None:
        super().__init__(codes, bits, task)
        self._index: Any = HammingIndex(codes, bits, structure=structure, threads=threads)
        self.label = f"{self.name} {structure}"
        self.nbytes = self._index.nbytes
        # What was taken, what it runs on, and how many distinct codes it keeps.
        explanation = self._index.explain()
        self.facts = {"structure": explanation.structure, "path": explanation.path, "unique": explanation.unique}

    def nearest(self, queries: Any, k: int) -> Any:
        return self._index.search(queries, k)

    def within(self, queries: Any, radius: int) -> Any:
        return self._index.search_radius(queries, radius)

    def hits(self, result: SearchResult | RadiusResult) -> list[Hits]:
        if isinstance(result, SearchResult):
            return split_hits(zip(result.ids, result.distances, strict=True))
        cuts = result.offsets[1:-1]
        return split_hits(zip(np.split(result.ids, cuts), np.split(result.distances, cuts), strict=True))
