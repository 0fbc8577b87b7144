"""What a GPU can do: large matrix products in each precision, and copies within its memory, through PyTorch."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from queryopt.bench.speed.harness import timed
from queryopt.bench.speed.latency.peak import Peaks

__all__ = ["GpuMachine"]

_SIDE: Final = {"cuda": 8192, "cpu": 256}
"""Rows and columns of the product: 1.1 TFLOP on a GPU, a millisecond and more."""
_COPIED: Final = {"cuda": 1 << 30, "cpu": 1 << 22}
"""Bytes of a copy, far more than the caches hold."""
_CALLS: Final = 5


class GpuMachine:
    """A latency.peak.Meter of a GPU. tf32: float32 with rounded factors.

    Factors are random numbers: a GPU multiplies zeros faster, for they take less power.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        side = _SIDE[device]
        generator = torch.Generator(device).manual_seed(0)
        factors = torch.randn(2, side, side, device=device, generator=generator)
        half = factors.half() if device == "cuda" else factors.bfloat16()
        self._operations = 2 * side**3
        self._products: dict[str, Callable[[], Tensor]] = {
            "fp32": lambda: _product(factors, tf32=False),
            "tf32": lambda: _product(factors, tf32=True),
            "fp16" if device == "cuda" else "bf16": lambda: half[0] @ half[1],
        }
        self._source = torch.zeros(_COPIED[device], dtype=torch.uint8, device=device)
        self._target = torch.empty_like(self._source)
        self._flops: dict[str, float] = {}
        self._moved = 0.0

    def measure(self) -> None:
        for name, product in self._products.items():
            self._flops[name] = max(self._flops.get(name, 0.0), self._operations / self._seconds(product))
        seconds = self._seconds(lambda: self._target.copy_(self._source))
        self._moved = max(self._moved, 2 * self._source.nbytes / seconds)

    def peaks(self) -> Peaks:
        """The best of what was measured; bytes are those read and written."""
        return Peaks(dict(self._flops), self._moved)

    def _seconds(self, work: Callable[[], Tensor]) -> float:
        """Of one call, on average: enough of them that starting the first and waiting for the last is nothing."""

        def work_often() -> None:
            for _ in range(_CALLS):
                work()
            self._wait()

        work()
        self._wait()
        return timed(work_often).wall / _CALLS

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def _product(factors: Tensor, tf32: bool) -> Tensor:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return factors[0] @ factors[1]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
