"""A CUDA runtime without a GPU: kernels compiled as C++ behind emulation.h, for tests and for debugging. Slow."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from queryopt.errors import DeviceMemoryError, MissingError, QueryOptError, UsageError
from queryopt.runtime.cuda.base import (
    Argument,
    Device,
    Dim,
    Event,
    Kernel,
    Memory,
    Program,
    Stream,
    check_copy,
    dimensions,
    scalars,
)

__all__ = ["CHECK_MEMORY", "CHECK_RACES", "EmulatedRuntime", "EmulationError"]

_HEADER = Path(__file__).with_name("emulation.h")
_FLAGS = ("-std=c++17", "-g", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas")
CHECK_MEMORY: Final = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
"""Flags with which a kernel's first access outside of what it was given, or undefined arithmetic, ends the process."""
CHECK_RACES: Final = ("-O0", "-fsanitize=thread", "--param=tsan-distinguish-volatile=1")
"""Flags of GCC with which two accesses that no barrier orders are reported on stderr (TSAN_OPTIONS says what follows).

With either of these, the sanitizer's library must have been preloaded into the process.
"""


class EmulationError(QueryOptError):
    """A kernel did what would hang or be undefined on a GPU. The message says where."""


class EmulatedRuntime:
    """Runs kernels on the CPU, in an order of threads that a seed draws.

    compiler: a C++ compiler; None takes $CXX, c++, g++ or clang++.
    flags: of the compiler, beside the usual ones.
    seed: of the first launch's schedule; each later launch has the next one.
    resident: blocks that run at a time.
    multiprocessors, memory: what the device says that it has.
    deferred: streams do nothing before they are waited for, so that what uses a result too early, or a buffer that is
        still in use, shows.
    folder: where compiled programs are kept; None makes a temporary one for this runtime.

    Raises MissingError where there is no compiler.
    """

    def __init__(
        self,
        compiler: str | None = None,
        flags: Sequence[str] = ("-O1",),
        *,
        seed: int = 0,
        resident: int = 3,
        multiprocessors: int = 2,
        memory: int = 1 << 30,
        deferred: bool = False,
        folder: Path | None = None,
    ) -> None:
        self._compiler = _find_compiler(compiler)
        self._flags = tuple(flags)
        self.seed = seed
        self.resident = resident
        self._free = memory
        self.deferred = deferred
        self._pinned: list[weakref.ref[npt.NDArray[Any]]] = []
        self._folder = Path(tempfile.mkdtemp(prefix="queryopt-")) if folder is None else folder
        if folder is None:
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self.name = f"emulation ({Path(self._compiler).name})"
        self.device = Device("emulation", 0, (9, 0), multiprocessors, memory)
        self._loaded: dict[Program, dict[str, Kernel]] = {}

    def free_memory(self) -> int:
        return self._free

    def allocate(self, nbytes: int) -> "EmulatedMemory":
        """Memory, full of garbage."""
        if nbytes > self._free:
            raise DeviceMemoryError(f"{nbytes} bytes of device memory were asked for, and {self._free} are free")
        return EmulatedMemory(self, nbytes)

    def pinned(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        array = np.empty(shape, dtype)
        self._pinned = [known for known in self._pinned if known() is not None]
        self._pinned.append(weakref.ref(array))
        return array

    def is_pinned(self, array: npt.NDArray[Any]) -> bool:
        """Whether an array lies in one that `pinned` gave."""
        return any((whole := known()) is not None and np.may_share_memory(whole, array) for known in self._pinned)

    def stream(self) -> "EmulatedStream":
        """A stream, which does its work at once, or when it is waited for."""
        return EmulatedStream(self)

    def load(self, program: Program) -> dict[str, Kernel]:
        """Compile a program. Raises EmulationError with the compiler's messages where it can't be."""
        if program not in self._loaded:
            library = ctypes.CDLL(str(self._build(program)))
            self._loaded[program] = {name: EmulatedKernel(library, name) for name in program.kernels}
        return self._loaded[program]

    def _build(self, program: Program) -> Path:
        wrapper = "\n".join(
            [
                f'#include "{_HEADER}"',
                f'#include "{program.source.resolve()}"',
                "QO_LIBRARY_BEGIN",
                *(f"QO_KERNEL({name})" for name in program.kernels),
                "QO_LIBRARY_END",
                "",
            ]
        )
        command = [self._compiler, *_FLAGS, *self._flags]
        key = hashlib.sha256()
        for part in (repr(command).encode(), wrapper.encode(), _HEADER.read_bytes(), program.source.read_bytes()):
            key.update(hashlib.sha256(part).digest())
        library = self._folder / f"{program.source.stem}-{key.hexdigest()[:16]}.so"
        if library.exists():
            return library
        source = library.with_suffix(".cpp")
        source.write_text(wrapper)
        partial = library.with_suffix(f".{os.getpid()}.so")
        done = subprocess.run([*command, "-o", partial, source], capture_output=True, text=True)
        if done.returncode:
            raise EmulationError(f"{program.source.name} can't be compiled as C++:\n{done.stderr.rstrip()}")
        partial.replace(library)
        return library


class EmulatedMemory:
    """Host memory of its own, so that a sanitizer knows its ends."""

    def __init__(self, runtime: EmulatedRuntime, nbytes: int) -> None:
        self.array = np.empty(nbytes, np.uint8)
        self.array.fill(0xA5)
        self.nbytes = nbytes
        runtime._free -= nbytes
        self._release = weakref.finalize(self, _give_back, runtime, nbytes)

    @property
    def pointer(self) -> int:
        return self.array.ctypes.data

    def free(self) -> None:
        self._release()
        self.array = np.empty(0, np.uint8)


def _give_back(runtime: EmulatedRuntime, nbytes: int) -> None:
    runtime._free += nbytes


class EmulatedKernel:
    """A function of a compiled program."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self._library = library
        self.name = name
        library.qo_argument_bytes.restype = ctypes.c_int
        sizes: list[int] = []
        while (size := library.qo_argument_bytes(name.encode(), len(sizes))) > 0:
            sizes.append(size)
        self._sizes = sizes

    def resident_blocks(self, threads: int) -> int:
        return 1

    def run(self, grid: Dim, block: Dim, arguments: Sequence[Argument], seed: int, resident: int) -> None:
        values = scalars(arguments)
        sizes = [value.nbytes for value in values]
        if sizes != self._sizes:
            raise ValueError(f"{self.name} takes arguments of {self._sizes} bytes, not {sizes}")
        boxes = [np.array([value]) for value in values]
        pointers = (ctypes.c_void_p * len(boxes))(*[box.ctypes.data for box in boxes])
        message = ctypes.create_string_buffer(1000)
        status = self._library.qo_launch(
            self.name.encode(),
            (ctypes.c_uint * 3)(*dimensions(grid)),
            (ctypes.c_uint * 3)(*dimensions(block)),
            pointers,
            ctypes.c_ulonglong(seed),
            ctypes.c_uint(resident),
            message,
            ctypes.c_ulonglong(len(message)),
        )
        if status:
            raise EmulationError(f"{self.name}: {message.value.decode()}")


class EmulatedEvent:
    """A moment of a stream: after so many of its steps."""

    def __init__(self, stream: "EmulatedStream", steps: int) -> None:
        self._stream = stream
        self._steps = steps

    def synchronize(self) -> None:
        self._stream.work_until(self._steps)

    def milliseconds_since(self, earlier: Event) -> float:
        """The emulation has no time: 0."""
        return 0.0


class EmulatedStream:
    """Does what it is given at once, or when it is waited for, or records it."""

    def __init__(self, runtime: EmulatedRuntime) -> None:
        self._runtime = runtime
        self._recording: list[Callable[[], None]] | None = None
        self._waiting: deque[Callable[[], object]] = deque()
        self._done = 0

    @property
    def handle(self) -> int:
        """No driver knows it, but it is its own."""
        return id(self)

    def upload(self, target: Memory, source: npt.NDArray[Any], offset: int = 0) -> None:
        check_copy(target, source, offset)
        if self._runtime.deferred and not self._runtime.is_pinned(source):
            if self._recording is not None:
                raise EmulationError("a graph copies from a host array that is not pinned")
            source = source.copy()
        self.do(lambda: ctypes.memmove(target.pointer + offset, source.ctypes.data, source.nbytes))

    def download(self, target: npt.NDArray[Any], source: Memory, offset: int = 0) -> None:
        check_copy(source, target, offset)
        self.do(lambda: ctypes.memmove(target.ctypes.data, source.pointer + offset, target.nbytes))

    def launch(self, kernel: Kernel, grid: Dim, block: Dim, *arguments: Argument) -> None:
        if not isinstance(kernel, EmulatedKernel):
            raise UsageError(f"{kernel.name} was loaded by another runtime")
        runtime = self._runtime

        def run() -> None:
            runtime.seed += 1
            kernel.run(grid, block, arguments, runtime.seed - 1, runtime.resident)

        self.do(run)

    def record(self) -> EmulatedEvent:
        return EmulatedEvent(self, self._done + len(self._waiting))

    def capture(self, work: Callable[[], None]) -> "EmulatedGraph":
        self._recording = []
        try:
            work()
            return EmulatedGraph(self._recording)
        finally:
            self._recording = None

    def synchronize(self) -> None:
        self.work_until(self._done + len(self._waiting))

    def do(self, step: Callable[[], object]) -> None:
        """Any work, in order: what stands for a library that gives work to this stream."""
        if self._recording is not None:
            self._recording.append(lambda: (step(), None)[1])
        elif self._runtime.deferred:
            self._waiting.append(step)
        else:
            step()

    def work_until(self, steps: int) -> None:
        """Do what waits until so many steps were done."""
        while self._done < steps:
            self._done += 1
            self._waiting.popleft()()


class EmulatedGraph:
    """Steps to do again."""

    def __init__(self, steps: Sequence[Callable[[], None]]) -> None:
        self._steps = tuple(steps)

    def launch(self, stream: Stream) -> None:
        if not isinstance(stream, EmulatedStream):
            raise UsageError("the stream is another runtime's")
        for step in self._steps:
            stream.do(step)


def _find_compiler(name: str | None) -> str:
    names = [name] if name else [*filter(None, [os.environ.get("CXX")]), "c++", "g++", "clang++"]
    for candidate in names:
        found = shutil.which(candidate)
        if found:
            return found
    raise MissingError(f"the emulation needs a C++ compiler, and there is no {', '.join(names)} on the PATH")
