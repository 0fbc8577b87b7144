"""queryopt's own searcher, HammingIndex, in one of its structures."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.peers.base import Hits, Searcher, Task
from queryopt.runtime import HammingIndex
from queryopt.runtime.search import RadiusResult, SearchResult

__all__ = ["Ours", "hits_of"]


class Ours(Searcher):
    """HammingIndex(structure=…, threads=1)."""

    name: ClassVar[str] = "queryopt"
    package: ClassVar[str] = "queryopt"
    one_thread: ClassVar[str] = "HammingIndex(threads=1)"
    ordered: ClassVar[bool] = True

    @classmethod
    def memory(cls, count: int, bits: int) -> int:
        """A multi-index of random codes of 64 bits while it is built."""
        return count * 48

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task, structure: str = "auto") -> None:
        super().__init__(codes, bits, task)
        self.structure = structure
        self._index = HammingIndex(codes, bits, structure=structure, threads=1)

    @property
    def label(self) -> str:
        """The structure that was asked for."""
        return f"{self.name} {self.structure}"

    @property
    def facts(self) -> dict[str, Any]:
        """The structure that was taken, what it runs on, and how many distinct codes it keeps."""
        explanation = self._index.explain()
        return {"structure": explanation.structure, "path": explanation.path, "unique": explanation.unique}

    @property
    def nbytes(self) -> int | None:
        """Bytes of the structure."""
        return self._index.nbytes

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """Packed codes as they are."""
        return queries

    def nearest(self, queries: Any, k: int) -> Any:
        """HammingIndex.search."""
        return self._index.search(queries, k)

    def within(self, queries: Any, radius: int) -> Any:
        """HammingIndex.search_radius."""
        return self._index.search_radius(queries, radius)

    def hits(self, found: SearchResult | RadiusResult) -> list[Hits]:
        """Query by query."""
        return hits_of(found)


def hits_of(found: SearchResult | RadiusResult) -> list[Hits]:
    """What queryopt found, query by query."""
    if isinstance(found, SearchResult):
        return [Hits.of(ids, near) for ids, near in zip(found.ids, found.distances, strict=True)]
    cuts = found.offsets[1:-1]
    return [
        Hits.of(ids, near) for ids, near in zip(np.split(found.ids, cuts), np.split(found.distances, cuts), strict=True)
    ]
