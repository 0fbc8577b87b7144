"""Whether there is a CUDA driver with a GPU, asked of the driver library itself: no other package is needed.

TensorRT crashes the process where there is no driver, so this is asked before any of its objects is made.
"""

import ctypes
from dataclasses import dataclass

from queryopt.errors import MissingError

__all__ = ["Gpu", "find_gpu"]

_LIBRARY = "libcuda.so.1"
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, as far as engines depend on it.

    name: of its model. capability: (major, minor). driver: the CUDA version that its driver has, (major, minor).
    """

    name: str
    capability: tuple[int, int]
    driver: tuple[int, int]

    @property
    def text(self) -> str:
        """For people: "NVIDIA L4 (compute capability 8.9)"."""
        return f"{self.name} (compute capability {self.capability[0]}.{self.capability[1]})"


def find_gpu(index: int = 0) -> Gpu:
    """The GPU of that number. Raises MissingError where there is no driver, or it has no such GPU."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise MissingError(
            f"no NVIDIA driver here ({error}): install it on a machine with an NVIDIA GPU (in a container: start it "
            "with the GPU passed in), or take the model.onnx, which also runs on the CPU"
        ) from None
    _call(library, "cuInit", 0)
    version, device = ctypes.c_int(), ctypes.c_int()
    _call(library, "cuDriverGetVersion", ctypes.byref(version))
    count = ctypes.c_int()
    _call(library, "cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= index < count.value:
        raise MissingError(f"no GPU {index}: the driver has {count.value}, numbered from 0 (nvidia-smi -L lists them)")
    _call(library, "cuDeviceGet", ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    _call(library, "cuDeviceGetName", name, len(name), device)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        _call(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability.append(value.value)
    number = version.value
    return Gpu(
        name.value.decode(errors="replace"), (capability[0], capability[1]), (number // 1000, number % 1000 // 10)
    )


def _call(library: ctypes.CDLL, function: str, *arguments: object) -> None:
    status = getattr(library, function)(*arguments)
    if status:
        text = ctypes.c_char_p()
        library.cuGetErrorString(status, ctypes.byref(text))
        raise MissingError(
            f"the NVIDIA driver gives no GPU: {function} says {(text.value or b'error').decode()} ({status}); "
            "nvidia-smi shows drivers and GPUs; the model.onnx also runs on the CPU"
        )
