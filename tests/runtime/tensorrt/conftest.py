import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from queryopt.card import ModelCard
from queryopt.errors import MismatchError
from queryopt.runtime.backends import BackendOutput
from queryopt.runtime.backends.base import check_pixels
from queryopt.runtime.cuda import Memory, Stream
from queryopt.runtime.cuda.emulated import EmulatedMemory, EmulatedRuntime, EmulatedStream
from queryopt.runtime.onnx_file import read_card, read_onnx
from queryopt.runtime.tensorrt import BuiltEngine, Manifest, Profile, build_engine, manifest_path, read_manifest
from queryopt.runtime.tensorrt.pipeline import Pending, Pipeline, Tensor


@pytest.fixture(scope="session")
def built(frozen_model: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """An engine of the frozen model for two kinds of GPU, with the model.onnx beside it. Not to be changed."""
    pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")
    source = tmp_path_factory.mktemp("engine") / "model.onnx"
    shutil.copy(frozen_model, source)
    return build_engine(source, profile="1,4,8", workspace="1G", targets=["sm_89", "sm_86"])


@pytest.fixture
def plan(built: BuiltEngine, tmp_path: Path) -> Path:
    """A copy of that engine, with its manifest and no model.onnx."""
    path = tmp_path / "model.plan"
    shutil.copy(built.path, path)
    shutil.copy(manifest_path(built.path), manifest_path(path))
    return path


@pytest.fixture
def change_manifest(plan: Path) -> Callable[..., Manifest]:
    """(field=value, …) writes `plan`'s manifest with other values."""

    def change(**values: object) -> Manifest:
        manifest = replace(read_manifest(plan), **values)  # type: ignore[arg-type]
        manifest.write(plan)
        return manifest

    return change


class OnnxEngine:
    """An engine for the pipeline that runs a model.onnx in ONNX Runtime, on an emulated device's memory and streams.

    scratch: batch -> bytes that a run takes besides. enqueued: the batch of every run that was given to a stream. done:
    of every one that was done, in order.
    """

    def __init__(self, path: Path, capturable: bool, scratch: Callable[[int], int]) -> None:
        self.session = onnxruntime.InferenceSession(read_onnx(path), providers=["CPUExecutionProvider"])
        self.card = read_card(read_onnx(path), str(path))
        size = self.card.preprocessing.image_size
        self.tensors = (
            Tensor("images", np.dtype(np.uint8), (size, size, 3)),
            Tensor("codes", np.dtype(np.uint8), ((self.card.bits + 7) // 8,)),
            Tensor("logits", np.dtype(np.float32), (self.card.bits,)),
        )
        self.capturable = capturable
        self.scratch = scratch
        self.enqueued: list[int] = []
        self.done: list[int] = []
        self.contexts = 0

    def context(self, batch: int, stream: Stream) -> "OnnxContext":
        self.contexts += 1
        return OnnxContext(self, batch)

    def close(self) -> None:
        assert self.contexts == 0, "contexts are closed before their engine"


class OnnxContext:
    def __init__(self, engine: OnnxEngine, batch: int) -> None:
        self._engine = engine
        self._batch = batch
        self.scratch = engine.scratch(batch)

    def bind(self, tensors: Mapping[str, Memory], scratch: Memory) -> None:
        assert scratch.nbytes >= self.scratch
        self._tensors, self._scratch = tensors, scratch

    def capturable(self, stream: Stream) -> bool:
        return self._engine.capturable

    def enqueue(self, stream: Stream) -> None:
        assert isinstance(stream, EmulatedStream)
        self._engine.enqueued.append(self._batch)
        stream.do(self._run)

    def close(self) -> None:
        self._engine.contexts -= 1

    def _array(self, tensor: Tensor) -> npt.NDArray[np.generic]:
        memory = self._tensors[tensor.name]
        assert isinstance(memory, EmulatedMemory)
        return memory.array[: tensor.nbytes(self._batch)].view(tensor.dtype).reshape(self._batch, *tensor.row)

    def _run(self) -> None:
        assert isinstance(self._scratch, EmulatedMemory)
        assert len(self._scratch.array) >= self.scratch, "the scratch was freed"
        self._scratch.array[:] = 0xFF
        images, *outputs = self._engine.tensors
        results = self._engine.session.run([tensor.name for tensor in outputs], {"images": self._array(images)})
        for tensor, result in zip(outputs, results, strict=True):
            self._array(tensor)[:] = result
        self._engine.done.append(self._batch)


class EmulatedBackend:
    """As TensorRtBackend, on the emulated device."""

    def __init__(
        self,
        path: Path,
        profile: Profile,
        cuda: EmulatedRuntime,
        capturable: bool,
        scratch: Callable[[int], int],
    ) -> None:
        self.engine = OnnxEngine(path, capturable, scratch)
        self.cuda = cuda
        self.card: ModelCard = self.engine.card
        self.profile = profile
        self.pipeline = Pipeline(cuda, self.engine, profile, self.card.bits, path.name)
        self.name = "emulated"

    @property
    def depth(self) -> int:
        return self.pipeline.depth

    def check_batch(self, batch: int) -> None:
        if batch > self.profile.largest:
            raise MismatchError(f"batches of {batch}")

    def start(self, images: npt.NDArray[np.uint8]) -> Pending:
        return self.pipeline.start(check_pixels(images, self.card))

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        return self.start(images).result()

    def close(self) -> None:
        self.pipeline.close()


@pytest.fixture
def opened(frozen_model: Path) -> Callable[..., EmulatedBackend]:
    """(profile, memory=…, deferred=…, capturable=…, scratch=…) opens the frozen model on an emulated device.

    Its streams do nothing before they are waited for, unless deferred is False. An image takes 1000 bytes of scratch.
    """

    def make(
        profile: str = "1,4,8",
        memory: int = 1 << 30,
        deferred: bool = True,
        capturable: bool = True,
        scratch: Callable[[int], int] = lambda batch: 1000 * batch,
    ) -> EmulatedBackend:
        cuda = EmulatedRuntime(memory=memory, deferred=deferred)
        return EmulatedBackend(frozen_model, Profile.of(profile), cuda, capturable, scratch)

    return make
