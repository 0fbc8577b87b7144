"""From a training checkpoint to model.onnx: strips the auxiliary branch, proves it, and checks parity on real pictures.

Nothing heavy is imported until it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queryopt.export.onnx import ExportResult, export_onnx
    from queryopt.export.parity import ParityReport, check_parity
    from queryopt.export.strip import InferenceNetwork

__all__ = ["ExportResult", "InferenceNetwork", "ParityReport", "check_parity", "export_onnx"]

_HOMES = {
    "ExportResult": "onnx",
    "InferenceNetwork": "strip",
    "ParityReport": "parity",
    "check_parity": "parity",
    "export_onnx": "onnx",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
