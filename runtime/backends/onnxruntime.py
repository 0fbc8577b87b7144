"""ONNX Runtime on the CPU."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt.card import ModelCard
from queryopt.cli import display_path
from queryopt.codes import code_bytes
from queryopt.errors import MissingError, ModelError
from queryopt.runtime.backends.base import BackendOutput, check_pixels

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntimeBackend", "usable_cores"]

_PROVIDER = "CPUExecutionProvider"

_EXTERNAL_DATA = b"\x0a\x08location\x12"
"""A key-value entry "location" as ONNX writes it for a tensor that lies in another file."""


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
            raise MissingError(f"running a model needs onnxruntime ({error}): pip install 'queryopt[cpu]'") from None
        where = display_path(path)
        self._threads = threads or usable_cores()
        self._session = _session(onnxruntime, _read(path, where), where, self._threads)
        if self._session.get_providers() != [_PROVIDER]:
            raise MissingError(
                f"onnxruntime runs {where} on {', '.join(self._session.get_providers())} instead of {_PROVIDER}: "
                "reinstall it with: pip install --force-reinstall onnxruntime"
            )
        self._card = ModelCard.from_metadata(self._session.get_modelmeta().custom_metadata_map, where)
        _check_interface(self._session, self._card, where)
        self._name = f"onnxruntime {onnxruntime.__version__} (CPU, {self._threads} threads)"

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    @property
    def name(self) -> str:
        """Version, device and threads."""
        return self._name

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        """Run the model on uint8 [b, s, s, 3]; b may be 0. UsageError for another shape or dtype."""
        pixels = check_pixels(images, self._card)
        if not len(pixels):
            bits = self._card.bits
            return BackendOutput(np.empty((0, code_bytes(bits)), np.uint8), np.empty((0, bits), np.float32))
        codes, logits = self._session.run(["codes", "logits"], {"images": pixels})
        return BackendOutput(codes, logits)

    def close(self) -> None:
        """Free the session."""
        self._session = None


def _read(path: Path, where: str) -> bytes:
    content = path.read_bytes()
    if not content:
        raise ModelError(f"{where}: zero bytes: export the model again with qo-export")
    # A file that names others could have any file of this machine read into the model (CVE-2025-51480 and its kin). The
    # session gets bytes, not a path, so it could not find them either.
    if _EXTERNAL_DATA in content:
        raise ModelError(
            f"{where}: keeps its weights in other files, which is refused: a model of qo-export is one file"
        )
    return content


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
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{where}: not a model that onnxruntime {onnxruntime.__version__} can load ({reason}): it is cut off, "
            "damaged, or no ONNX file; export it again with qo-export"
        ) from None


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
