"""Who searches on a GPU: queryopt's kernel, and what it is measured beside, PyTorch, FAISS, and queryopt on the CPU.

All take queries from the host's memory and bring their results there, as a user's call does, and both are timed.
"""

import importlib
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import Hits, SearchContender, Task, UnavailableError, split_hits
from queryopt.bench.speed.search.peers.faiss import Faiss
from queryopt.bench.speed.search.peers.ours import Ours
from queryopt.bench.speed.search.peers.torch import distances_of, nearest_by_product
from queryopt.cores import usable_cores
from queryopt.errors import UsageError
from queryopt.runtime import HammingIndex
from queryopt.runtime.cuda import CudaRuntime
from queryopt.runtime.search.gpu import CudaHammingIndex, Tuning
from queryopt.text import did_you_mean

__all__ = ["GPU_PEERS", "Cpu", "FaissGpu", "Kernel", "TorchCuda", "check_gpu_peers", "open_gpu_peer"]

_CHUNK: Final = 1 << 20
"""Codes that are brought to the device at a time."""

_PRODUCTS: Final = 1 << 28
"""Products of a query and a code that PyTorch holds at a time: 512 MiB, and what topk takes beside."""


class Kernel(Ours):
    """CudaHammingIndex; without a runtime, in rehearsals, HammingIndex."""

    one_thread: ClassVar[str] = "on the GPU"

    def __init__(
        self,
        codes: npt.NDArray[np.uint8],
        bits: int,
        task: Task,
        runtime: CudaRuntime | None,
        tuning: Tuning | None = None,
    ) -> None:
        SearchContender.__init__(self, codes, bits, task)
        self._index = (
            HammingIndex(codes, bits) if runtime is None else CudaHammingIndex(codes, bits, None, runtime, tuning)
        )

    def close(self) -> None:
        if isinstance(self._index, CudaHammingIndex):
            self._index.close()


class Cpu(Ours):
    """HammingIndex on all of the processor's cores: what a user has without a GPU."""

    name: ClassVar[str] = "cpu"
    one_thread: ClassVar[str] = "on all cores"

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task, threads=usable_cores())
        self.label = f"queryopt, CPU, {usable_cores()} threads"


class TorchCuda(SearchContender):
    """PyTorch on the GPU: products of ±1 in float16, exact for up to 64 bits and on tensor cores, and topk."""

    name: ClassVar[str] = "torch"
    package: ClassVar[str] = "torch"
    one_thread: ClassVar[str] = "on the GPU"
    device: ClassVar[str] = "cuda"

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task)
        torch: Any = importlib.import_module(self.package)
        self._torch = torch
        self.label = f"torch, {self.device}"
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(f"PyTorch {torch.__version__} sees no GPU")
        self._signs = torch.empty(len(codes), bits, dtype=torch.float16, device=self.device)
        for start in range(0, len(codes), _CHUNK):
            self._signs[start : start + _CHUNK] = self._to_signs(codes[start : start + _CHUNK])
        self.nbytes = int(self._signs.nbytes)

    def nearest(self, queries: Any, k: int) -> Any:
        """(rows, distances) of shape [queries, min(k, n)]."""
        step = max(_PRODUCTS // max(len(queries), 1), k)
        rows, distances = nearest_by_product(self._to_signs(queries), self._signs, k, step)
        return rows.cpu().numpy(), distances.cpu().numpy()

    def within(self, queries: Any, radius: int) -> Any:
        """(number of queries, query of each hit, row, distance)."""
        torch, wanted = self._torch, self._to_signs(queries)
        step = max(_PRODUCTS // max(len(wanted), 1), 1)
        parts = []
        for start in range(0, len(self._signs), step):
            products = wanted @ self._signs[start : start + step].T
            query, row = torch.nonzero(products >= self.bits - 2 * radius, as_tuple=True)
            parts.append((query, row + start, products[query, row]))
        query, rows, products = (torch.cat(part) for part in zip(*parts, strict=True))
        near = distances_of(products, self.bits)
        return len(queries), query.cpu().numpy(), rows.cpu().numpy(), near.cpu().numpy()

    def hits(self, result: Any) -> list[Hits]:
        if self.task.radius is None:
            return split_hits(zip(*result, strict=True))
        count, query, rows, near = result
        return split_hits((rows[query == one], near[query == one]) for one in range(count))

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


class FaissGpu(Faiss):
    """faiss.GpuIndexBinaryFlat. It has no search within a radius."""

    one_thread: ClassVar[str] = "on the GPU"

    def _make_index(self, bits: int) -> Any:
        faiss = self._faiss
        if not hasattr(faiss, "GpuIndexBinaryFlat"):
            raise UnavailableError(f"FAISS {faiss.__version__} here is one for the CPU: faiss-gpu-cu12 takes its place")
        if faiss.get_num_gpus() < 1:
            raise UnavailableError(f"FAISS {faiss.__version__} sees no GPU")
        self.label = "faiss, cuda"
        self._resources = faiss.StandardGpuResources()
        return faiss.GpuIndexBinaryFlat(self._resources, bits)

    within = SearchContender.within


_PEERS: Final[dict[str, type[SearchContender]]] = {"torch": TorchCuda, "faiss": FaissGpu, "cpu": Cpu}

GPU_PEERS: Final = tuple(_PEERS)
"""What the kernel is measured beside."""


def check_gpu_peers(names: tuple[str, ...]) -> None:
    """UsageError for a name that is none of GPU_PEERS."""
    for name in names:
        if name not in _PEERS:
            raise UsageError(f"there is no peer {name!r}: there are {', '.join(_PEERS)}{did_you_mean(name, _PEERS)}")


def open_gpu_peer(name: str, codes: npt.NDArray[np.uint8], bits: int) -> SearchContender:
    """Bring codes to a peer, for any task. UnavailableError says why it can't be had; a library's own errors pass."""
    cls = _PEERS[name]
    try:
        importlib.import_module(cls.package)
    except ImportError:
        raise UnavailableError(f"{cls.package} is not installed") from None
    return cls(codes, bits, Task())
