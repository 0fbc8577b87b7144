"""PyTorch on the CPU: it has no popcount, so bits are counted in words with shifts, or by a matrix product of signs."""

import importlib
import time
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import SearchContender, Task
from queryopt.bench.speed.search.data import to_words
from queryopt.codes import unpack_codes

__all__ = ["Torch", "distances_of", "nearest_by_product"]

_CHUNK = 1 << 16
_MATRIX_BATCH = 8
"""From so many queries a call on, one product with all of them is faster than counting bits for each."""


class Torch(SearchContender):
    """Bits counted in int64 words and topk; in batches, products of ±1 in chunks of rows."""

    name: ClassVar[str] = "torch"
    package: ClassVar[str] = "torch"
    one_thread: ClassVar[str] = "torch.set_num_threads(1)"

    @classmethod
    def memory(cls, count: int, bits: int) -> int:
        """Signs of up to 4 bytes a bit for batches; words and their differences otherwise."""
        return count * (40 + 4 * bits)

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task)
        torch: Any = importlib.import_module(self.package)
        self._torch, self._threads = torch, torch.get_num_threads()
        torch.set_num_threads(1)
        self._matrix = task.k is not None and task.batch >= _MATRIX_BATCH
        if self._matrix:
            self._dtype = self._fastest_dtype()
            self._signs = torch.empty(len(codes), bits, dtype=self._dtype)
            for start in range(0, len(codes), _CHUNK):
                self._signs[start : start + _CHUNK] = self._to_signs(codes[start : start + _CHUNK])
        else:
            self._words = self._to_words(codes)
        self.nbytes = int((self._signs if self._matrix else self._words).nbytes)
        self.facts = {"method": f"product of ±1, {self._dtype}" if self._matrix else "bits counted in int64"}

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        return self._to_signs(queries) if self._matrix else self._to_words(queries)

    def nearest(self, queries: Any, k: int) -> Any:
        if self._matrix:
            return list(zip(*nearest_by_product(queries, self._signs, k, _CHUNK), strict=True))
        nearest = [self._torch.topk(self._distances(q), min(k, len(self._words)), largest=False) for q in queries]
        return [(best.indices, best.values) for best in nearest]

    def within(self, queries: Any, radius: int) -> Any:
        results = []
        for query in queries:
            distances = self._distances(query)
            rows = self._torch.nonzero(distances <= radius)[:, 0]
            results.append((rows, distances[rows]))
        return results

    def close(self) -> None:
        self._torch.set_num_threads(self._threads)

    def _to_words(self, codes: npt.NDArray[np.uint8]) -> Any:
        return self._torch.from_numpy(to_words(codes).view(np.int64))

    def _to_signs(self, codes: npt.NDArray[np.uint8]) -> Any:
        return self._torch.from_numpy(unpack_codes(codes, self.bits)).to(self._dtype) * 2 - 1

    def _distances(self, query: Any) -> Any:
        """Bits that differ, int64 [n], counted in pairs, nibbles and bytes of a word side by side."""
        x = self._words ^ query
        x = x - ((x >> 1) & 0x5555555555555555)
        x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
        x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
        return (x * 0x0101010101010101) >> 56

    def _fastest_dtype(self) -> Any:
        """bfloat16 where the processor multiplies it, float32 where that is slow."""
        seconds = {}
        for dtype in (self._torch.float32, self._torch.bfloat16):
            a, b = self._torch.ones(256, self.bits, dtype=dtype), self._torch.ones(4096, self.bits, dtype=dtype)
            took = []
            for _ in range(4):
                started = time.perf_counter()
                a @ b.T
                took.append(time.perf_counter() - started)
            seconds[dtype] = min(took)
        return min(seconds, key=lambda dtype: seconds[dtype])


def nearest_by_product(queries: Any, signs: Any, k: int, step: int) -> tuple[Any, Any]:
    """Rows and distances of the k nearest, both int64 [queries, min(k, n)], by products of ±1 with `step` rows a time.

    queries: [q, bits], signs: [n, bits]. A product is the number of bits that agree less that of those that differ: a
    whole number up to 64, which half precision holds exactly.
    """
    import torch

    products, rows = [], []
    for start in range(0, len(signs), step):
        part = signs[start : start + step]
        best = torch.topk(queries @ part.T, min(k, len(part)))
        products.append(best.values)
        rows.append(best.indices + start)
    best = torch.topk(torch.cat(products, 1), min(k, len(signs)))
    return torch.cat(rows, 1).gather(1, best.indices), distances_of(best.values, signs.shape[1])


def distances_of(products: Any, bits: int) -> Any:
    """Bits that differ, int64, of products of ±1."""
    return ((bits - products.float()) / 2).long()
