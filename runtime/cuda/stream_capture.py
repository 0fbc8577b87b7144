"""Graphs straight from the driver library, for packages that have none."""

import ctypes
from collections.abc import Callable
from functools import cache

from queryopt.errors import MissingError

__all__ = ["ExecutableGraph", "capture"]

_RELAXED = 2


class ExecutableGraph:
    """Work that was captured; its parts keep their memory only as long as the caller does."""

    def __init__(self, handle: ctypes.c_void_p) -> None:
        self._handle = handle

    def launch(self, stream: int) -> None:
        """Do the work on a stream (CUstream as an integer), in the calling thread's context."""
        _check(_driver().cuGraphLaunch(self._handle, ctypes.c_void_p(stream)), "cuGraphLaunch")

    def destroy(self) -> None:
        """Give it back. Twice does no harm."""
        if self._handle:
            _driver().cuGraphExecDestroy(self._handle)
            self._handle = ctypes.c_void_p()


def capture(stream: int, work: Callable[[], None]) -> ExecutableGraph:
    """Call `work` while what the stream (CUstream as an integer) is given is recorded instead of done."""
    driver = _driver()
    _check(driver.cuStreamBeginCapture_v2(ctypes.c_void_p(stream), _RELAXED), "cuStreamBeginCapture")
    graph = ctypes.c_void_p()
    try:
        work()
    finally:
        status = driver.cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph))
    _check(status, "cuStreamEndCapture")
    executable = ctypes.c_void_p()
    try:
        _check(
            driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, ctypes.c_ulonglong(0)),
            "cuGraphInstantiate",
        )
    finally:
        driver.cuGraphDestroy(graph)
    return ExecutableGraph(executable)


@cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise MissingError(f"NVIDIA's driver library can't be loaded: {error}") from None


def _check(status: int, call: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorName(status, ctypes.byref(text))
        raise RuntimeError(f"{call}: the CUDA driver says {(text.value or b'error %d' % status).decode()}")
