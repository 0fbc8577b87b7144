"""Which backend runs a model where none is asked for, and why."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from queryopt.errors import MissingError, ModelError, UsageError
from queryopt.runtime.backends.onnxruntime import has_cuda_provider
from queryopt.runtime.cuda.driver import find_gpu
from queryopt.runtime.onnx_file import read_card, read_onnx
from queryopt.text import did_you_mean, display_path

__all__ = ["BACKENDS", "BackendChoice", "choose_backend", "has_gpu"]

BACKENDS = ("auto", "onnxruntime", "openvino", "cuda", "tensorrt")
"""What `--backend` may be: of these, cuda is ONNX Runtime on an NVIDIA GPU, and tensorrt takes a model.plan."""


@dataclass(frozen=True)
class BackendChoice:
    """A backend's name, one of BACKENDS but not auto, and why it was taken."""

    name: str
    reason: str


def choose_backend(model: str | os.PathLike[str], backend: str = "auto") -> BackendChoice:
    """The backend for a model file. UsageError for an unknown name, or one that doesn't fit the file.

    The rule of auto: a model.plan goes to tensorrt. A model.onnx goes to cuda where ONNX Runtime was built for CUDA and
    there is an NVIDIA GPU; one of precision bf16 to openvino, and one of int8 where
    that is installed; all else to onnxruntime, or to openvino where that alone
    is installed. Nothing is tried out, and nothing that fails is replaced by something slower without a word.
    """
    if backend not in BACKENDS:
        raise UsageError(
            f"no backend is called {backend!r}: there are {', '.join(BACKENDS)}{did_you_mean(backend, BACKENDS)}"
        )
    path = Path(model)
    plan = path.suffix.lower() == ".plan"
    if backend != "auto":
        if plan != (backend == "tensorrt"):
            takes = "runs engines: give a model.plan" if backend == "tensorrt" else "takes a model.onnx, not an engine"
            raise UsageError(f"{display_path(path)}: --backend {backend} {takes}, or leave --backend out")
        return BackendChoice(backend, "asked for")
    if plan:
        return BackendChoice("tensorrt", "the model is an engine")
    precision = _precision(path)
    if precision == "bf16":
        return BackendChoice("openvino", "the model's precision is bf16, which ONNX Runtime lacks on CPUs")
    if has_cuda_provider() and has_gpu():
        return BackendChoice("cuda", "ONNX Runtime is built for CUDA, and there is an NVIDIA GPU")
    if precision == "int8" and _installed("openvino"):
        return BackendChoice(
            "openvino", "the model's precision is int8, which it computes faster than ONNX Runtime here"
        )
    if _installed("onnxruntime") or not _installed("openvino"):
        return BackendChoice("onnxruntime", f"the default for {precision or 'a model.onnx'} on the CPU")
    return BackendChoice("openvino", "onnxruntime is not installed")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _precision(path: Path) -> str | None:
    """None where the file is no model: whoever opens it says so."""
    if not path.is_file():  # a FIFO would be waited for
        return None
    try:
        return read_card(read_onnx(path), display_path(path)).precision
    except ModelError:
        return None


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU with a driver."""
    try:
        find_gpu()
    except MissingError:
        return False
    return True
