"""The network in PyTorch on a GPU: as research code runs it, and folded, as a backend.

The backend is what a machine with PyTorch and no other GPU runtime can show: what folding, float16, channels-last
memory and a CUDA graph give, and how fast files become codes when the model is so fast. The runtime itself never uses
PyTorch.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from queryopt.bench.speed.latency.contenders import Pixels
from queryopt.card import ModelCard
from queryopt.errors import DeviceMemoryError, UsageError
from queryopt.export.fold import fold
from queryopt.export.folded import FoldedNetwork
from queryopt.export.onnx import model_card
from queryopt.export.strip import InferenceNetwork
from queryopt.runtime.backends.base import BackendOutput, check_pixels, closed, no_output
from queryopt.train.checkpoint import Checkpoint
from queryopt.train.inputs import to_input
from queryopt.train.network import QueryOpt

__all__ = [
    "EAGER",
    "Eager",
    "EagerContender",
    "FoldedTorchBackend",
    "FoldedTorchContender",
    "settings_of_torch",
]

_cuda: Any = torch.cuda
_cudnn: Any = torch.backends.cudnn
"""PyTorch has no types for some of their members."""

_TORCH: Final = f"torch {torch.__version__.split('+')[0]}"
"""What runs these, in words."""
_SLOTS: Final = 2
"""Batches on their way at a time."""
_PRECISION: Final = {"cuda": "fp16", "cpu": "bf16"}
"""What the folded network is lowered to: on a CPU float16 would be emulated."""
_BALANCE: Final = 2.0**6
"""What moves, exactly, from the pixels into the first weights, which folding made too small for float16."""


@dataclass(frozen=True)
class Eager:
    """A way to run the published network.

    name: in tables. precision: what is compared with which peak. tf32: whether convolutions may round float32 factors
    to 10 bits (PyTorch's default on GPUs that can; its matrix products don't). dtype: of weights and pictures.
    autocast: float16 where PyTorch's autocast chooses it. channels_last: the memory layout.
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
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": _cudnn.version(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
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
        self._preprocessing = network.config.preprocessing
        self.name = way.name
        self.runs_on = f"{_TORCH} ({device.upper()})"
        self.precision = way.precision
        self.image_size = network.config.image_size

    def prepare(self, pixels: Pixels) -> Tensor:
        """Normalised [b, 3, s, s] on the device."""
        return to_input(pixels, self._preprocessing, self._device, self._way.channels_last).to(self._way.dtype)

    def run(self, batch: Tensor) -> object:
        """Pictures to logits; waits for them."""
        torch.backends.cudnn.allow_tf32 = self._way.tf32
        with torch.inference_mode(), torch.autocast(self._device, _half(self._device), enabled=self._way.autocast):
            logits = self._network(batch, branches=1)
        _wait(self._device)
        return logits

    def close(self) -> None:
        """Drop the network."""
        del self._network
        _forget(self._device)


