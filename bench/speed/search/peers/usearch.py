"""usearch: its exact search over packed bits, without an index."""

import importlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import Hits, SearchContender, Task, split_hits

__all__ = ["Usearch"]


class Usearch(SearchContender):
    """usearch.index.search(exact=True) with the Hamming metric."""

    name: ClassVar[str] = "usearch"
    package: ClassVar[str] = "usearch"
    one_thread: ClassVar[str] = "search(threads=1)"

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task)
        usearch: Any = importlib.import_module("usearch.index")
        self._search, self._metric = usearch.search, usearch.MetricKind.Hamming
        self._options = {"exact": True, "threads": 1, "dtype": usearch.ScalarKind.B1}

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """Packed codes as they are; one query is a vector."""
        return queries[0] if len(queries) == 1 else queries

    def nearest(self, queries: Any, k: int) -> Any:
        return self._search(self.codes, queries, min(k, len(self.codes)), self._metric, **self._options)

    def hits(self, result: Any) -> list[Hits]:
        return split_hits(zip(np.atleast_2d(result.keys), np.atleast_2d(result.distances), strict=True))
