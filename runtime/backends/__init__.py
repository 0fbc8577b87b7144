"""What can run a model."""

import os
from pathlib import Path

from queryopt.errors import ModelError
from queryopt.kinds import Kind, kind_of, mistaken
from queryopt.runtime.backends.base import Backend, BackendOutput
from queryopt.runtime.backends.choose import BACKENDS, BackendChoice, choose_backend, has_gpu
from queryopt.text import display_path

__all__ = ["BACKENDS", "Backend", "BackendChoice", "BackendOutput", "choose_backend", "has_gpu", "open_backend"]


def open_backend(model: str | os.PathLike[str], backend: str = "auto", threads: int | None = None) -> Backend:
    """Load a model.onnx or a model.plan.

    backend: a name in BACKENDS; auto takes what choose_backend says. threads: of the model's arithmetic on the CPU;
    None is as many as this process may use. Raises ModelError for a file that is no usable model (absent, empty, cut
    off, foreign, newer), MissingError where the backend's package or device is not there, UsageError for an unknown
    name or one that doesn't fit the file, its MismatchError for an engine that was built for something else.
    """
    name = choose_backend(model, backend).name
    path = Path(model)
    if name == "tensorrt":
        from queryopt.runtime.backends.tensorrt import TensorRtBackend

        return TensorRtBackend(path)
    if kind_of(path) is Kind.FOLDER:
        if (inside := path / "model.onnx").exists():
            raise ModelError(f"{display_path(path)}: a folder; did you mean {display_path(inside)}?")
        raise ModelError(f"{display_path(path)}: no model.onnx or model.plan in this folder: qo-export RUN makes one")
    if wrong := mistaken(path, Kind.MODEL):
        raise ModelError(wrong)
    if not path.is_file():
        raise ModelError(f"{display_path(path)}: no such model: qo-export RUN makes one")
    if name == "openvino":
        from queryopt.runtime.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(path, threads)
    from queryopt.runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, threads, cuda=name == "cuda")
