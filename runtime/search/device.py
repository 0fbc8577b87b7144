"""Where a search runs: on the CPU, or on a GPU that holds a copy of the codes."""

import logging
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from queryopt.errors import MissingError, UsageError
from queryopt.runtime.search.segment import Segment
from queryopt.text import did_you_mean

if TYPE_CHECKING:
    from queryopt.runtime.cuda import CudaRuntime
    from queryopt.runtime.search.gpu import CudaHammingIndex

__all__ = ["DEVICES", "RUNTIME_VARIABLE", "DeviceChoice", "Devices"]

DEVICES: Final = ("cpu", "cuda", "auto")

RUNTIME_VARIABLE: Final = "QUERYOPT_CUDA_RUNTIME"
"""Environment variable: which CUDA package a search uses, see queryopt.runtime.cuda.RUNTIMES."""

_AUTO_QUERIES: Final = 64
_AUTO_CODES: Final = 1_000_000
"""'auto' takes the GPU for so many queries at once in so many codes. Below, the CPU's structures answer in microseconds
each; where exactly the GPU becomes quicker was not measured."""


@dataclass(frozen=True)
class DeviceChoice:
    """device: 'cpu' or 'cuda'. reason: why."""

    device: str
    reason: str


class Devices:
    """The copy of an index's codes on a GPU, made when a search first asks for it and again after changes.

    runtime: what runs kernels there, or its name (see `open_runtime`); RUNTIME_VARIABLE says it if None.
    """

    def __init__(self, runtime: "str | CudaRuntime | None" = None) -> None:
        self._lock = threading.Lock()
        self._asked_for = runtime
        self._runtime: CudaRuntime | None = None
        self._missing: str | None = None
        self._copied: tuple[Segment, ...] | None = None
        self._copy: CudaHammingIndex | None = None
        self._said: DeviceChoice | None = None

    def choose(self, device: str, queries: int, codes: int, cpu_only: str | None) -> DeviceChoice:
        """Where so many queries in so many codes run.

        cpu_only: what only the CPU can do, if the search needs it. What 'auto' chose is logged when it changes.
        UsageError for another device, and for 'cuda' with what only the CPU can do; MissingError where there is none.
        """
        if device == "cpu":
            return DeviceChoice("cpu", "as asked for")
        if device not in DEVICES:
            raise UsageError(f"device is {device!r}: it is one of {', '.join(DEVICES)}{did_you_mean(device, DEVICES)}")
        if device == "cuda":
            if cpu_only:
                raise UsageError(f"{cpu_only} is the CPU's: leave device='cuda' out")
            self.runtime()
            return DeviceChoice("cuda", "as asked for")
        choice = self._automatic(queries, codes, cpu_only)
        if choice != self._said:
            self._said = choice
            logging.getLogger("queryopt").info("searching on %s: %s", choice.device, choice.reason)
        return choice

    def copy_of(self, segments: tuple[Segment, ...], bits: int) -> "CudaHammingIndex":
        """The codes of these segments on the GPU."""
        from queryopt.runtime.search.gpu import CudaHammingIndex

        runtime = self.runtime()
        with self._lock:
            if self._copy is None or self._copied != segments:
                contents = [segment.contents() for segment in segments]
                if contents:
                    codes = np.concatenate([codes for codes, _ in contents])
                    ids = np.concatenate([ids for _, ids in contents])
                    copy = CudaHammingIndex(codes, bits, ids, runtime)
                else:
                    copy = CudaHammingIndex(np.empty(0, np.uint64), bits, None, runtime)
                # The old one may still be searched by another thread: its memory goes when nobody holds it.
                self._copy, self._copied = copy, segments
            return self._copy

    def runtime(self) -> "CudaRuntime":
        """What runs kernels. MissingError where there is none; asked once."""
        from queryopt.runtime.cuda import open_runtime

        with self._lock:
            if self._runtime is None:
                self._runtime = open_runtime(self._asked_for or os.environ.get(RUNTIME_VARIABLE) or "auto")
            return self._runtime

    def _automatic(self, queries: int, codes: int, cpu_only: str | None) -> DeviceChoice:
        if cpu_only:
            return DeviceChoice("cpu", f"{cpu_only} is the CPU's")
        if queries < _AUTO_QUERIES or codes < _AUTO_CODES:
            return DeviceChoice("cpu", f"fewer than {_AUTO_QUERIES} queries at once, or than {_AUTO_CODES:,} codes")
        if self._missing is None:
            try:
                self.runtime()
            except MissingError as error:
                self._missing = str(error)
        if self._missing is not None:
            return DeviceChoice("cpu", f"no GPU: {self._missing}")
        return DeviceChoice("cuda", f"{_AUTO_QUERIES} queries or more at once in {_AUTO_CODES:,} codes or more")
