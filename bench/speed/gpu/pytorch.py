"""The network in PyTorch on a GPU: as research code runs it, and folded in half precision.

The second is what a machine with PyTorch and no other GPU runtime can show: what folding, float16, channels-last memory
and a CUDA graph give, and how fast files become codes when the model is so fast. The runtime itself never uses PyTorch.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from queryopt.bench.speed.latency.contenders import Pixels
from queryopt.errors import UsageError
from queryopt.export.fold import REWRITES, fold
from queryopt.export.strip import InferenceNetwork
from queryopt.export.torch_backend import network_card
from queryopt.runtime.backends.base import BackendOutput, check_pixels, no_output
from queryopt.train.checkpoint import Checkpoint
from queryopt.train.inputs import to_input
from queryopt.train.network import QueryOpt

__all__ = ["EAGER", "Eager", "EagerContender", "FoldedTorchBackend", "FoldedTorchContender", "settings_of_torch"]

_cuda: Any = torch.cuda
"""PyTorch has no types for some of its members."""
_TORCH: Final = f"torch {torch.__version__.split('+')[0]}"
_HALF: Final = {"cuda": ("fp16", torch.float16), "cpu": ("bf16", torch.bfloat16)}
"""What networks are lowered to: on a CPU float16 would be emulated."""
_FOLDS: Final = {
    name: rewrite for name, rewrite in REWRITES.items() if name != "scale of the pixels into the first convolution"
}
"""That one makes weights too small for float16."""


@dataclass(frozen=True)
class Eager:
    """A way to run the published network.

    name: in tables. precision: what is compared with which peak.
    tf32: whether convolutions may round float32 factors to 10 bits (PyTorch's default on GPUs that can; its matrix
    products don't).
    dtype: of weights and pictures.
    autocast: float16 where PyTorch's autocast chooses it.
    channels_last: the memory layout.
    """

    name: str
    precision: str
    tf32: bool = True
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    channels_last: bool = False


EAGER: Final = (
    Eager("PyTorch eager fp32, TF32 in convolutions", "tf32"),
    Eager("PyTorch eager fp32, no TF32", "fp32", tf32=False),
    Eager("PyTorch eager fp16", "fp16", dtype=torch.float16),
    Eager("PyTorch eager fp16 autocast", "fp16", autocast=True),
    Eager("PyTorch eager fp16, channels last", "fp16", dtype=torch.float16, channels_last=True),
)
"""The first is the reference: PyTorch's defaults. The third is the fp16 that goals are set against."""


def settings_of_torch() -> dict[str, Any]:
    """What PyTorch's speed on a GPU depends on, as it is set here."""
    cudnn: Any = torch.backends.cudnn
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "cudnn.benchmark": cudnn.benchmark,
        "cudnn.allow_tf32": cudnn.allow_tf32,
        "matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
    }


class EagerContender:
    """The published network in eager mode, on normalised pictures that lie in the device's memory."""

    graph = None

    def __init__(self, checkpoint: Checkpoint, way: Eager, device: str) -> None:
        self._device, self._way = device, way
        layout = torch.channels_last if way.channels_last else torch.contiguous_format
        network = checkpoint.network().to(device, way.dtype)
        self._network = network.to(memory_format=layout)
        self.name, self.precision = way.name, way.precision
        self.runs_on = f"{_TORCH} ({device.upper()})"
        self.image_size = network.config.image_size
        self._preprocessing = network.config.preprocessing

    def prepare(self, pixels: Pixels) -> Tensor:
        """Normalised [b, 3, s, s] on the device."""
        return to_input(pixels, self._preprocessing, self._device, self._way.channels_last).to(self._way.dtype)

    def run(self, batch: Tensor) -> object:
        """Pictures to logits; waits for them."""
        torch.backends.cudnn.allow_tf32 = self._way.tf32
        with torch.inference_mode(), torch.autocast(self._device, _HALF[self._device][1], enabled=self._way.autocast):
            logits = self._network(batch, branches=1)
        _wait(self._device)
        return logits

    def close(self) -> None:
        del self._network
        _forget(self._device)


class FoldedTorchBackend:
    """The folded network under float16 autocast (softmax, norms and the head stay in float32), as a backend.

    On the CPU (for rehearsals) under bfloat16. UsageError for a network of a method that has nothing to fold.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        network = checkpoint.network()
        if not isinstance(network, QueryOpt):
            raise UsageError(f"networks of the method {network.config.method} are not folded: give a run of queryopt")
        precision, self._dtype = _HALF[device]
        self._device = device
        folded, _ = fold(network, _FOLDS)
        folded.register_module("head", _InFloat32(folded.head, device))
        self._module: Any = InferenceNetwork(folded).to(device).to(memory_format=torch.channels_last)
        self.card = replace(network_card(network), precision=precision)
        self.name = f"{_TORCH}, folded, {precision} ({device.upper()})"

    def compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [b, s, s, 3] on the device -> (codes, logits) there."""
        # Autocast's cache is off: weights that it casts would be freed with it, and a CUDA graph goes on reading them.
        with torch.inference_mode(), torch.autocast(self._device, self._dtype, cache_enabled=False):
            codes, logits = self._module(images)
        return codes, logits

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        pixels = check_pixels(images, self.card)
        if not len(pixels):
            return no_output(self.card)
        codes, logits = self.compute(torch.from_numpy(pixels).to(self._device))
        return BackendOutput(codes.cpu().numpy(), logits.cpu().numpy())

    def close(self) -> None:
        self._module = None
        _forget(self._device)


class FoldedTorchContender:
    """The folded network on pixels that lie in the device's memory, recorded in a CUDA graph for each batch size."""

    def __init__(self, checkpoint: Checkpoint, device: str, graph: Path | None) -> None:
        self._backend = FoldedTorchBackend(checkpoint, device)
        self._device = device
        self.graph = graph
        self.name = "folded, PyTorch" + (", CUDA graph" if device == "cuda" else "")
        self.runs_on = f"{_TORCH} ({device.upper()})"
        self.precision = self._backend.card.precision
        self.image_size = self._backend.card.preprocessing.image_size

    def prepare(self, pixels: Pixels) -> Any:
        """What does the pixels on the device, there a recording of it."""
        images = torch.from_numpy(pixels).to(self._device)
        if self._device != "cuda":
            return lambda: self._backend.compute(images)
        stream = _cuda.Stream()
        stream.wait_stream(_cuda.current_stream())
        with _cuda.stream(stream):
            for _ in range(3):  # libraries choose and allocate in the first runs, which can't be recorded
                self._backend.compute(images)
        _cuda.current_stream().wait_stream(stream)
        graph = _cuda.CUDAGraph()
        with _cuda.graph(graph):
            outputs = self._backend.compute(images)
        # The recording reads and writes these tensors: they live as long as it does.
        return lambda: graph.replay() or (images, outputs)

    def run(self, batch: Any) -> object:
        """Pixels to codes; waits for them."""
        result = batch()
        _wait(self._device)
        return result

    def close(self) -> None:
        self._backend.close()


class _InFloat32(nn.Module):
    """A part that autocast leaves alone."""

    def __init__(self, part: nn.Module, device: str) -> None:
        super().__init__()
        self.part, self.device = part, device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, enabled=False):
            out: Tensor = self.part(x.float())
        return out


def _wait(device: str) -> None:
    if device == "cuda":
        _cuda.synchronize()


def _forget(device: str) -> None:
    if device == "cuda":
        _cuda.empty_cache()
