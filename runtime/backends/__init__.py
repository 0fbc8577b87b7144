"""What can run a model."""

import os
from pathlib import Path

from queryopt.cli import display_path
from queryopt.errors import ModelError, UsageError
from queryopt.runtime.backends.base import Backend, BackendOutput
from queryopt.text import did_you_mean

__all__ = ["BACKENDS", "Backend", "BackendOutput", "open_backend"]

BACKENDS = ("auto", "onnxruntime", "tensorrt")


def open_backend(model: str | os.PathLike[str], backend: str = "auto", threads: int | None = None) -> Backend:
    """Load a model.onnx or a model.plan.

    backend: a name in BACKENDS; auto takes what fits the file. threads: of the model's arithmetic; None is as many as
    this process may use. Raises ModelError for a file that is no usable model (absent, empty, cut off, foreign,
    newer), MissingError where the backend's package or a GPU is not there, MismatchError for an engine that was built
    for something else, UsageError for an unknown name.
    """
    if backend not in BACKENDS:
        raise UsageError(
            f"no backend is called {backend!r}: there are {', '.join(BACKENDS)}{did_you_mean(backend, BACKENDS)}"
        )
    path = Path(model)
    is_plan = path.suffix.lower() == ".plan"
    if backend != "auto" and is_plan != (backend == "tensorrt"):
        fitting = "tensorrt" if is_plan else "onnxruntime"
        raise UsageError(f"{display_path(path)}: {backend} doesn't run such files: take --backend {fitting}")
    if is_plan:
        from queryopt.runtime.backends.tensorrt import TensorRtBackend

        return TensorRtBackend(path)
    if path.is_dir():
        inside = path / "model.onnx"
        hint = f": did you mean {display_path(inside)}?" if inside.is_file() else ": give a model.onnx"
        raise ModelError(f"{display_path(path)}: a folder, not a model{hint}")
    if not path.is_file():
        raise ModelError(f"{display_path(path)}: no such model: qo-export --ckpt RUN makes one")
    from queryopt.runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, threads)
