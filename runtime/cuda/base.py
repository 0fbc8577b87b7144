"""What running CUDA kernels takes: the thin interface that every implementation has.

A runtime owns one device. It allocates memory there, loads a program (a .cu file) and makes streams; everything that
happens in order happens on a stream. Arguments of a kernel are NumPy scalars of the parameters' exact types, memory, or
addresses within memory.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = [
    "Address",
    "Argument",
    "CudaRuntime",
    "Device",
    "Dim",
    "Event",
    "Graph",
    "Kernel",
    "KernelResources",
    "Memory",
    "MultiprocessorLimits",
    "OwnedMemory",
    "Program",
    "Stream",
    "check_copy",
    "dimensions",
    "memory_bandwidth",
    "resident_blocks",
    "scalars",
]

Dim = int | tuple[int, ...]
"""A launch's size in up to three dimensions."""


@dataclass(frozen=True)
class Device:
    """A device, as far as programs depend on it.

    name: for people.
    index: among the process's devices.
    capability: (major, minor), e.g. (9, 0).
    multiprocessors: how many there are.
    memory: bytes.
    clock: of the multiprocessors at most, in Hz; 0 where it isn't known.
    bandwidth: of the memory at most, in bytes a second; 0 where it isn't known.
    """

    name: str
    index: int
    capability: tuple[int, int]
    multiprocessors: int
    memory: int
    clock: int = 0
    bandwidth: int = 0


@dataclass(frozen=True)
class Program:
    """A CUDA C++ source file.

    source: the .cu file. kernels: the names of its `extern "C" __global__` functions.
    """

    source: Path
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class KernelResources:
    """registers: of a thread. shared: bytes of static shared memory of a block, with the 1024 that the system takes of
    it from compute capability 9.0 on. stack: bytes of local memory of a thread, for calls and registers that spill.
    """

    registers: int
    shared: int
    stack: int


@dataclass(frozen=True)
class MultiprocessorLimits:
    """What a multiprocessor has: threads, blocks, 32-bit registers, bytes of shared memory."""

    threads: int
    blocks: int
    registers: int
    shared: int


class Memory(Protocol):
    """Memory of the device."""

    @property
    def pointer(self) -> int:
        """The device's address."""

    @property
    def nbytes(self) -> int:
        """The size."""

    def free(self) -> None:
        """Give it back; all work on it must have ended. Once is enough, twice does no harm."""


class OwnedMemory:
    """Memory of the device that is given back when nobody holds it any more, or before, by `free`.

    pointer: the device's address. nbytes: the size. release: called once, with `arguments`, to give it back.
    """

    def __init__(self, pointer: int, nbytes: int, release: Callable[..., object], *arguments: Any) -> None:
        self.pointer = pointer
        self.nbytes = nbytes
        self._release = weakref.finalize(self, release, *arguments)

    def free(self) -> None:
        self._release()


@dataclass(frozen=True)
class Address:
    """A place within memory, `offset` bytes from its start."""

    memory: Memory
    offset: int

    @property
    def pointer(self) -> int:
        return self.memory.pointer + self.offset


Argument = np.number[Any] | Memory | Address


class Kernel(Protocol):
    """A function of a loaded program."""

    @property
    def name(self) -> str:
        """Its name in the source."""

    def resident_blocks(self, threads: int) -> int:
        """How many blocks of so many threads a multiprocessor runs at a time."""


class Event(Protocol):
    """A moment of a stream."""

    def synchronize(self) -> None:
        """Wait until the stream has got there."""

    def milliseconds_since(self, earlier: "Event") -> float:
        """Time on the device from another event's moment to this one's; both must have passed."""


class Graph(Protocol):
    """Work that was recorded once and is launched as a whole."""

    def launch(self, stream: "Stream") -> None:
        """Do the recorded work, after what the stream was given before."""


class Stream(Protocol):
    """Work that the device does in order. Calls return before the work is done.

    Host arrays are C-contiguous. One that is copied from or to must stay as it is until the work is done, unless it is
    ordinary (not pinned) memory that is copied from.
    """

    @property
    def handle(self) -> int:
        """The driver's handle (CUstream), for libraries that give work to a stream themselves."""

    def upload(self, target: Memory, source: npt.NDArray[Any], offset: int = 0) -> None:
        """Copy an array to the device, to `offset` bytes into `target`."""

    def download(self, target: npt.NDArray[Any], source: Memory, offset: int = 0) -> None:
        """Copy from the device, from `offset` bytes into `source`, as much as the array takes."""

    def launch(self, kernel: Kernel, grid: Dim, block: Dim, *arguments: Argument) -> None:
        """Run a kernel: `grid` blocks of `block` threads."""

    def record(self) -> Event:
        """Mark this moment."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Call `work`, and record what it gives this stream instead of doing it. Host arrays that it copies from or to
        are pinned.
        """

    def synchronize(self) -> None:
        """Wait until everything is done."""


class CudaRuntime(Protocol):
    """A device and a way to use it. Any thread may use it, one at a time."""

    @property
    def name(self) -> str:
        """What runs kernels, and on what, for people: "cuda-core 1.2.2 (NVIDIA H100)"."""

    @property
    def device(self) -> Device:
        """The device."""

    def free_memory(self) -> int:
        """Bytes of the device's memory that can be had now."""

    def allocate(self, nbytes: int) -> Memory:
        """Memory of the device, not cleared. Raises DeviceMemoryError where there is not so much."""

    def pinned(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A host array that the device copies from and to at full speed, not cleared."""

    def stream(self) -> Stream:
        """A new stream."""

    def load(self, program: Program) -> dict[str, Kernel]:
        """Compile a program for the device, where that hasn't been done before: its kernels by name."""


def resident_blocks(threads: int, resources: KernelResources, limits: MultiprocessorLimits) -> int:
    """How many blocks of so many threads a multiprocessor runs at a time, at least 1.

    Registers are given out 256 a warp at a time, and warps 4 at a time (since compute capability 7.0).
    """
    warps = -(-threads // 32)
    by_threads = limits.threads // threads
    registers = -(-resources.registers * 32 // 256) * 256
    by_registers = (limits.registers // registers // 4 * 4) // warps if registers else by_threads
    by_shared = limits.shared // resources.shared if resources.shared else by_threads
    return max(1, min(by_threads, by_registers, by_shared, limits.blocks))


def memory_bandwidth(clock: int, width: int) -> int:
    """Bytes a second of a memory bus of `width` bits at `clock` kHz, which is used twice a cycle."""
    return 2 * 1000 * clock * width // 8


def dimensions(size: Dim) -> tuple[int, int, int]:
    """A launch's size in three dimensions."""
    sizes = (size,) if isinstance(size, int) else size
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def check_copy(memory: Memory, array: npt.NDArray[Any], offset: int) -> None:
    """A copy between memory and an array must lie within both."""
    if not array.flags.c_contiguous:
        raise ValueError("the host array of a copy is not C-contiguous")
    if offset < 0 or offset + array.nbytes > memory.nbytes:
        raise ValueError(f"{array.nbytes} bytes at {offset} don't lie within {memory.nbytes} bytes of device memory")


def scalars(arguments: Sequence[Argument]) -> list[np.number[Any]]:
    """Arguments with addresses in place of memory."""
    return [argument if isinstance(argument, np.number) else np.uint64(argument.pointer) for argument in arguments]
