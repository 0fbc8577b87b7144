"""Which package runs CUDA, and what is said where none can."""

import subprocess
import sys

import pytest

from emulated_cuda import EmulatedRuntime
from queryopt.errors import MissingError, UsageError
from queryopt.runtime.cuda import RUNTIMES, open_runtime


def test_names() -> None:
    with pytest.raises(
        UsageError, match=r"no CUDA runtime is called 'PyCuda': there are auto, .*did you mean pycuda\?"
    ):
        open_runtime("PyCuda")


def test_a_runtime_is_taken_as_it_is(emulation: EmulatedRuntime) -> None:
    assert open_runtime(emulation) is emulation
    assert emulation.name.startswith("emulation (")


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.core", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingError, match=r"neither is installed: .*pip install '\.\[gpu\]'"):
        open_runtime()
    with pytest.raises(MissingError, match=r"needs cuda-core 1\.0 or newer .*pip install '\.\[gpu\]'"):
        open_runtime("cuda-core")
    with pytest.raises(MissingError, match=r"PyCUDA can't be loaded .*pip install '\.\[pycuda\]'"):
        open_runtime("pycuda")


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(MissingError, match=r"no GPU 77 can be used: .*nvidia-smi|pip install '\.\["):
        open_runtime(name, device=77)


def test_importing_loads_no_cuda_package() -> None:
    modules = "queryopt.runtime.cuda.choose, queryopt.runtime.search.gpu, queryopt.runtime.search.gpu.index"
    code = f"import sys, {modules}; print([m for m in ('cuda', 'pycuda', 'torch', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