class FoldedTorchBackend:
    """The folded network in float16 (autocast: softmax, norms, pixels and the head stay in float32), as a backend.

    It is a PipelinedBackend: pixels are copied to the device from pinned memory on a stream a batch, two batches on
    their way. On the CPU (for rehearsals) in bfloat16, and without any of that. UsageError for a network of a method
    that has nothing to fold.
    """

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        network = checkpoint.network()
        if not isinstance(network, QueryOpt):
            raise UsageError(f"networks of the method {network.config.method} are not folded: give a run of queryopt")
        folded, _ = fold(network)
        _balance(folded)
        folded.register_module("head", _InFloat32(folded.head, device))
        module = InferenceNetwork(folded).to(device)
        self._module: InferenceNetwork | None = module.to(memory_format=torch.channels_last)
        self._card = replace(model_card(network), precision=_PRECISION[device])
        self._device = device
        self._slots = [_Slot(device) for _ in range(_SLOTS)]
        self._next = 0

    @property
    def card(self) -> ModelCard:
        """The card of the model that an export would give."""
        return self._card

    @property
    def name(self) -> str:
        """PyTorch, and on what."""
        return f"{_TORCH}, folded, {self._card.precision} ({self._device.upper()})"

    @property
    def depth(self) -> int:
        """Batches on their way at a time."""
        return _SLOTS

    def check_batch(self, batch: int) -> None:
        """Any will do."""

    def compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [b, s, s, 3] on the device -> (codes, logits), there."""
        if self._module is None:
            raise closed("the folded network")
        # No cache: weights that it casts would be freed with it, while a CUDA graph goes on reading them.
        with torch.inference_mode(), torch.autocast(self._device, _half(self._device), cache_enabled=False):
            codes, logits = self._module(images)
        return codes, logits

    def start(self, images: npt.NDArray[np.uint8]) -> "_Pending":
        """Set a batch on its way."""
        pixels = check_pixels(images, self._card)
        slot = self._slots[self._next % _SLOTS]
        self._next += 1
        if not len(pixels):
            return _Pending(no_output(self._card), None)
        try:
            return slot.start(self, pixels)
        except torch.OutOfMemoryError as error:
            raise DeviceMemoryError(f"the GPU has no memory for {len(pixels)} images: {error}") from None

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        """Run the network on uint8 [b, s, s, 3]; b may be 0."""
        return self.start(images).result()

    def close(self) -> None:
        """Drop the network."""
        self._module = None
        self._slots = []
        _forget(self._device)


class _Slot:
    """A stream, and pinned memory for a batch in and a batch out."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._stream = _cuda.Stream() if self._cuda else None
        self._pixels: Tensor | None = None

    def start(self, backend: FoldedTorchBackend, pixels: npt.NDArray[np.uint8]) -> "_Pending":
        given = torch.from_numpy(pixels)
        if self._stream is None:
            return _Pending(_output(*backend.compute(given)), None)
        # The batch that used this memory before has been waited for: no more than one a slot is on its way.
        if self._pixels is None or len(self._pixels) < len(given):
            self._pixels = torch.empty(given.shape, dtype=torch.uint8, pin_memory=True)
        pinned = self._pixels[: len(given)]
        pinned.copy_(given)
        with torch.cuda.stream(self._stream):
            codes, logits = backend.compute(pinned.to("cuda", non_blocking=True))
            host = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in (codes, logits)]
            for to, part in zip(host, (codes, logits), strict=True):
                to.copy_(part, non_blocking=True)
            done = _cuda.Event()
            done.record(self._stream)
        return _Pending(host, done)


class _Pending:
    """A batch on its way."""

    def __init__(self, output: BackendOutput | list[Tensor], done: Any) -> None:
        self._output = output
        self._done = done

    def result(self) -> BackendOutput:
        """Wait for it."""
        if isinstance(self._output, BackendOutput):
            return self._output
        self._done.synchronize()
        return _output(*self._output)


class FoldedTorchContender:
    """The folded network on pixels that lie in the device's memory, recorded in a CUDA graph for each batch size."""

    def __init__(self, checkpoint: Checkpoint, device: str, graph: Path | None) -> None:
        self._backend = FoldedTorchBackend(checkpoint, device)
        self._device = device
        self.graph = graph
        self.name = "folded, PyTorch" + (", CUDA graph" if device == "cuda" else "")
        self.runs_on = f"{_TORCH} ({device.upper()})"
        self.precision = _PRECISION[device]
        self.image_size = self._backend.card.preprocessing.image_size

    def prepare(self, pixels: Pixels) -> Any:
        """The pixels on the device, and there the recorded run of them."""
        images = torch.from_numpy(pixels).to(self._device)
        if self._device != "cuda":
            return lambda: self._backend.compute(images)
        stream = _cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose and allocate in the first runs, which can't be recorded
                self._backend.compute(images)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._backend.compute(images)
        return _Recorded(graph, images, outputs)

    def run(self, batch: Any) -> object:
        """Pixels to codes; waits for them."""
        result = batch()
        _wait(self._device)
        return result

    def close(self) -> None:
        """Drop the network."""
        self._backend.close()


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A run in a CUDA graph, with the tensors that it reads and writes."""

    graph: Any
    images: Tensor
    outputs: tuple[Tensor, Tensor]

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Run it."""
        self.graph.replay()
        return self.outputs


class _Scaled(nn.Module):
    """Pixels divided by _BALANCE."""

    def __init__(self, pixels: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.pixels(images) / _BALANCE
        return out


class _InFloat32(nn.Module):
    """A part that autocast leaves alone."""

    def __init__(self, part: nn.Module, device: str) -> None:
        super().__init__()
        self.part = part
        self.device = device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device, enabled=False):
            out: Tensor = self.part(x.float())
        return out


def _balance(folded: FoldedNetwork) -> None:
    first = next(module for module in folded.backbone.modules() if isinstance(module, nn.Conv2d))
    with torch.no_grad():
        first.weight.mul_(_BALANCE)
    folded.pixels = _Scaled(folded.pixels)


def _half(device: str) -> torch.dtype:
    return torch.float16 if device == "cuda" else torch.bfloat16


def _output(codes: Tensor, logits: Tensor) -> BackendOutput:
    return BackendOutput(codes.cpu().numpy(), logits.cpu().numpy())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _forget(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
