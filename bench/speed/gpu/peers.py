"""What the search on a GPU is measured beside: PyTorch and FAISS on the same GPU, and queryopt on the CPU.

All take queries from the host's memory and bring their results there, as a user's call does, and both are timed.
"""

import importlib
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.peers.base import Hits, Searcher, Task, UnavailableError, padded
from queryopt.bench.speed.search.peers.ours import Ours, hits_of
from queryopt.cores import usable_cores
from queryopt.errors import UsageError
from queryopt.runtime import HammingIndex
from queryopt.runtime.cuda import CudaRuntime
from queryopt.runtime.search import RadiusResult, SearchResult
from queryopt.runtime.search.gpu import CudaHammingIndex, Tuning
from queryopt.text import did_you_mean

__all__ = ["GPU_PEERS", "Cpu", "FaissGpu", "Kernel", "TorchCuda", "check_gpu_peers", "open_gpu_peer"]

_CHUNK: Final = 1 << 20
"""Codes that are brought to the device at a time."""

_PRODUCTS: Final = 1 << 28
"""Products of a query and a code that PyTorch holds at a time: 512 MiB, and what topk takes beside."""


class Kernel(Searcher):
    """CudaHammingIndex; without a runtime, in rehearsals, HammingIndex."""

    name: ClassVar[str] = "queryopt"
    package: ClassVar[str] = "queryopt"
    one_thread: ClassVar[str] = "on the GPU"
    ordered: ClassVar[bool] = True

    def __init__(
        self,
        codes: npt.NDArray[np.uint8],
        bits: int,
        task: Task,
        runtime: CudaRuntime | None,
        tuning: Tuning | None = None,
    ) -> None:
        super().__init__(codes, bits, task)
        self._index: CudaHammingIndex | HammingIndex
        if runtime is None:
            self._index = HammingIndex(codes, bits)
        else:
            self._index = CudaHammingIndex(codes, bits, None, runtime, tuning)

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """Packed codes as they are."""
        return queries

    def nearest(self, queries: Any, k: int) -> Any:
        """CudaHammingIndex.search."""
        return self._index.search(queries, k)

    def within(self, queries: Any, radius: int) -> Any:
        """CudaHammingIndex.search_radius."""
        return self._index.search_radius(queries, radius)

    def hits(self, found: SearchResult | RadiusResult) -> list[Hits]:
        """Query by query."""
        return hits_of(found)

    def close(self) -> None:
        """Give back the device's memory."""
        if isinstance(self._index, CudaHammingIndex):
            self._index.close()


class Cpu(Ours):
    """HammingIndex on all of the processor's cores: what a user has without a GPU."""

    name: ClassVar[str] = "cpu"
    one_thread: ClassVar[str] = "on all cores"

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        Searcher.__init__(self, codes, bits, task)
        self.structure = "auto"
        self._index = HammingIndex(codes, bits, threads=usable_cores())

    @property
    def label(self) -> str:
        """With the number of its threads."""
        return f"queryopt, CPU, {usable_cores()} threads"


