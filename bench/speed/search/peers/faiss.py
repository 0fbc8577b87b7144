"""FAISS: IndexBinaryFlat over codes padded to 32 or 64 bits, in counter mode, which is its fastest exact search."""

import importlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import Hits, SearchContender, Task, padded, split_hits

__all__ = ["Faiss"]

_CHUNK = 1 << 20


class Faiss(SearchContender):
    """faiss.IndexBinaryFlat, use_heap = False."""

    name: ClassVar[str] = "faiss"
    package: ClassVar[str] = "faiss"
    one_thread: ClassVar[str] = "faiss.omp_set_num_threads(1)"

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task)
        faiss: Any = importlib.import_module(self.package)
        self._faiss, self._threads = faiss, faiss.omp_get_max_threads()
        # Its kernels for 4 and 8 bytes are several times faster than that for 6.
        self._width = 4 if bits <= 32 else 8
        self._index = self._make_index(8 * self._width)
        for start in range(0, len(codes), _CHUNK):
            self._index.add(padded(codes[start : start + _CHUNK], self._width))
        self.nbytes = int(self._index.ntotal) * self._width

    def _make_index(self, bits: int) -> Any:
        self._faiss.omp_set_num_threads(1)
        index = self._faiss.IndexBinaryFlat(bits)
        index.use_heap = False
        return index

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        return padded(queries, self._width)

    def nearest(self, queries: Any, k: int) -> Any:
        return self._index.search(queries, k)

    def within(self, queries: Any, radius: int) -> Any:
        """IndexBinaryFlat.range_search, whose radius is the first distance that is too far."""
        return self._index.range_search(queries, radius + 1)

    def hits(self, result: Any) -> list[Hits]:
        if self.task.radius is None:
            distances, ids = result
        else:
            limits, distances, ids = result
            cuts = limits[1:-1].astype(np.int64)
            distances, ids = np.split(distances, cuts), np.split(ids, cuts)
        return split_hits(zip(ids, distances, strict=True))

    def close(self) -> None:
        self._faiss.omp_set_num_threads(self._threads)
