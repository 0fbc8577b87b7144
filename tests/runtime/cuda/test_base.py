"""The arithmetic that implementations share."""

import numpy as np
import pytest

from emulated_cuda import EmulatedRuntime
from queryopt.runtime.cuda import Address
from queryopt.runtime.cuda.base import KernelResources, MultiprocessorLimits, dimensions, resident_blocks, scalars

HOPPER = MultiprocessorLimits(threads=2048, blocks=32, registers=65536, shared=233472)
TURING = MultiprocessorLimits(threads=1024, blocks=16, registers=65536, shared=65536)


def test_dimensions() -> None:
    assert dimensions(5) == (5, 1, 1)
    assert dimensions((5, 2)) == (5, 2, 1)
    assert dimensions((5, 2, 3)) == (5, 2, 3)


# Values of NVIDIA's occupancy calculator.
@pytest.mark.parametrize(
    ("threads", "registers", "shared", "limits", "blocks"),
    [
        (256, 32, 0, HOPPER, 8),
        (256, 64, 8192, HOPPER, 4),
        (256, 80, 8192, HOPPER, 3),
        (256, 40, 37888, HOPPER, 6),
        (1024, 32, 13696, HOPPER, 2),
        (1024, 64, 0, HOPPER, 1),
        (32, 16, 0, HOPPER, 32),
        (256, 62, 7168, TURING, 4),
        (256, 54, 36864, TURING, 1),
        (1024, 33, 12672, TURING, 1),
        (256, 255, 0, HOPPER, 1),
    ],
)
def test_resident_blocks(threads: int, registers: int, shared: int, limits: MultiprocessorLimits, blocks: int) -> None:
    assert resident_blocks(threads, KernelResources(registers, shared, 0), limits) == blocks


def test_arguments_become_numbers_of_their_type(emulation: EmulatedRuntime) -> None:
    memory = emulation.allocate(64)
    values = scalars([np.uint32(7), memory, Address(memory, 24), np.int64(-1)])
    assert values == [7, memory.pointer, memory.pointer + 24, -1]
    assert [value.dtype for value in values] == [np.uint32, np.uint64, np.uint64, np.int64]
