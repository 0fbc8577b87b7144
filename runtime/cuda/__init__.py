"""CUDA through one thin interface, with an implementation for each package that people have.

Importing this loads none of those packages; open_runtime does.
"""

from queryopt.runtime.cuda.base import (
    Address,
    Argument,
    CudaRuntime,
    Device,
    Event,
    Graph,
    Kernel,
    Memory,
    Program,
    Stream,
)
from queryopt.runtime.cuda.choose import RUNTIMES, check_runtime, open_runtime

__all__ = [
    "RUNTIMES",
    "Address",
    "Argument",
    "CudaRuntime",
    "Device",
    "Event",
    "Graph",
    "Kernel",
    "Memory",
    "Program",
    "Stream",
    "check_runtime",
    "open_runtime",
]
