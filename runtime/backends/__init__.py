"""What can run a model."""

import os
from pathlib import Path

from queryopt.cli import display_path
from queryopt.errors import MissingError, ModelError, UsageError
from queryopt.runtime.backends.base import Backend, BackendOutput
from queryopt.text import did_you_mean

__all__ = ["BACKENDS", "Backend", "BackendOutput", "open_backend"]

BACKENDS = ("auto", "onnxruntime")


def open_backend(model: str | os.PathLike[str], backend: str = "auto", threads: int | None = None) -> Backend:
    """Load a model.onnx.

    backend: a name in BACKENDS; auto takes what fits the file. threads: of the model's arithmetic; None is as many as
    this process may use. Raises ModelError for a file that is no usable model (absent, empty, cut off, foreign,
    newer), MissingError where the backend's package is not installed, UsageError for an unknown name.
    """
    if backend not in BACKENDS:
        raise UsageError(
            f"no backend is called {backend!r}: there are {', '.join(BACKENDS)}{did_you_mean(backend, BACKENDS)}"
        )
    path = Path(model)
    if path.suffix.lower() == ".plan":
        from queryopt.runtime.tensorrt.fit import fitting_engine

        fitting_engine(path)
        raise MissingError(
            f"{display_path(path)}: this queryopt has no backend that runs TensorRT engines: give the model.onnx that "
            "it was built from"
        )
    if path.is_dir():
        inside = path / "model.onnx"
        hint = f": did you mean {display_path(inside)}?" if inside.is_file() else ": give a model.onnx"
        raise ModelError(f"{display_path(path)}: a folder, not a model{hint}")
    if not path.is_file():
        raise ModelError(f"{display_path(path)}: no such model: qo-export --ckpt RUN makes one")
    from queryopt.runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, threads)
