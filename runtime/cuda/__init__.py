"""CUDA through one thin interface, with an implementation for each package that people have.

Importing this loads none of those packages; open_runtime does.
"""

from typing import TYPE_CHECKING

from queryopt.lazy import lazy_names

if TYPE_CHECKING:
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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "RUNTIMES": "choose",
        "Address": "base",
        "Argument": "base",
        "CudaRuntime": "base",
        "Device": "base",
        "Event": "base",
        "Graph": "base",
        "Kernel": "base",
        "Memory": "base",
        "Program": "base",
        "Stream": "base",
        "check_runtime": "choose",
        "open_runtime": "choose",
    },
)
