"""How long pixels take to a GPU."""

from queryopt.errors import MissingError
from queryopt.runtime.cuda import CudaRuntime, open_runtime

__all__ = ["Copying", "runtime_of"]


class Copying:
    """Batches of pixels, uint8 [b, s, s, 3], from pinned memory to the device, one after the other."""

    def __init__(self, runtime: CudaRuntime, batch: int, image_size: int) -> None:
        self._pixels = runtime.pinned((batch, image_size, image_size, 3), "uint8")
        self._pixels[:] = 0
        self._memory = runtime.allocate(self._pixels.nbytes)
        self._stream = runtime.stream()

    def run(self, images: int) -> None:
        """Copy so many, and wait for them."""
        batch = len(self._pixels)
        for start in range(0, images, batch):
            self._stream.upload(self._memory, self._pixels[: images - start])
        self._stream.synchronize()

    def close(self) -> None:
        """Give back the device's memory."""
        self._stream.synchronize()
        self._memory.free()


def runtime_of(backend: str) -> CudaRuntime | None:
    """What reaches the device that a backend of this name runs on; None on a CPU, or where no package does so here."""
    if backend not in ("cuda", "tensorrt"):
        return None
    try:
        return open_runtime()
    except MissingError:
        return None
