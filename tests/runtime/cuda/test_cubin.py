"""A kernel's resources, as its machine code states them, against what the assembler reports."""

import re

import pytest

from cubin import kernel_resources
from queryopt.errors import FormatError
from queryopt.runtime.cuda import Program
from queryopt.runtime.cuda.nvrtc import load_nvrtc

SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spills(const float* from, float* to, int n) {
  float held[64];
  for (int i = 0; i < 64; ++i) held[i] = from[threadIdx.x * 64 + i];
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < 64; ++i) held[i] = held[i] * held[(i * 7 + 3) % 64] + held[(i + 1) % 64];
  for (int i = 0; i < 64; ++i) to[threadIdx.x * 64 + i] = held[i];
}
"""


@pytest.mark.parametrize("capability", [(7, 5), (9, 0), (12, 0)])
def test_as_the_assembler_says(program: Program, capability: tuple[int, int]) -> None:
    source = program.source.read_text() + SPILLING
    made = load_nvrtc().compile(source, "kernels.cu", capability, ["--ptxas-options=-v"])
    said = re.findall(
        r"entry function '(\w+)'.*?(\d+) bytes stack frame.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
        made.log,
        re.DOTALL,
    )
    found = kernel_resources(made.image)
    assert set(found) == {*program.kernels, "spills"} == {name for name, *_ in said}
    system = 1024 if capability >= (9, 0) else 0
    for name, stack, registers, shared in said:
        assert found[name].registers == int(registers)
        assert found[name].stack == int(stack)
        assert found[name].shared in (int(shared or 0), int(shared or 0) + system)
    assert found["spills"].stack > 0
    assert found["reverse"].shared >= 1024 > found["where"].shared - system


def test_not_a_cubin() -> None:
    made = load_nvrtc().compile('extern "C" __global__ void none() {}', "none.cu", (9, 0))
    with pytest.raises(FormatError, match="doesn't begin like a 64-bit ELF file"):
        kernel_resources(b"#!/bin/sh")
    for length in (20, 64, len(made.image) // 2):
        with pytest.raises(FormatError, match="not a cubin"):
            kernel_resources(made.image[:length])
