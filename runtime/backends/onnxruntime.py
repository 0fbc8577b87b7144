"""ONNX Runtime on the CPU."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard
from queryopt.cli import display_path
from queryopt.codes import code_bytes
from queryopt.errors import MissingError, ModelError, UsageError
from queryopt.runtime.backends.base import BackendOutput, check_pixels
from queryopt.runtime.onnx_file import read_onnx
from queryopt.text import counted, install_extra

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntimeBackend", "usable_cores"]

_PROVIDER = "CPUExecutionProvider"


def usable_cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OnnxRuntimeBackend:
    """A model.onnx in an ONNX Runtime session on the CPU.

    path: the file. threads: of the session (None: usable_cores()). Raises ModelError and MissingError as open_backend.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingError(f"running a model needs onnxruntime ({error}): {install_extra('cpu')}") from None
        self._where = where = display_path(path)
        threads = threads or usable_cores()
        self._session = _session(onnxruntime, read_onnx(path), where, threads)
        if self._session.get_providers() != [_PROVIDER]:
            raise MissingError(
                f"onnxruntime runs {where} on {', '.join(self._session.get_providers())} instead of {_PROVIDER}: "
                "reinstall it with: pip install --force-reinstall onnxruntime"
            )
        self._card = ModelCard.from_metadata(self._session.get_modelmeta().custom_metadata_map, where)
        _check_interface(self._session, self._card, where)
        self._name = f"onnxruntime {onnxruntime.__version__} (CPU, {counted(threads, 'thread', 'threads')})"

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    @property
    def name(self) -> str:
        """Version, device and threads."""
        return self._name

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        """Run the model on uint8 [b, s, s, 3]; b may be 0. UsageError for another shape or dtype.

        ModelError where the model fails, or gives something else than its card promises.
        """
        if self._session is None:
            raise UsageError(f"{self._where}: the model was closed: open it again")
        pixels = check_pixels(images, self._card)
        bits = self._card.bits
        expected = (len(pixels), code_bytes(bits)), (len(pixels), bits)
        if not len(pixels):
            return BackendOutput(np.empty(expected[0], np.uint8), np.empty(expected[1], np.float32))
        try:
            codes, logits = self._session.run(["codes", "logits"], {"images": pixels})
        except Exception as error:  # its exceptions have no base of their own
            raise ModelError(
                f"{self._where}: failed on a batch of {len(pixels)} ({_reason(error)}): if memory was short, take a "
                "smaller batch; else export it again with qo-export"
            ) from None
        if (codes.shape, logits.shape) != expected:
            raise ModelError(
                f"{self._where}: gave codes {list(codes.shape)} and logits {list(logits.shape)} for {len(pixels)} "
                f"images of {bits} bits: export it again with qo-export"
            )
        return BackendOutput(codes, logits)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _session(onnxruntime: Any, content: bytes, where: str, threads: int) -> "onnxruntime.InferenceSession":
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin take the processor from the threads that decode, and from other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=[_PROVIDER])
    except Exception as error:  # its exceptions have no base of their own
        raise ModelError(
            f"{where}: not a model that onnxruntime {onnxruntime.__version__} can load ({_reason(error)}): it is cut "
            "off, damaged, or no ONNX file; export it again with qo-export"
        ) from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _check_interface(session: Any, card: ModelCard, where: str) -> None:
    """The inputs and outputs must be those that the card promises."""
    size = card.preprocessing.image_size
    inputs = {i.name: (i.type, i.shape[1:]) for i in session.get_inputs()}
    if inputs != {"images": ("tensor(uint8)", [size, size, 3])}:
        raise ModelError(
            f"{where}: its inputs are {inputs}, not `images` uint8 [batch, {size}, {size}, 3] as its card says: "
            "export it again with qo-export"
        )
    if isinstance(session.get_inputs()[0].shape[0], int):
        raise ModelError(f"{where}: takes batches of one size only: export it again with qo-export")
    outputs = {o.name: (o.type, o.shape[1:]) for o in session.get_outputs()}
    expected = {
        "codes": ("tensor(uint8)", [code_bytes(card.bits)]),
        "logits": ("tensor(float)", [card.bits]),
    }
    if any(outputs.get(name) != value for name, value in expected.items()):
        raise ModelError(
            f"{where}: its outputs are {outputs}, but its card promises codes and logits of {card.bits} bits: "
            "export it again with qo-export"
        )
