"""The kernels, compiled for every architecture that is supported: they are there, and small enough to fill a device."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from cubin import kernel_resources
from queryopt.runtime.cuda.base import KernelResources
from queryopt.runtime.cuda.nvrtc import load_nvrtc
from queryopt.runtime.search.gpu.index import PROGRAM

CAPABILITIES = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)]


@pytest.fixture(scope="module")
def resources() -> dict[tuple[int, int], dict[str, KernelResources]]:
    source, nvrtc = PROGRAM.source.read_text(), load_nvrtc()

    def compiled(capability: tuple[int, int]) -> dict[str, KernelResources]:
        made = nvrtc.compile(source, PROGRAM.source.name, capability)
        assert "warning" not in made.log
        return kernel_resources(made.image)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CAPABILITIES, pool.map(compiled, CAPABILITIES), strict=True))


def test_every_kernel_is_listed() -> None:
    source = PROGRAM.source.read_text()
    names = re.findall(r"QO_(?:SCAN|SELECT) (\w+?)(?:_##bits_)?\(", source)
    assert sorted(PROGRAM.kernels) == sorted(
        kernel for name in names for kernel in ([name] if name in PROGRAM.kernels else [f"{name}_32", f"{name}_64"])
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_resources(resources: dict[tuple[int, int], dict[str, KernelResources]], capability: tuple[int, int]) -> None:
    kernels = resources[capability]
    assert set(kernels) == set(PROGRAM.kernels)
    for name, kernel in kernels.items():
        # 64 registers: four blocks of 256 threads, or one of 1,024.
        assert kernel.registers <= 64, name
        # Three blocks, of the 64 KiB that a multiprocessor of compute capability 7.5 has.
        assert kernel.shared <= 21 << 10, name
        # A few bytes beside the loop over rows; see a kernel's SASS before this is raised.
        assert kernel.stack <= 32, name
