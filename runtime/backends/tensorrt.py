"""TensorRT engines on an NVIDIA GPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard
from queryopt.runtime.backends.base import BackendOutput, check_pixels, closed
from queryopt.runtime.cuda import CudaRuntime, open_runtime
from queryopt.runtime.tensorrt.engine import TensorRtEngine
from queryopt.runtime.tensorrt.fit import fitting_engine
from queryopt.runtime.tensorrt.pipeline import Pending, Pipeline

__all__ = ["TensorRtBackend"]


class TensorRtBackend:
    """A model.plan with its manifest, on the GPU.

    path: the plan. runtime: of queryopt.runtime.cuda, or its name. Raises what fitting_engine, open_runtime and
    TensorRtEngine raise: everything that the manifest says is checked before TensorRT is touched.
    """

    def __init__(self, path: Path, runtime: str | CudaRuntime = "auto") -> None:
        self._path = path
        fitting = fitting_engine(path)
        self._manifest = fitting.manifest
        # First the device, then the engine: its context has to be the thread's.
        cuda = open_runtime(runtime)
        engine = TensorRtEngine(fitting)
        self._pipeline: Pipeline | None = Pipeline(cuda, engine, self._manifest.profile, self.card.bits, str(path))
        self._name = f"{fitting.flavour.text}, {self.card.precision} ({fitting.gpu.name}, {cuda.name})"

    @property
    def card(self) -> ModelCard:
        return self._manifest.card

    @property
    def name(self) -> str:
        return self._name

    @property
    def depth(self) -> int:
        return self._opened().depth

    def check_batch(self, batch: int) -> None:
        """MismatchError where the profile has no batches of this size; smaller ones than its smallest are filled up."""
        self._manifest.require_batch(self._path, batch)

    def start(self, images: npt.NDArray[np.uint8]) -> Pending:
        """Set a batch on its way. UsageError for another shape or dtype, MismatchError outside of the profile."""
        pixels = check_pixels(images, self.card)
        self.check_batch(len(pixels))
        return self._opened().start(pixels)

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        return self.start(images).result()

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def _opened(self) -> Pipeline:
        if self._pipeline is None:
            raise closed(str(self._path))
        return self._pipeline
