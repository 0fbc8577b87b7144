"""A runtime on the CPU and a program of small kernels."""

import re
from pathlib import Path

import pytest

from emulated_cuda import EmulatedRuntime
from queryopt.runtime.cuda import Program

SOURCE = Path(__file__).with_name("kernels.cu")


@pytest.fixture(scope="session")
def program() -> Program:
    """The kernels of kernels.cu."""
    return Program(SOURCE, tuple(re.findall(r"__global__ void (\w+)\(", SOURCE.read_text())))


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory, program: Program) -> EmulatedRuntime:
    """An emulated device on which they are loaded."""
    runtime = EmulatedRuntime(flags=("-O1", "-Wall", "-Wextra", "-Werror"), folder=tmp_path_factory.mktemp("emulation"))
    runtime.load(program)
    return runtime
