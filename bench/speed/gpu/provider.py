"""A model.onnx in ONNX Runtime's CUDA provider, on pixels that lie in the device's memory (IO binding)."""

from pathlib import Path
from typing import Any

import numpy as np

from queryopt.bench.speed.latency.contenders import Pixels
from queryopt.runtime.backends.onnxruntime import OnnxRuntimeBackend

__all__ = ["BoundContender"]


class BoundContender:
    """Pixels, codes and logits stay in the device's memory: what a call takes is the model alone.

    device: cuda, or cpu for rehearsals. channels_last: the layout of the convolutions ("NHWC").
    """

    def __init__(self, path: Path, device: str, channels_last: bool) -> None:
        self._backend = OnnxRuntimeBackend(path, cuda=device == "cuda", channels_last=channels_last)
        self._device = device
        card = self._backend.card
        self.name = "folded" + (", NHWC" if channels_last else "")
        self.runs_on = self._backend.name
        self.precision = card.precision
        self.image_size = card.preprocessing.image_size
        self.graph = path

    def prepare(self, pixels: Pixels) -> Any:
        """The session's binding of these pixels."""
        import onnxruntime

        session = self._backend.session
        binding = session.io_binding()
        binding.bind_ortvalue_input(
            "images", onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(pixels), self._device, 0)
        )
        for name in ("codes", "logits"):
            binding.bind_output(name, self._device, 0)
        return binding

    def run(self, batch: Any) -> object:
        """Pixels to codes and logits; waits for them."""
        self._backend.session.run_with_iobinding(batch)
        batch.synchronize_outputs()
        return batch

    def close(self) -> None:
        """Free the session."""
        self._backend.close()
