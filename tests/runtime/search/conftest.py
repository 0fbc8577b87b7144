"""An emulated device on which the kernels are loaded."""

from collections.abc import Callable
from functools import partial

import pytest

from emulated_cuda import EmulatedRuntime
from queryopt.runtime.search.gpu.index import PROGRAM


@pytest.fixture(scope="session")
def make_emulation(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EmulatedRuntime]:
    """Makes emulated devices of EmulatedRuntime's options, for which the kernels are compiled once."""
    flags = ("-O1", "-Wall", "-Wextra", "-Werror")
    return partial(EmulatedRuntime, flags=flags, folder=tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="session")
def emulation(make_emulation: Callable[..., EmulatedRuntime]) -> EmulatedRuntime:
    """A device of two multiprocessors."""
    runtime = make_emulation()
    runtime.load(PROGRAM)
    return runtime
