"""From a training checkpoint to model.onnx: strips the auxiliary branch, proves it, and checks parity on real pictures.

Nothing heavy is imported until it is used.
"""

from typing import TYPE_CHECKING

from queryopt.lazy import lazy_names

if TYPE_CHECKING:
    from queryopt.export.engine import BuiltEngine, build_engine
    from queryopt.export.onnx import ExportResult, export_onnx
    from queryopt.export.parity import ParityReport, check_parity
    from queryopt.export.strip import InferenceNetwork

__all__ = [
    "BuiltEngine",
    "ExportResult",
    "InferenceNetwork",
    "ParityReport",
    "build_engine",
    "check_parity",
    "export_onnx",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BuiltEngine": "engine",
        "ExportResult": "onnx",
        "InferenceNetwork": "strip",
        "ParityReport": "parity",
        "build_engine": "engine",
        "check_parity": "parity",
        "export_onnx": "onnx",
    },
)
