"""Who is measured: a model in a backend, and the peers that it is compared with.

To add a peer, write a class with the ModelContender protocol and name it in PEERS.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.untrained import Untrained, network_config
from queryopt.errors import MissingError, ModelError, UsageError
from queryopt.runtime.backends import open_backend
from queryopt.text import counted, did_you_mean, display_path, install_extra

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["PEERS", "ModelContender", "Pixels", "check_peers", "cpu_options", "open_model", "open_peer"]

Pixels = npt.NDArray[np.uint8]


class ModelContender(Protocol):
    """Something that takes batches of pictures and is timed at it."""

    @property
    def name(self) -> str: ...

    @property
    def runs_on(self) -> str:
        """What runs it, for people: "onnxruntime 1.32.0 (CPU, 1 thread)"."""

    @property
    def precision(self) -> str:
        """fp32, fp16, bf16 or int8: what its convolutions are computed in, and which peak it is compared with."""

    @property
    def image_size(self) -> int:
        """Pixels a side of what it takes."""

    @property
    def graph(self) -> Path | None:
        """The ONNX file that its multiply-adds are counted from, None where there is none."""

    def prepare(self, pixels: Pixels) -> Any:
        """What `run` takes, made of pixels uint8 [b, s, s, 3] before the clock starts."""

    def run(self, batch: Any) -> object:
        """Do a batch, to its end: what is timed."""

    def close(self) -> None:
        """Free what it holds."""


class BackendContender:
    """A model.onnx or model.plan in one of the runtime's backends. Raises as open_backend."""

    def __init__(self, path: Path, backend: str, threads: int, name: str | None = None) -> None:
        self._backend = open_backend(path, backend, threads)
        card = self._backend.card
        self.name = name or display_path(path)
        self.runs_on = self._backend.name
        self.precision = card.precision
        self.image_size = card.preprocessing.image_size
        self.graph = path if path.suffix.lower() == ".onnx" else None
        self.run = self._backend.run
        self.close = self._backend.close

    def prepare(self, pixels: Pixels) -> Pixels:
        """The pixels themselves: all else is in the graph."""
        return np.ascontiguousarray(pixels)


class EagerContender:
    """The network as research code runs it: PyTorch, eager, nothing folded, on normalised float pictures.

    Normalising is left out of its time: in such code the data loader does it.
    """

    graph = None

    def __init__(self, subject: Untrained, threads: int, precision: str) -> None:
        import torch

        from queryopt.train.methods import build_network

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        config = network_config(subject.bits, subject.backbone)
        self._network = build_network(config).eval()
        self._dtype = {"fp32": None, "bf16": torch.bfloat16}[precision]
        self.name = "PyTorch eager" if precision == "fp32" else f"PyTorch eager, {precision} autocast"
        self.runs_on = f"torch {torch.__version__.split('+')[0]} (CPU, {counted(threads, 'thread', 'threads')})"
        self.precision = precision
        self.image_size = config.image_size

    def prepare(self, pixels: Pixels) -> Any:
        """Normalised float32 [b, 3, s, s]."""
        from queryopt.card import Preprocessing
        from queryopt.train.inputs import to_input

        return to_input(pixels, Preprocessing.for_size(self.image_size))

    def run(self, batch: Any) -> object:
        """Pictures to logits."""
        import torch

        with torch.inference_mode(), torch.autocast("cpu", self._dtype, enabled=self._dtype is not None):
            return self._network(batch, 1)

    def close(self) -> None:
        del self._network


class PlainResNet:
    """torchvision's ResNet-50 classifier, untrained, in ONNX Runtime: what the hash network's body costs by itself."""

    name = "plain ResNet-50"
    precision = "fp32"
    image_size = 224

    def __init__(self, subject: Untrained, threads: int) -> None:
        import onnx
        import onnxruntime
        import torch
        import torchvision

        self._folder = tempfile.TemporaryDirectory(prefix="queryopt-latency-")
        self.graph = Path(self._folder.name) / "resnet50.onnx"
        torch.manual_seed(0)
        program = torch.onnx.export(
            torchvision.models.resnet50(weights=None).eval(),
            (torch.zeros(2, 3, 224, 224),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=20,
            verbose=False,
        )
        assert program is not None
        onnx.save(program.model_proto, self.graph)
        self._session = onnxruntime.InferenceSession(
            str(self.graph), cpu_options(threads), providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self.runs_on = f"onnxruntime {onnxruntime.__version__} (CPU, {counted(threads, 'thread', 'threads')})"

    def prepare(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Float32 [b, 3, s, s]."""
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)

    def run(self, batch: npt.NDArray[np.float32]) -> object:
        """Pictures to 1,000 scores."""
        return self._session.run(None, {self._input: batch})

    def close(self) -> None:
        self._session = None
        self._folder.cleanup()


PEERS: dict[str, Callable[[Untrained, int], ModelContender]] = {
    "eager": partial(EagerContender, precision="fp32"),
    "eager-bf16": partial(EagerContender, precision="bf16"),
    "resnet50": PlainResNet,
}


def cpu_options(threads: int) -> "onnxruntime.SessionOptions":
    """Of a session in ONNX Runtime whose idle threads don't spin: they would take the cores of whose turn it is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def check_peers(names: tuple[str, ...]) -> None:
    """Raise UsageError for a name that no peer has."""
    for name in names:
        if name not in PEERS:
            raise UsageError(f"no peer is called {name!r}: there are {', '.join(PEERS)}{did_you_mean(name, PEERS)}")


def open_peer(name: str, subject: Untrained, threads: int) -> ModelContender:
    """The peer of this name and of this network. MissingError where its packages are not installed."""
    try:
        return PEERS[name](subject, threads)
    except ImportError as error:
        raise MissingError(f"{name} needs the packages of training ({error}): {install_extra('train')}") from None


def open_model(path: Path, backend: str, threads: int, name: str | None = None) -> ModelContender:
    """A model in a backend. Raises as open_backend, and ModelError where it fails on a batch of one. name: its path."""
    contender = BackendContender(path, backend, threads, name)
    size = contender.image_size
    try:
        contender.run(np.zeros((1, size, size, 3), np.uint8))
    except ModelError:
        contender.close()
        raise
    return contender
