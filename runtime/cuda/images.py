"""Programs compiled for a device, and kept: compiling takes a second or two, and a command takes less."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from queryopt.runtime.cuda.base import Program
from queryopt.runtime.cuda.nvrtc import Compiled, load_nvrtc

__all__ = ["cache_folder", "device_image"]

_DIGEST = 32


def device_image(program: Program, capability: tuple[int, int], driver: int) -> Compiled:
    """A program's image for a compute capability, compiled now or earlier; its log is empty when it was earlier.

    driver: the CUDA version that the driver has, its major number.

    Raises CompileError and MissingError as Nvrtc.compile and load_nvrtc do. A cache that can't be read or written only
    costs time.
    """
    nvrtc = load_nvrtc(driver)
    source = program.source.read_text(encoding="utf-8")
    key = hashlib.sha256(repr((nvrtc.version, capability, source)).encode()).hexdigest()
    path = cache_folder() / f"{program.source.stem}-{capability[0]}.{capability[1]}-{key[:32]}"
    for kind in ("cubin", "ptx"):
        image = _read(path.with_name(f"{path.name}.{kind}"))
        if image is not None:
            return Compiled(image, "cubin" if kind == "cubin" else "ptx", "")
    made = nvrtc.compile(source, program.source.name, capability)
    _write(path.with_name(f"{path.name}.{made.kind}"), made.image)
    return made


def cache_folder() -> Path:
    """Where compiled programs are kept: $XDG_CACHE_HOME/queryopt/cuda, or that in ~/.cache."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    return (Path(chosen) if chosen else Path("~/.cache").expanduser()) / "queryopt" / "cuda"


def _read(path: Path) -> bytes | None:
    """A file's image, if it is there and as it was written."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    image = data[_DIGEST:]
    return image if hashlib.sha256(image).digest() == data[:_DIGEST] else None


def _write(path: Path, image: bytes) -> None:
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(hashlib.sha256(image).digest() + image)
            os.replace(partial, path)
        except OSError:
            os.unlink(partial)
