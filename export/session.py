"""The exported file, run by ONNX Runtime as it will run when it is deployed."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard
from queryopt.cli import display_path
from queryopt.errors import MissingError, ModelError

__all__ = ["Session", "SessionOutput"]


@dataclass(frozen=True)
class SessionOutput:
    """codes: uint8 [b, ceil(bits / 8)]. logits: float32 [b, bits]."""

    codes: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]


class Session:
    """A model.onnx on the CPU. `card`: its model card; `name`: of the backend.

    ModelError where ONNX Runtime refuses the file, or it has no card; MissingError where ONNX Runtime isn't installed.
    """

    name = "onnxruntime"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingError("running a model needs onnxruntime: pip install 'queryopt[cpu]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        # Threads that wait spinning would take the cores from torch, which runs in turn with this session.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has its own kinds for every fault, without a common base
            raise ModelError(f"{display_path(path)}: ONNX Runtime can't open it: {error}") from None
        self.card = ModelCard.from_metadata(self._session.get_modelmeta().custom_metadata_map, display_path(path))

    def run(self, images: npt.NDArray[np.uint8]) -> SessionOutput:
        """images: uint8 [b, s, s, 3]."""
        return SessionOutput(*self._session.run(["codes", "logits"], {"images": images}))

    def close(self) -> None:
        """Free the session."""
        self._session = None
