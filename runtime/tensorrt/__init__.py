"""TensorRT engines: built from a model.onnx, described by a manifest, and refused where they don't fit.

Importing this loads neither `tensorrt` nor `tensorrt_rtx`; building and running do.
"""

from typing import TYPE_CHECKING

from queryopt.lazy import lazy_names

if TYPE_CHECKING:
    from queryopt.runtime.tensorrt.build import BuiltEngine, build_engine, rebuild_engine
    from queryopt.runtime.tensorrt.flavours import FLAVOURS, Flavour, load_flavour
    from queryopt.runtime.tensorrt.manifest import Manifest, manifest_path, read_manifest
    from queryopt.runtime.tensorrt.profile import Profile

__all__ = [
    "FLAVOURS",
    "BuiltEngine",
    "Flavour",
    "Manifest",
    "Profile",
    "build_engine",
    "load_flavour",
    "manifest_path",
    "read_manifest",
    "rebuild_engine",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FLAVOURS": "flavours",
        "BuiltEngine": "build",
        "Flavour": "flavours",
        "Manifest": "manifest",
        "Profile": "profile",
        "build_engine": "build",
        "load_flavour": "flavours",
        "manifest_path": "manifest",
        "read_manifest": "manifest",
        "rebuild_engine": "build",
    },
)
