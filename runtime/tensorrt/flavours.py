"""The two packages that build and run engines: `tensorrt` (10 and 11) and `tensorrt_rtx`. Their API is one."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from queryopt.errors import MissingError, UsageError
from queryopt.text import did_you_mean, install_extra

__all__ = ["FLAVOURS", "Flavour", "flavour_text", "load_flavour"]

FLAVOURS: Final = ("auto", "tensorrt", "tensorrt_rtx")
"""'auto' is tensorrt where it is installed, else tensorrt_rtx."""

_EXTRAS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
_NEWEST_USED = {
    "IExecutionContext": ("set_device_memory", "update_device_memory_size_for_shapes"),
    "ExecutionContextAllocationStrategy": ("USER_MANAGED",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
}
"""What is used of the API and came last: a package that lacks it is too old."""

_NEWEST_USED_OF_RTX = {"BuilderFlag": ("REQUIRE_USER_ALLOCATION",), "IExecutionContext": ("is_stream_capturable",)}

_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Flavour:
    """A TensorRT package.

    name: of its module. version: as it says itself, e.g. "11.4.0.106". module: the module.
    """

    name: str
    version: str
    module: Any

    @property
    def text(self) -> str:
        """For people: "TensorRT-RTX 1.7.1.116"."""
        return flavour_text(self.name, self.version)

    @property
    def portable(self) -> bool:
        """Whether it builds for named compute capabilities, without a GPU; else for the GPU that it runs on."""
        return self.name == "tensorrt_rtx"


def flavour_text(name: str, version: str) -> str:
    """A package and its version, for people."""
    return f"{_TITLES.get(name, name)} {version}"


def load_flavour(name: str = "auto") -> Flavour:
    """Import a TensorRT package.

    name: one of FLAVOURS. Raises UsageError for another name, MissingError where it is not installed, can't be loaded
    or is too old.
    """
    if name not in FLAVOURS:
        raise UsageError(
            f"no TensorRT package is called {name!r}: there are {', '.join(FLAVOURS)}{did_you_mean(name, FLAVOURS)}"
        )
    if name == "auto":
        name = next((one for one in FLAVOURS[1:] if find_spec(one) is not None), "")
        if not name:
            raise MissingError(
                f"neither tensorrt nor tensorrt_rtx is installed: {install_extra('rtx')} for GPUs of the RTX kind (it "
                "also builds without a GPU), or [trt] for all others"
            )
    try:
        module = import_module(name)
    except ImportError as error:
        raise MissingError(f"{name} can't be loaded ({error}): {install_extra(_EXTRAS[name])}") from None
    version = str(module.__version__)
    tables = (_NEWEST_USED, _NEWEST_USED_OF_RTX if name == "tensorrt_rtx" else {})
    for owner, members in (item for table in tables for item in table.items()):
        for member in members:
            if not hasattr(getattr(module, owner, None), member):
                package = name.replace("_", "-")
                raise MissingError(
                    f"{flavour_text(name, version)} is too old, or too new: it lacks {owner}.{member}; pip install "
                    f"--upgrade {package}, or queryopt"
                )
    return Flavour(name, version, module)
