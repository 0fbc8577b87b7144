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
_OLDEST = {"tensorrt": (10,), "tensorrt_rtx": (1,)}
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
    if tuple(int(part) for part in version.split(".") if part.isdecimal()) < _OLDEST[name]:
        oldest = ".".join(map(str, _OLDEST[name]))
        package = name.replace("_", "-")
        raise MissingError(f"{flavour_text(name, version)} is too old: pip install '{package}>={oldest}'")
    return Flavour(name, version, module)
