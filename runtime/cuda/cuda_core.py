"""CUDA through NVIDIA's cuda-core package (1.0 or newer), which comes as wheels."""

import ctypes
import threading
import weakref
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.errors import DeviceMemoryError, MissingError, UsageError
from queryopt.runtime.cuda.base import (
    Argument,
    Device,
    Dim,
    Event,
    Kernel,
    Memory,
    OwnedMemory,
    Program,
    Stream,
    check_copy,
    dimensions,
    memory_bandwidth,
    scalars,
)
from queryopt.runtime.cuda.images import device_image
from queryopt.text import install_extra

__all__ = ["CudaCoreRuntime"]


class CudaCoreRuntime:
    """The device of that number, through cuda-core. Its primary context is used, as PyTorch and ONNX Runtime do.

    Raises MissingError where the package, a driver or the device is not there.
    """

    def __init__(self, index: int = 0) -> None:
        try:
            import cuda.core as core
            from cuda.bindings import driver

            device_class = core.Device  # before 1.0 it lay in cuda.core.experimental
        except (ImportError, AttributeError) as error:
            raise MissingError(f"using a GPU needs cuda-core 1.0 or newer ({error}): {install_extra('gpu')}") from None
        self.core: Any = core
        self.driver: Any = driver
        self._thread = threading.local()
        try:
            self._device = device_class(index)
            self._device.set_current()
        except Exception as error:
            raise MissingError(f"no GPU {index} can be used: {error} (nvidia-smi shows drivers and devices)") from None
        self._thread.ready = True
        capability = self._device.compute_capability
        properties = self._device.properties
        self.device = Device(
            name=self._device.name,
            index=index,
            capability=(int(capability.major), int(capability.minor)),
            multiprocessors=int(properties.multiprocessor_count),
            memory=self._memory_info()[1],
            clock=1000 * int(properties.clock_rate),
            bandwidth=memory_bandwidth(int(properties.memory_clock_rate), int(properties.global_memory_bus_width)),
        )
        self.name = f"cuda-core {version('cuda-core')} ({self.device.name})"
        self._programs: dict[Program, dict[str, Kernel]] = {}

    def free_memory(self) -> int:
        return self._memory_info()[0]

    def allocate(self, nbytes: int) -> OwnedMemory:
        self.enter()
        status, pointer = self.driver.cuMemAlloc(max(1, nbytes))
        if status == self.driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceMemoryError(
                f"{nbytes} bytes were asked for, and {self.free_memory()} of the GPU's {self.device.memory} are free"
            )
        self.check(status)
        return OwnedMemory(int(pointer), nbytes, _free, self, int(pointer))

    def pinned(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A page-locked array, freed when nobody holds it any more."""
        self.enter()
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        status, pointer = self.driver.cuMemAllocHost(max(1, nbytes))
        self.check(status)
        block = (ctypes.c_uint8 * nbytes).from_address(int(pointer))
        weakref.finalize(block, self.driver.cuMemFreeHost, int(pointer))
        array: npt.NDArray[Any] = np.ctypeslib.as_array(block).view(dtype).reshape(shape)
        return array

    def stream(self) -> "CoreStream":
        self.enter()
        return CoreStream(self, self._device.create_stream())

    def load(self, program: Program) -> dict[str, Kernel]:
        if program not in self._programs:
            self.enter()
            status, number = self.driver.cuDriverGetVersion()
            self.check(status)
            made = device_image(program, self.device.capability, driver=int(number) // 1000)
            load = self.core.ObjectCode.from_cubin if made.kind == "cubin" else self.core.ObjectCode.from_ptx
            code = load(made.image)
            self._programs[program] = {name: CoreKernel(self, name, code.get_kernel(name)) for name in program.kernels}
        return self._programs[program]

    def enter(self) -> None:
        """Make the device this thread's."""
        if not getattr(self._thread, "ready", False):
            self._device.set_current()
            self._thread.ready = True

    def check(self, status: Any) -> None:
        """Raise what a driver's status other than success stands for."""
        if status != self.driver.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"the CUDA driver says {status.name}")

    def _memory_info(self) -> tuple[int, int]:
        """Bytes (free, in all)."""
        self.enter()
        status, free, total = self.driver.cuMemGetInfo()
        self.check(status)
        return int(free), int(total)


def _free(runtime: CudaCoreRuntime, pointer: int) -> None:
    runtime.enter()
    runtime.driver.cuMemFree(pointer)


class CoreKernel:
    """A function of a loaded program."""

    def __init__(self, runtime: CudaCoreRuntime, name: str, kernel: Any) -> None:
        self._runtime = runtime
        self.name = name
        self.kernel = kernel

    def resident_blocks(self, threads: int) -> int:
        """How many blocks of so many threads a multiprocessor runs at a time."""
        self._runtime.enter()
        return max(1, int(self.kernel.occupancy.max_active_blocks_per_multiprocessor(threads, 0)))


class CoreEvent:
    """A moment of a stream."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def synchronize(self) -> None:
        self.event.sync()

    def milliseconds_since(self, earlier: Event) -> float:
        if not isinstance(earlier, CoreEvent):
            raise UsageError("the earlier event is another runtime's")
        return float(self.event - earlier.event)


class CoreStream:
    """A stream, or while something is captured the graph that is being built."""

    def __init__(self, runtime: CudaCoreRuntime, stream: Any) -> None:
        self._runtime = runtime
        self.stream = stream
        self._target = stream

    @property
    def handle(self) -> int:
        self._runtime.enter()
        return int(self.stream.handle)

    def upload(self, target: Memory, source: npt.NDArray[Any], offset: int = 0) -> None:
        check_copy(target, source, offset)
        self._runtime.enter()
        (status,) = self._runtime.driver.cuMemcpyHtoDAsync(
            target.pointer + offset, source.ctypes.data, source.nbytes, self.stream.handle
        )
        self._runtime.check(status)

    def download(self, target: npt.NDArray[Any], source: Memory, offset: int = 0) -> None:
        check_copy(source, target, offset)
        self._runtime.enter()
        (status,) = self._runtime.driver.cuMemcpyDtoHAsync(
            target.ctypes.data, source.pointer + offset, target.nbytes, self.stream.handle
        )
        self._runtime.check(status)

    def launch(self, kernel: Kernel, grid: Dim, block: Dim, *arguments: Argument) -> None:
        if not isinstance(kernel, CoreKernel):
            raise UsageError(f"{kernel.name} was loaded by another runtime")
        self._runtime.enter()
        core = self._runtime.core
        config = core.LaunchConfig(grid=dimensions(grid), block=dimensions(block))
        core.launch(self._target, config, kernel.kernel, *scalars(arguments))

    def record(self) -> CoreEvent:
        self._runtime.enter()
        return CoreEvent(self.stream.record(options=self._runtime.core.EventOptions(timing_enabled=True)))

    def capture(self, work: Callable[[], None]) -> "CoreGraph":
        self._runtime.enter()
        builder = self.stream.create_graph_builder()
        builder.begin_building()
        self._target = builder
        try:
            work()
        finally:
            self._target = self.stream
            builder.end_building()
        return CoreGraph(self._runtime, builder.complete())

    def synchronize(self) -> None:
        self._runtime.enter()
        self.stream.sync()


class CoreGraph:
    """Recorded work."""

    def __init__(self, runtime: CudaCoreRuntime, graph: Any) -> None:
        self._runtime = runtime
        self._graph = graph

    def launch(self, stream: Stream) -> None:
        if not isinstance(stream, CoreStream):
            raise UsageError("the stream is another runtime's")
        self._runtime.enter()
        self._graph.launch(stream.stream)
