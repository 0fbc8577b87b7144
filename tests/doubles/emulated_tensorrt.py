"""An engine without TensorRT or a GPU: ONNX Runtime on the emulated device's memory and streams.

It shows how batches go through a pipeline, for tests and for debugging; nothing of its times is a GPU's.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emulated_cuda import EmulatedMemory, EmulatedRuntime, EmulatedStream, EmulationError
from queryopt.codes import code_bytes
from queryopt.errors import MismatchError, UsageError
from queryopt.runtime.backends.base import Backend, BackendOutput, check_pixels
from queryopt.runtime.backends.onnxruntime import OnnxRuntimeBackend
from queryopt.runtime.cuda import Memory, Stream
from queryopt.runtime.tensorrt.pipeline import Pending, Pipeline, Tensor
from queryopt.runtime.tensorrt.profile import Profile

__all__ = ["EmulatedBackend", "EmulatedContext", "EmulatedEngine"]


def _thousand(batch: int) -> int:
    return 1000 * batch


class EmulatedEngine:
    """A model in a backend of its own, which runs where the device's memory lies.

    capturable: whether runs can be recorded.
    scratch: batch -> bytes that a run takes besides its tensors.
    enqueued: the batch of every run that was given to a stream.
    done: of every one that was done, in order.
    """

    def __init__(self, model: Backend, capturable: bool, scratch: Callable[[int], int]) -> None:
        self.model = model
        self.capturable = capturable
        self.scratch = scratch
        self.enqueued: list[int] = []
        self.done: list[int] = []
        self.contexts = 0
        size, bits = model.card.preprocessing.image_size, model.card.bits
        self.tensors = (
            Tensor("images", np.dtype(np.uint8), (size, size, 3)),
            Tensor("codes", np.dtype(np.uint8), (code_bytes(bits),)),
            Tensor("logits", np.dtype(np.float32), (bits,)),
        )

    def context(self, batch: int, stream: Stream) -> "EmulatedContext":
        self.contexts += 1
        return EmulatedContext(self, batch)

    def close(self) -> None:
        """Free the model. EmulationError where a context is left."""
        if self.contexts:
            raise EmulationError(f"the engine is closed before {self.contexts} of its contexts")
        self.model.close()


class EmulatedContext:
    """Runs batches of one size."""

    def __init__(self, engine: EmulatedEngine, batch: int) -> None:
        self._engine = engine
        self._batch = batch
        self._tensors: Mapping[str, Memory] = {}
        self._memory: Memory | None = None

    @property
    def scratch(self) -> int:
        return self._engine.scratch(self._batch)

    def bind(self, tensors: Mapping[str, Memory], scratch: Memory) -> None:
        self._tensors, self._memory = tensors, scratch

    def capturable(self, stream: Stream) -> bool:
        return self._engine.capturable

    def enqueue(self, stream: Stream) -> None:
        if not isinstance(stream, EmulatedStream):
            raise UsageError("the stream is another runtime's")
        self._engine.enqueued.append(self._batch)
        stream.do(self._run)

    def close(self) -> None:
        self._engine.contexts -= 1

    def _run(self) -> None:
        if self._memory is None or len(_bytes(self._memory)) < self.scratch:
            raise EmulationError(f"a run of {self._batch} in scratch memory that was freed, or is too small")
        _bytes(self._memory)[:] = 0xFF  # a run leaves nothing there that another one could count on
        images, codes, logits = (self._array(tensor) for tensor in self._engine.tensors)
        output = self._engine.model.run(images.astype(np.uint8))
        codes[:], logits[:] = output.codes, output.logits
        self._engine.done.append(self._batch)

    def _array(self, tensor: Tensor) -> npt.NDArray[np.generic]:
        memory = _bytes(self._tensors[tensor.name])[: tensor.nbytes(self._batch)]
        return memory.view(tensor.dtype).reshape(self._batch, *tensor.row)


def _bytes(memory: Memory) -> npt.NDArray[np.uint8]:
    if not isinstance(memory, EmulatedMemory):
        raise UsageError("the memory is another runtime's")
    return memory.array


class EmulatedBackend:
    """A model.onnx, run as TensorRtBackend runs an engine, on an emulated device.

    path: the model. profile: of the engine that it stands for. cuda: the device. The rest: see EmulatedEngine.
    """

    def __init__(
        self,
        path: Path,
        profile: Profile,
        cuda: EmulatedRuntime,
        *,
        capturable: bool = True,
        scratch: Callable[[int], int] = _thousand,
    ) -> None:
        self.cuda = cuda
        self.engine = EmulatedEngine(OnnxRuntimeBackend(path, 1), capturable, scratch)
        self.card = self.engine.model.card
        self.name = f"{self.engine.model.name}, as if on a GPU: {cuda.name}"
        self._profile = profile
        self.pipeline = Pipeline(cuda, self.engine, profile, self.card.bits, str(path))

    @property
    def depth(self) -> int:
        return self.pipeline.depth

    def check_batch(self, batch: int) -> None:
        if batch > self._profile.largest:
            raise MismatchError(f"batches of {batch:,}, and the profile goes to {self._profile.largest:,}")

    def start(self, images: npt.NDArray[np.uint8]) -> Pending:
        pixels = check_pixels(images, self.card)
        self.check_batch(len(pixels))
        return self.pipeline.start(pixels)

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        return self.start(images).result()

    def close(self) -> None:
        self.pipeline.close()