class TorchCuda(Searcher):
    """PyTorch on the GPU: products of ±1 in float16, exact for up to 64 bits and on tensor cores, and topk."""

    name: ClassVar[str] = "torch"
    package: ClassVar[str] = "torch"
    one_thread: ClassVar[str] = "on the GPU"
    device: ClassVar[str] = "cuda"

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task)
        torch: Any = importlib.import_module(self.package)
        self._torch = torch
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(f"PyTorch {torch.__version__} sees no GPU")
        self._signs = torch.empty(len(codes), bits, dtype=torch.float16, device=self.device)
        for start in range(0, len(codes), _CHUNK):
            self._signs[start : start + _CHUNK] = self._to_signs(codes[start : start + _CHUNK])

    @property
    def label(self) -> str:
        """PyTorch, and on what."""
        return f"torch, {self.device}"

    @property
    def nbytes(self) -> int | None:
        """Bytes of the tensor."""
        return int(self._signs.nbytes)

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """Packed codes: they go to the device within the timed call."""
        return queries

    def nearest(self, queries: Any, k: int) -> Any:
        """(rows, distances) of shape [queries, min(k, n)]."""
        torch, wanted = self._torch, self._to_signs(queries)
        step = max(_PRODUCTS // max(len(wanted), 1), k)
        products, rows = [], []
        for start in range(0, len(self._signs), step):
            part = self._signs[start : start + step]
            best = torch.topk(wanted @ part.T, min(k, len(part)))
            products.append(best.values)
            rows.append(best.indices + start)
        best = torch.topk(torch.cat(products, 1), min(k, len(self._signs)))
        return torch.cat(rows, 1).gather(1, best.indices).cpu().numpy(), self._distances(best.values)

    def within(self, queries: Any, radius: int) -> Any:
        """(number of queries, query of each hit, row, distance)."""
        torch, wanted = self._torch, self._to_signs(queries)
        step = max(_PRODUCTS // max(len(wanted), 1), 1)
        found: list[list[Any]] = [[], [], []]
        for start in range(0, len(self._signs), step):
            products = wanted @ self._signs[start : start + step].T
            query, row = torch.nonzero(products >= self.bits - 2 * radius, as_tuple=True)
            for to, values in zip(found, (query, row + start, products[query, row]), strict=True):
                to.append(values)
        query, rows, products = (torch.cat(values) for values in found)
        return len(queries), query.cpu().numpy(), rows.cpu().numpy(), self._distances(products)

    def hits(self, found: Any) -> list[Hits]:
        """Query by query."""
        if self.task.radius is None:
            return [Hits.of(rows, near) for rows, near in zip(*found, strict=True)]
        count, query, rows, near = found
        return [Hits.of(rows[query == one], near[query == one]) for one in range(count)]

    def close(self) -> None:
        """Give back the device's memory, which PyTorch keeps otherwise."""
        del self._signs
        if self.device == "cuda":
            self._torch.cuda.empty_cache()

    def _to_signs(self, codes: npt.NDArray[np.uint8]) -> Any:
        """±1, float16 [n, bits], unpacked on the device."""
        packed = self._torch.from_numpy(np.ascontiguousarray(codes)).to(self.device)
        place = self._torch.arange(self.bits, device=self.device)
        return (packed[:, place // 8] >> (place % 8).to(packed.dtype) & 1).to(self._torch.float16) * 2 - 1

    def _distances(self, products: Any) -> npt.NDArray[np.int64]:
        # Bits that agree less bits that differ.
        distances: npt.NDArray[np.int64] = ((self.bits - products.float()) / 2).to(self._torch.int64).cpu().numpy()
        return distances


class FaissGpu(Searcher):
    """faiss.GpuIndexBinaryFlat over codes padded to 32 or 64 bits. It has no search within a radius."""

    name: ClassVar[str] = "faiss"
    package: ClassVar[str] = "faiss"
    one_thread: ClassVar[str] = "on the GPU"

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task)
        faiss: Any = importlib.import_module(self.package)
        if not hasattr(faiss, "GpuIndexBinaryFlat"):
            raise UnavailableError(f"FAISS {faiss.__version__} here is one for the CPU: faiss-gpu-cu12 takes its place")
        if faiss.get_num_gpus() < 1:
            raise UnavailableError(f"FAISS {faiss.__version__} sees no GPU")
        self._width = 4 if bits <= 32 else 8
        self._resources = faiss.StandardGpuResources()
        self._index = faiss.GpuIndexBinaryFlat(self._resources, 8 * self._width)
        for start in range(0, len(codes), _CHUNK):
            self._index.add(padded(codes[start : start + _CHUNK], self._width))

    @property
    def label(self) -> str:
        """FAISS, and on what."""
        return "faiss, cuda"

    @property
    def nbytes(self) -> int | None:
        """Bytes of its codes."""
        return int(self._index.ntotal) * self._width

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """Padded like the gallery."""
        return padded(queries, self._width)

    def nearest(self, queries: Any, k: int) -> Any:
        """GpuIndexBinaryFlat.search."""
        return self._index.search(queries, k)

    def hits(self, found: Any) -> list[Hits]:
        """Query by query."""
        distances, ids = found
        return [Hits.of(row, near) for row, near in zip(ids, distances, strict=True)]


_PEERS: Final[dict[str, type[Searcher]]] = {"torch": TorchCuda, "faiss": FaissGpu, "cpu": Cpu}

GPU_PEERS: Final = tuple(_PEERS)
"""What the kernel is measured beside."""


def check_gpu_peers(names: tuple[str, ...]) -> None:
    """UsageError for a name that is none of GPU_PEERS."""
    for name in names:
        if name not in _PEERS:
            raise UsageError(f"there is no peer {name!r}: there are {', '.join(_PEERS)}{did_you_mean(name, _PEERS)}")


def open_gpu_peer(name: str, codes: npt.NDArray[np.uint8], bits: int) -> Searcher:
    """Bring codes to a peer, for any task. UnavailableError says why it can't be had."""
    cls = _PEERS[name]
    try:
        importlib.import_module(cls.package)
    except ImportError:
        raise UnavailableError(f"{cls.package} is not installed") from None
    try:
        return cls(codes, bits, Task())
    except RuntimeError as error:  # out of the device's memory, in PyTorch's and FAISS's words
        raise UnavailableError((str(error).splitlines() or [type(error).__name__])[0]) from None
