"""An emulated device, and an oracle that shares nothing with the searchers."""

import pytest

from queryopt.runtime.cuda.emulated import EmulatedRuntime
from queryopt.runtime.search.gpu.program import PROGRAM


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> EmulatedRuntime:
    """A device of two multiprocessors on which the kernels are loaded."""
    runtime = EmulatedRuntime(flags=("-O1", "-Wall", "-Wextra", "-Werror"), folder=tmp_path_factory.mktemp("emulation"))
    runtime.load(PROGRAM)
    return runtime
