"""OpenVINO on the CPU: float32, bfloat16 where the processor has it, and int8 of a graph that is quantised."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.cores import usable_cores
from queryopt.errors import MissingError, ModelError
from queryopt.runtime.backends.base import Port, SessionBackend, attention_tokens, check_ports, failed
from queryopt.runtime.onnx_file import read_card, read_onnx
from queryopt.text import counted, display_path, install_extra

__all__ = ["OpenVinoBackend"]


class OpenVinoBackend(SessionBackend):
    """A model.onnx compiled by OpenVINO for the CPU.

    path: the file. threads: of its arithmetic (None: usable_cores()). What is not quantised is computed in float32, in
    a model of precision bf16 in bfloat16: OpenVINO's own choice would depend on the processor. Raises ModelError and
    MissingError as open_backend.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        openvino = _import_openvino()
        where = display_path(path)
        content = read_onnx(path)
        card = read_card(content, where)
        threads = threads or usable_cores()
        core = openvino.Core()
        bf16 = card.precision == "bf16"
        if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise MissingError(
                f"{where}: a model of precision bf16, and this processor has no bfloat16 (AVX512-BF16 or AMX): "
                "qo-export --precision fp32 or int8 makes one for it"
            )
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Threads bound to processors get in the way of those that decode, and of other models.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = core.read_model(io.BytesIO(content))
            outputs = _ports(model.outputs)
            check_ports(_ports(model.inputs), outputs, card, where)
            tokens = attention_tokens(outputs, card, where)
            compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ModelError(
                f"{where}: not a model that openvino {_version(openvino)} can load ({_reason(error)}): it is cut off, "
                "damaged, or no ONNX file; export it again with qo-export, or take --backend onnxruntime"
            ) from None
        request: Any = compiled.create_infer_request()

        def infer(names: list[str], pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
            try:
                request.infer({"images": pixels}, share_inputs=pixels.flags.writeable)
            except RuntimeError as error:
                raise failed(where, len(pixels), _reason(error)) from None
            # Copies: the request writes its next results over these.
            return [np.array(request.get_tensor(name).data) for name in names]

        kind = ", bf16" if bf16 else ""
        name = f"openvino {_version(openvino)} (CPU, {counted(threads, 'thread', 'threads')}{kind})"
        super().__init__(card, name, where, tokens, infer)


def _import_openvino() -> Any:
    """The package, which reports every import to its maker where openvino-telemetry can be imported too.

    It goes on without that package by itself, so that is what it finds; who imported it before has chosen.
    """
    hidden = "openvino_telemetry"
    hide = hidden not in sys.modules
    if hide:
        sys.modules[hidden] = None  # type: ignore[assignment]  # Python's own way to say 'not there'
    try:
        import openvino
    except ImportError as error:
        raise MissingError(f"--backend openvino needs openvino ({error}): {install_extra('openvino')}") from None
    finally:
        if hide:
            del sys.modules[hidden]
    return openvino


def _version(openvino: Any) -> str:
    """Without the number of the build: "2026.4.1"."""
    return str(openvino.__version__).partition("-")[0]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _ports(nodes: Any) -> dict[str, Port]:
    return {
        node.any_name: (
            np.dtype(node.element_type.to_dtype()).name,
            tuple(size.get_length() if size.is_static else None for size in node.partial_shape),
        )
        for node in nodes
    }
