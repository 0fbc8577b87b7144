"""cuda-core on a driver that stands in for NVIDIA's: every call that the runtime makes of it, without a GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import emulated_cuda
from queryopt.runtime.cuda import images
from queryopt.runtime.cuda.nvrtc import load_nvrtc
from queryopt.runtime.search.gpu.index import PROGRAM

HERE = Path(__file__).with_name("stand_in")
DOUBLES = Path(emulated_cuda.__file__).parent


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the driver's stand-in."""
    folder = tmp_path_factory.mktemp("driver")
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler, "the stand-in is compiled with g++ or clang++"
    definitions = {
        "EMULATION": f'"{DOUBLES / "emulation.h"}"',
        "PROGRAM": f'"{PROGRAM.source}"',
        "KERNELS": " ".join(f"QO_KERNEL({name})" for name in PROGRAM.kernels),
    }
    flags = ["-std=c++17", "-O0", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-Wl,-soname,libcuda.so.1", "-ldl"]
    command: list[str | Path] = [
        compiler,
        *(f"-D{name}={value}" for name, value in definitions.items()),
        HERE / "driver.cpp",
        *flags,
    ]
    subprocess.run([*command, "-o", folder / "libcuda.so.1"], check=True)
    return folder


def test_cuda_core(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # NVRTC itself wants more of a driver that it finds than the stand-in has: it compiles before there is one.
    images.device_image(PROGRAM, (9, 0), load_nvrtc(13).version[0])
    done = subprocess.run(
        [sys.executable, HERE / "use.py", "cuda-core"],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(stand_in), "PYTHONPATH": str(DOUBLES)},
    )
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "as it should\n")
