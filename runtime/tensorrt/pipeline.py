"""Batches through an engine: two of them on their way at a time, each on a stream of its own.

While the GPU works on one, the next one is copied there and the one before is copied back. A slot is one of the two: a
stream, pinned arrays on the host, memory on the device, and for each batch size in use (a bucket) a context of the
engine and a CUDA graph that copies, computes and copies back. Nothing here knows TensorRT: an engine is what has the
protocols below.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes
from queryopt.errors import DeviceMemoryError
from queryopt.runtime.backends.base import BackendOutput
from queryopt.runtime.cuda.base import CudaRuntime, Event, Graph, Memory, Stream
from queryopt.runtime.tensorrt.profile import Profile
from queryopt.text import counted

__all__ = ["Context", "Engine", "Pending", "Pipeline", "Tensor", "buckets"]

_SLOTS = 2

_log = logging.getLogger("queryopt")


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine: `images`, or an output. row: the shape of one image's part."""

    name: str
    dtype: np.dtype[np.generic]
    row: tuple[int, ...]

    def nbytes(self, batch: int) -> int:
        return batch * int(np.prod(self.row)) * self.dtype.itemsize


class Context(Protocol):
    """An engine, ready to run batches of one size."""

    @property
    def scratch(self) -> int:
        """Bytes of device memory that a run needs besides the tensors."""

    def bind(self, tensors: Mapping[str, Memory], scratch: Memory) -> None:
        """Say where tensors and scratch lie. Called once, before the first run."""

    def capturable(self, stream: Stream) -> bool:
        """Whether a run can be recorded in a CUDA graph."""

    def enqueue(self, stream: Stream) -> None:
        """Give a run to a stream. DeviceMemoryError where there is no memory for it."""

    def close(self) -> None:
        """Free it; all runs must have ended."""


class Engine(Protocol):
    """Something that hashes images on a device: input `images`, outputs `codes`, `logits` and any others."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Its inputs and outputs, `images` first."""

    def context(self, batch: int, stream: Stream) -> Context:
        """A context for batches of exactly this size. DeviceMemoryError where there is no memory for one."""

    def close(self) -> None:
        """Free it, after its contexts."""


def buckets(profile: Profile) -> tuple[int, ...]:
    """Batch sizes that are run, ascending: powers of two within the profile, its smallest, best and largest.

    A batch runs in the smallest bucket that it fits into, so less than half of a run is wasted on a partial one.
    """
    powers = {1 << bit for bit in range(17)}
    ends = {profile.smallest, profile.best, profile.largest}
    return tuple(sorted({size for size in powers if profile.smallest <= size <= profile.largest} | ends))


class Pending:
    """A batch on its way; `result` waits for it."""

    def __init__(self, pipeline: "Pipeline", bits: int) -> None:
        self._pipeline = pipeline
        self._bits = bits
        self._parts: list[_Part] = []

    def result(self) -> BackendOutput:
        for part in self._parts:
            self._pipeline.collect(part)
        outputs = [part.output for part in self._parts if part.output is not None]
        if not outputs:
            return BackendOutput(np.empty((0, code_bytes(self._bits)), np.uint8), np.empty((0, self._bits), np.float32))
        if len(outputs) == 1:
            return outputs[0]
        return BackendOutput(
            np.concatenate([output.codes for output in outputs]), np.concatenate([output.logits for output in outputs])
        )

    def add(self, part: "_Part") -> None:
        self._parts.append(part)


@dataclass(eq=False)
class _Part:
    """One run of the engine: the first `count` rows of a bucket. output: None until it was collected."""

    slot: "_Slot"
    count: int
    event: Event | None = None
    output: BackendOutput | None = None


