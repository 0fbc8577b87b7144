"""Which package runs CUDA here."""

from importlib.util import find_spec
from typing import Final

from queryopt.errors import MissingError, UsageError
from queryopt.runtime.cuda.base import CudaRuntime
from queryopt.text import did_you_mean, install_extra

__all__ = ["RUNTIMES", "check_runtime", "open_runtime"]

RUNTIMES: Final = ("auto", "cuda-core", "pycuda")
"""'auto' is cuda-core where it is installed, else pycuda."""


def open_runtime(runtime: str | CudaRuntime = "auto", device: int = 0) -> CudaRuntime:
    """A runtime by name, or the one that is given.

    runtime: a name in RUNTIMES. device: its number among those that the process sees.
    Raises UsageError for another name, MissingError where its package, a driver or the device is not there.
    """
    if not isinstance(runtime, str):
        return runtime
    check_runtime(runtime)
    if runtime == "auto":
        if _installed("cuda.core"):
            runtime = "cuda-core"
        elif _installed("pycuda"):
            runtime = "pycuda"
        else:
            raise MissingError(
                f"a GPU is used through cuda-core or pycuda, and neither is installed: {install_extra('gpu')} (or "
                "'.[pycuda]', which compiles against your CUDA toolkit)"
            )
    if runtime == "cuda-core":
        from queryopt.runtime.cuda.cuda_core import CudaCoreRuntime

        return CudaCoreRuntime(device)
    from queryopt.runtime.cuda.pycuda import PyCudaRuntime

    return PyCudaRuntime(device)


def check_runtime(name: str) -> None:
    """UsageError for a name that is none of RUNTIMES."""
    if name not in RUNTIMES:
        raise UsageError(
            f"no CUDA runtime is called {name!r}: there are {', '.join(RUNTIMES)}{did_you_mean(name, RUNTIMES)}"
        )


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it lies in isn't there
        return False
