"""CUDA through PyCUDA, which is compiled against the toolkit of the machine that it is installed on."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy.typing as npt

from queryopt.errors import DeviceMemoryError, MissingError, UsageError
from queryopt.runtime.cuda import stream_capture
from queryopt.runtime.cuda.base import (
    Argument,
    Device,
    Dim,
    Event,
    Kernel,
    KernelResources,
    Memory,
    MultiprocessorLimits,
    OwnedMemory,
    Program,
    Stream,
    check_copy,
    dimensions,
    memory_bandwidth,
    resident_blocks,
    scalars,
)
from queryopt.runtime.cuda.images import device_image
from queryopt.text import install_extra

__all__ = ["PyCudaRuntime"]


class PyCudaRuntime:
    """The device of that number, through PyCUDA. Its primary context is used, as PyTorch and ONNX Runtime do.

    Raises MissingError where the package, a driver or the device is not there.
    """

    def __init__(self, index: int = 0) -> None:
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise MissingError(f"PyCUDA can't be loaded ({error}): {install_extra('pycuda')}") from None
        self.driver = driver
        try:
            driver.init()
            device = driver.Device(index)
            self._context = device.retain_primary_context()
            # Where PyCUDA's own destructor does it, it detaches the context as if it weren't the primary one.
            weakref.finalize(self, self._context.detach)
        except driver.Error as error:
            raise MissingError(f"no GPU {index} can be used: {error} (nvidia-smi shows drivers and devices)") from None
        major, minor = device.compute_capability()
        attribute = driver.device_attribute
        self.device = Device(
            name=device.name(),
            index=index,
            capability=(int(major), int(minor)),
            multiprocessors=int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT)),
            memory=int(device.total_memory()),
            clock=1000 * int(device.get_attribute(attribute.CLOCK_RATE)),
            bandwidth=memory_bandwidth(
                int(device.get_attribute(attribute.MEMORY_CLOCK_RATE)),
                int(device.get_attribute(attribute.GLOBAL_MEMORY_BUS_WIDTH)),
            ),
        )
        threads = int(device.get_attribute(attribute.MAX_THREADS_PER_MULTIPROCESSOR))
        self.limits = MultiprocessorLimits(
            threads=threads,
            blocks=threads // 64,  # 16 to 32, and no limit for blocks of 128 threads or more
            registers=int(device.get_attribute(attribute.MAX_REGISTERS_PER_MULTIPROCESSOR)),
            shared=int(device.get_attribute(attribute.MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)),
        )
        self.name = f"pycuda {version('pycuda')} ({self.device.name})"
        self._programs: dict[Program, dict[str, Kernel]] = {}

    def free_memory(self) -> int:
        with self.entered():
            return int(self.driver.mem_get_info()[0])

    def allocate(self, nbytes: int) -> OwnedMemory:
        with self.entered():
            try:
                allocation = self.driver.mem_alloc(max(1, nbytes))
            except self.driver.MemoryError:
                free, total = self.driver.mem_get_info()
                raise DeviceMemoryError(
                    f"{nbytes} bytes were asked for, and {free} of the GPU's {total} are free"
                ) from None
        return OwnedMemory(int(allocation), nbytes, _free, self, allocation)

    def pinned(self, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        with self.entered():
            array: npt.NDArray[Any] = self.driver.pagelocked_empty(shape, dtype)
            return array

    def stream(self) -> "PyCudaStream":
        with self.entered():
            return PyCudaStream(self, self.driver.Stream())

    def load(self, program: Program) -> dict[str, Kernel]:
        if program not in self._programs:
            number = int(self.driver.get_driver_version())
            made = device_image(program, self.device.capability, driver=number // 1000)
            with self.entered():
                module = self.driver.module_from_buffer(made.image)
                self._programs[program] = {
                    name: PyCudaKernel(self, name, module.get_function(name)) for name in program.kernels
                }
        return self._programs[program]

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The device's context as this thread's."""
        self._context.push()
        try:
            yield
        finally:
            self.driver.Context.pop()


def _free(runtime: PyCudaRuntime, allocation: Any) -> None:
    with runtime.entered():
        allocation.free()


class PyCudaKernel:
    """A function of a loaded program."""

    def __init__(self, runtime: PyCudaRuntime, name: str, function: Any) -> None:
        self._runtime = runtime
        self.name = name
        self.function = function
        attribute = runtime.driver.function_attribute
        self._resources = KernelResources(
            registers=int(function.get_attribute(attribute.NUM_REGS)),
            shared=int(function.get_attribute(attribute.SHARED_SIZE_BYTES)),
            stack=int(function.get_attribute(attribute.LOCAL_SIZE_BYTES)),
        )

    def resident_blocks(self, threads: int) -> int:
        """How many blocks of so many threads a multiprocessor runs at a time."""
        return resident_blocks(threads, self._resources, self._runtime.limits)


class PyCudaEvent:
    """A moment of a stream."""

    def __init__(self, runtime: PyCudaRuntime, event: Any) -> None:
        self._runtime = runtime
        self.event = event

    def synchronize(self) -> None:
        with self._runtime.entered():
            self.event.synchronize()

    def milliseconds_since(self, earlier: Event) -> float:
        if not isinstance(earlier, PyCudaEvent):
            raise UsageError("the earlier event is another runtime's")
        with self._runtime.entered():
            return float(self.event.time_since(earlier.event))


class PyCudaStream:
    """A stream."""

    def __init__(self, runtime: PyCudaRuntime, stream: Any) -> None:
        self._runtime = runtime
        self.stream = stream

    @property
    def handle(self) -> int:
        return int(self.stream.handle)

    def upload(self, target: Memory, source: npt.NDArray[Any], offset: int = 0) -> None:
        check_copy(target, source, offset)
        with self._runtime.entered():
            self._runtime.driver.memcpy_htod_async(target.pointer + offset, source, self.stream)

    def download(self, target: npt.NDArray[Any], source: Memory, offset: int = 0) -> None:
        check_copy(source, target, offset)
        with self._runtime.entered():
            self._runtime.driver.memcpy_dtoh_async(target, source.pointer + offset, self.stream)

    def launch(self, kernel: Kernel, grid: Dim, block: Dim, *arguments: Argument) -> None:
        if not isinstance(kernel, PyCudaKernel):
            raise UsageError(f"{kernel.name} was loaded by another runtime")
        with self._runtime.entered():
            kernel.function(*scalars(arguments), grid=dimensions(grid), block=dimensions(block), stream=self.stream)

    def record(self) -> PyCudaEvent:
        with self._runtime.entered():
            return PyCudaEvent(self._runtime, self._runtime.driver.Event().record(self.stream))

    def capture(self, work: Callable[[], None]) -> "PyCudaGraph":
        with self._runtime.entered():
            return PyCudaGraph(self._runtime, stream_capture.capture(self.stream.handle, work))

    def synchronize(self) -> None:
        with self._runtime.entered():
            self.stream.synchronize()


class PyCudaGraph:
    """Recorded work."""

    def __init__(self, runtime: PyCudaRuntime, graph: stream_capture.ExecutableGraph) -> None:
        self._runtime = runtime
        self._graph = graph
        self._release = weakref.finalize(self, _destroy, runtime, graph)

    def launch(self, stream: Stream) -> None:
        if not isinstance(stream, PyCudaStream):
            raise UsageError("the stream is another runtime's")
        with self._runtime.entered():
            self._graph.launch(stream.stream.handle)


def _destroy(runtime: PyCudaRuntime, graph: stream_capture.ExecutableGraph) -> None:
    with runtime.entered():
        graph.destroy()
