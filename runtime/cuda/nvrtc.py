"""NVIDIA's run-time compiler: CUDA C++ to machine code, without a toolkit, a driver or a device.

The library comes with the nvidia-cuda-nvrtc wheel, with PyTorch's CUDA wheels, or with a CUDA toolkit.
"""

import ctypes
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from queryopt.errors import MissingError, QueryOptError
from queryopt.text import install_extra

__all__ = ["CompileError", "Compiled", "Nvrtc", "load_nvrtc"]

_TOOLKITS = ("/usr/local/cuda", "/opt/cuda")


class CompileError(QueryOptError):
    """A program can't be compiled. The message holds the compiler's."""


@dataclass(frozen=True)
class Compiled:
    """What a compilation made.

    image: what a driver loads. kind: 'cubin' for machine code of one architecture, 'ptx' for what a driver compiles for
    newer ones. log: the compiler's words.
    """

    image: bytes
    kind: Literal["cubin", "ptx"]
    log: str


class Nvrtc:
    """The compiler of one library file.

    version: (major, minor). architectures: compute capabilities that it makes machine code for, ascending, as
    10 * major + minor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The library opens its built-in headers by name alone when it compiles, and not every build looks beside
        # itself for them: a library of that name which is already loaded is taken.
        self._builtins = [ctypes.CDLL(str(one)) for one in sorted(path.parent.glob("libnvrtc-builtins.so.*"))]
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        self.version = (major.value, minor.value)
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "nvrtcGetNumSupportedArchs")
        found = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found), "nvrtcGetSupportedArchs")
        self.architectures = tuple(sorted(found))

    def compile(self, source: str, name: str, capability: tuple[int, int], options: Sequence[str] = ()) -> Compiled:
        """Compile a source text for a compute capability; `name` stands for the file in messages.

        Machine code where this library knows the architecture; PTX of the newest one that it knows for a newer one,
        which the driver compiles on. Raises CompileError for a program that is wrong,
        or an architecture that is too old.
        """
        wanted = 10 * capability[0] + capability[1]
        kind: Literal["cubin", "ptx"] = "cubin"
        target = wanted
        if wanted not in self.architectures:
            # Machine code runs on later minor versions of its major version; PTX on all later ones.
            same = [one for one in self.architectures if one // 10 == capability[0] and one < wanted]
            older = [one for one in self.architectures if one < wanted]
            if not older:
                raise CompileError(
                    f"NVRTC {self.version[0]}.{self.version[1]} ({self.path}) compiles for compute capability "
                    f"{self.architectures[0] / 10} and newer, and the device has {wanted / 10}: install an older one"
                )
            target, kind = (same[-1], "cubin") if same else (older[-1], "ptx")
        prefix = "sm" if kind == "cubin" else "compute"
        flags = ["--std=c++17", f"--gpu-architecture={prefix}_{target}", *options]
        program = ctypes.c_void_p()
        self._check(
            self._library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None),
            "nvrtcCreateProgram",
        )
        try:
            given = (ctypes.c_char_p * len(flags))(*[flag.encode() for flag in flags])
            status = self._library.nvrtcCompileProgram(program, len(flags), given)
            log = self._bytes(program, "ProgramLog").decode(errors="replace").rstrip("\0\n ")
            if status:
                raise CompileError(f"{name} can't be compiled for {prefix}_{target} ({self._text(status)}):\n{log}")
            return Compiled(self._bytes(program, "CUBIN" if kind == "cubin" else "PTX"), kind, log)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer), f"nvrtcGet{what}")
        return buffer.raw

    def _check(self, status: int, call: str) -> None:
        if status:
            raise CompileError(f"{call} of {self.path} failed: {self._text(status)}")

    def _text(self, status: int) -> str:
        text: bytes = self._library.nvrtcGetErrorString(status)
        return text.decode()


@cache
def load_nvrtc(driver: int | None = None) -> Nvrtc:
    """The newest NVRTC that can be found.

    driver: the CUDA version that the driver has, its major number: it can't load what a later one compiled.
    Raises MissingError where there is none that can be loaded.
    """
    failures = []
    for path in sorted(set(_libraries()), key=_version, reverse=True):
        if driver is not None and _version(path)[0] > driver:
            failures.append(f"{path} is of CUDA {_version(path)[0]}, and the driver of {driver}")
            continue
        try:
            return Nvrtc(path)
        except OSError as error:
            failures.append(str(error))
    if failures:
        raise MissingError(
            f"compiling for a GPU needs NVIDIA's NVRTC library, and none can be used: {'; '.join(failures)}; "
            "update the driver, or install the NVRTC of its version (pip install nvidia-cuda-nvrtc-cu12 for 12)"
        )
    raise MissingError(
        f"compiling for a GPU needs NVIDIA's NVRTC library, and there is none: {install_extra('gpu')}, or set "
        "CUDA_HOME to a CUDA toolkit"
    )


def _libraries() -> Iterator[Path]:
    """libnvrtc.so.<number> in wheels and toolkits."""
    nvidia = importlib.util.find_spec("nvidia")
    folders: list[Path] = []
    for root in (nvidia.submodule_search_locations or []) if nvidia else []:
        folders += [Path(root, "cu13", "lib"), Path(root, "cu12", "lib"), Path(root, "cuda_nvrtc", "lib")]
    toolkits: Iterable[str] = filter(None, [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), *_TOOLKITS])
    folders += [Path(toolkit, "lib64") for toolkit in toolkits]
    for folder in folders:
        yield from (path for path in folder.glob("libnvrtc.so.*") if _version(path))


def _version(path: Path) -> tuple[int, ...]:
    match = re.fullmatch(r"libnvrtc\.so\.(\d+(?:\.\d+)*)", path.name)
    return tuple(map(int, match[1].split("."))) if match else ()