class Pipeline:
    """Runs batches of any size through an engine. Use it from one thread at a time.

    cuda: the device.
    engine: what runs there; the pipeline closes it.
    profile: the engine's.
    bits: of its codes.
    where: names the engine in messages.

    Where the device has no memory for a batch, batches are halved from then on, and a warning says so.
    """

    def __init__(self, cuda: CudaRuntime, engine: Engine, profile: Profile, bits: int, where: str) -> None:
        self._cuda = cuda
        self._engine = engine
        self._bits = bits
        self._where = where
        self._buckets = buckets(profile)
        self._slots = tuple(_Slot(cuda, engine) for _ in range(_SLOTS))
        self._next = 0

    @property
    def depth(self) -> int:
        return len(self._slots)

    @property
    def largest(self) -> int:
        """Images in a run at most, now."""
        return self._buckets[-1]

    def start(self, images: npt.NDArray[np.uint8]) -> Pending:
        """Set a batch on its way: uint8 [b, s, s, 3], C-contiguous, b >= 0. It is copied before this returns.

        Larger ones than the engine takes are run in parts. DeviceMemoryError where there isn't memory for one image.
        """
        pending = Pending(self, self._bits)
        at = 0
        while at < len(images):
            part = self._run(images[at : at + self.largest])
            pending.add(part)
            at += part.count
        return pending

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        return self.start(images).result()

    def collect(self, part: _Part) -> None:
        """Wait for a run, if nobody has yet, and take its results out of the slot."""
        if part.output is None:
            assert part.event is not None
            part.event.synchronize()
            part.output = part.slot.take(part.count)
            part.slot.running = None

    def close(self) -> None:
        """Wait for everything, and free the engine and all memory."""
        for slot in self._slots:
            slot.free()
        self._engine.close()

    def _run(self, images: npt.NDArray[np.uint8]) -> _Part:
        while True:
            # A smaller limit than a moment ago: the rest of the batch follows in the next part.
            images = images[: self.largest]
            slot = self._slots[self._next]
            if slot.running is not None:
                self.collect(slot.running)
            bucket = next(size for size in self._buckets if size >= len(images))
            try:
                part = _Part(slot, len(images))
                slot.prepare(bucket)
                part.event = slot.launch(bucket, images)
            except DeviceMemoryError as error:
                self._halve(bucket, error)
                continue
            slot.running = part
            self._next = (self._next + 1) % len(self._slots)
            return part

    def _halve(self, bucket: int, error: DeviceMemoryError) -> None:
        for slot in self._slots:
            if slot.running is not None:
                self.collect(slot.running)
            slot.free()
        smaller = tuple(size for size in self._buckets if size <= bucket // 2)
        if not smaller:
            raise DeviceMemoryError(
                f"{self._where}: the GPU has no memory for a batch of {counted(bucket, 'image', 'images')} ({error}), "
                "and this engine takes no smaller one: end what else uses the GPU (nvidia-smi lists it), or build the "
                "engine again with a --profile of smaller batches"
            ) from None
        self._buckets = smaller
        _log.warning(
            "%s: the GPU has no memory for batches of %d (%s): goes on with %d", self._where, bucket, error, smaller[-1]
        )


class _Slot:
    """A stream with its buffers, and what runs on it; everything is made when it is first needed, and grows."""

    def __init__(self, cuda: CudaRuntime, engine: Engine) -> None:
        self._cuda = cuda
        self._engine = engine
        self._stream: Stream | None = None
        self._capacity = 0
        self._host: dict[str, npt.NDArray[np.generic]] = {}
        self._device: dict[str, Memory] = {}
        self._scratch: Memory | None = None
        self._contexts: dict[int, Context] = {}
        self._graphs: dict[int, Graph] = {}
        self.running: _Part | None = None

    def prepare(self, bucket: int) -> None:
        """Have everything that a run of this size takes. Nothing may be running."""
        if self._stream is None:
            self._stream = self._cuda.stream()
        if bucket > self._capacity:
            self._resize(bucket)
        if bucket in self._contexts:
            return
        context = self._engine.context(bucket, self._stream)
        self._contexts[bucket] = context
        if self._scratch is None or context.scratch > self._scratch.nbytes:
            # What was recorded holds the old addresses.
            self._forget(but=bucket)
            if self._scratch is not None:
                self._scratch.free()
                self._scratch = None
            self._scratch = self._cuda.allocate(context.scratch)
        context.bind(self._device, self._scratch)
        # The first run settles what TensorRT puts off until then, which must not be recorded.
        self._host["images"][:bucket] = 0
        self._work(bucket)
        self._stream.synchronize()
        if not context.capturable(self._stream):
            return
        try:
            self._graphs[bucket] = self._stream.capture(lambda: self._work(bucket))
        except DeviceMemoryError:
            raise
        except Exception as error:  # what drivers and packages raise where something can't be recorded has no one base
            _log.debug("batches of %d run without a CUDA graph: %s", bucket, error)
            self._stream = self._cuda.stream()

    def launch(self, bucket: int, images: npt.NDArray[np.uint8]) -> Event:
        """Run images in a bucket that was prepared; rows beyond them hold what was there before."""
        assert self._stream is not None
        self._host["images"][: len(images)] = images
        if bucket in self._graphs:
            self._graphs[bucket].launch(self._stream)
        else:
            self._work(bucket)
        return self._stream.record()

    def take(self, count: int) -> BackendOutput:
        codes, logits = (self._host[name][:count] for name in ("codes", "logits"))
        return BackendOutput(codes.astype(np.uint8), logits.astype(np.float32))

    def free(self) -> None:
        """Wait, and give everything back but the stream."""
        if self._stream is not None:
            self._stream.synchronize()
        self._forget()
        for memory in (*self._device.values(), self._scratch):
            if memory is not None:
                memory.free()
        self._device, self._host, self._scratch, self._capacity = {}, {}, None, 0

    def _resize(self, bucket: int) -> None:
        self.free()
        for tensor in self._engine.tensors:
            self._device[tensor.name] = self._cuda.allocate(tensor.nbytes(bucket))
            if tensor.name in ("images", "codes", "logits"):
                self._host[tensor.name] = self._cuda.pinned((bucket, *tensor.row), tensor.dtype)
        self._capacity = bucket

    def _work(self, bucket: int) -> None:
        assert self._stream is not None
        self._stream.upload(self._device["images"], self._host["images"][:bucket])
        self._contexts[bucket].enqueue(self._stream)
        for name in ("codes", "logits"):
            self._stream.download(self._host[name][:bucket], self._device[name])

    def _forget(self, but: int | None = None) -> None:
        self._graphs.clear()
        for bucket in [bucket for bucket in self._contexts if bucket != but]:
            self._contexts.pop(bucket).close()
