"""The emulation does what CUDA does, whatever the schedule, and refuses what would hang or be undefined."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from emulated_cuda import EmulatedMemory, EmulatedRuntime, EmulationError
from queryopt.errors import DeviceMemoryError, MissingError, UsageError
from queryopt.runtime.cuda import Argument, Program
from queryopt.runtime.cuda.base import Dim

SEEDS = range(8)
Run = Callable[..., None]


@pytest.fixture
def run(emulation: EmulatedRuntime, program: Program) -> Run:
    """(kernel, grid, block, arrays or scalars, seed) runs a kernel; arrays are copied there and back."""

    def call(name: str, grid: Dim, block: Dim, *values: npt.NDArray[Any] | np.number[Any], seed: int = 0) -> None:
        stream = emulation.stream()
        arguments: list[Argument] = []
        for value in values:
            if isinstance(value, np.ndarray):
                memory = emulation.allocate(value.nbytes)
                stream.upload(memory, value)
                arguments.append(memory)
            else:
                arguments.append(value)
        emulation.seed = seed
        stream.launch(emulation.load(program)[name], grid, block, *arguments)
        for value, argument in zip(values, arguments, strict=True):
            if isinstance(value, np.ndarray) and isinstance(argument, EmulatedMemory):
                stream.download(value, argument)
        stream.synchronize()

    return call


@pytest.mark.parametrize("seed", SEEDS)
def test_shared_memory_and_barriers(run: Run, seed: int) -> None:
    values, out = np.arange(5 * 256, dtype=np.int32), np.zeros(5 * 256, np.int32)
    run("reverse", 5, 256, values, out, seed=seed)
    np.testing.assert_array_equal(out, values.reshape(5, 256)[:, ::-1].ravel())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_barrier_shows(run: Run, seed: int) -> None:
    values, out = np.arange(1, 257, dtype=np.int32), np.zeros(256, np.int32)
    run("reverse_without_barrier", 1, 256, values, out, seed=seed)
    assert not np.array_equal(out, values[::-1])


def test_shared_memory_starts_as_garbage(run: Run) -> None:
    out = np.zeros(64, np.uint32)
    run("uninitialised", 1, 64, out)
    assert len(set(out.tolist())) > 32


@pytest.mark.parametrize("seed", SEEDS)
def test_warp_operations(run: Run, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 9, 32).astype(np.int32)
    out = np.zeros((7, 32), np.int32)
    run("warp_operations", 1, 32, values, out, seed=seed)

    def mask(chosen: npt.NDArray[np.bool_]) -> int:
        return sum(1 << int(lane) for lane in np.flatnonzero(chosen))

    unsigned = out.view(np.uint32)
    assert set(unsigned[0].tolist()) == {mask(values > 3)}
    assert set(out[1].tolist()) == {int((values > 7).any())}
    assert unsigned[2].tolist() == [mask(values == value) for value in values]
    np.testing.assert_array_equal(out[3], np.roll(values, -5))
    np.testing.assert_array_equal(out[4], [values[lane if lane < 3 else lane - 3] for lane in range(32)])
    np.testing.assert_array_equal(out[5], [mask(values[:16] % 2 == 1)] * 16 + [-1] * 16)
    lowest = [(int(value) & -int(value)).bit_length() for value in values]
    expected = [int(v).bit_count() + 100 * (64 - int(v)) + 10000 * low for v, low in zip(values, lowest, strict=True)]
    np.testing.assert_array_equal(out[6], expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_atomics(run: Run, seed: int) -> None:
    values = np.random.default_rng(seed).integers(3, 16, 1000).astype(np.uint32)
    bins, least = np.zeros(16, np.uint32), np.array([99], np.int32)
    run("histogram", 8, 128, values, np.uint32(1000), bins, least, seed=seed)
    np.testing.assert_array_equal(bins, np.bincount(values, minlength=16))
    assert least == [values.min()]


def test_threads_interleave(run: Run) -> None:
    sums = []
    for seed in SEEDS:
        total = np.zeros(1, np.int32)
        run("unsafe_sum", 4, 64, total, seed=seed)
        sums.append(int(total[0]))
    assert max(sums) < 256
    assert len(set(sums)) > 1, "every seed draws another schedule"


def test_a_seed_gives_the_same_schedule_again(run: Run) -> None:
    first, second = np.zeros(1, np.int32), np.zeros(1, np.int32)
    run("unsafe_sum", 4, 64, first, seed=5)
    run("unsafe_sum", 4, 64, second, seed=5)
    assert first == second


def test_three_dimensions(run: Run) -> None:
    out = np.zeros((12, 24), np.uint32)
    run("where", (2, 3, 2), (4, 3, 2), out)
    np.testing.assert_array_equal(out, np.arange(12)[:, None] * 1000 + np.arange(24))


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("divergent_barrier", r"for ever: .*24 at the kernel's end"),
        ("two_barriers", r"__syncthreads of line \d+ while others of the block wait at line"),
        ("missing_lane", r"for ever: 31 at a warp operation of line \d+; 33 at the kernel's end"),
        ("outside_its_mask", "lane 0 is not in its own mask"),
    ],
)
def test_what_would_hang_or_be_undefined_is_refused(run: Run, kernel: str, message: str) -> None:
    out = np.zeros(64, np.int32)
    with pytest.raises(EmulationError, match=f"{kernel}: .*{message}"):
        run(kernel, 1, 64, out)
    run("where", 1, 64, np.zeros(64, np.uint32))


def test_arguments_of_another_size_are_refused(run: Run) -> None:
    bins, least = np.zeros(16, np.uint32), np.zeros(1, np.int32)
    with pytest.raises(ValueError, match=r"histogram takes arguments of \[8, 4, 8, 8\] bytes, not \[8, 8, 8, 8\]"):
        run("histogram", 1, 32, bins, np.int64(3), bins, least)


def test_copies_stay_within_memory(emulation: EmulatedRuntime) -> None:
    memory, stream = emulation.allocate(16), emulation.stream()
    stream.upload(memory, np.arange(4, dtype=np.int32))
    part = np.zeros(2, np.int32)
    stream.download(part, memory, 8)
    assert part.tolist() == [2, 3]
    with pytest.raises(ValueError, match="16 bytes at 4 don't lie within 16"):
        stream.upload(memory, np.arange(4, dtype=np.int32), 4)
    with pytest.raises(ValueError, match="not C-contiguous"):
        stream.upload(memory, np.arange(8, dtype=np.int32)[::2])


def test_a_graph_does_its_work_each_time(emulation: EmulatedRuntime, program: Program) -> None:
    stream, kernel = emulation.stream(), emulation.load(program)["reverse"]
    source, target = emulation.pinned(64, np.int32), emulation.pinned(64, np.int32)
    there, back = emulation.allocate(256), emulation.allocate(256)

    def work() -> None:
        stream.upload(there, source)
        stream.launch(kernel, 1, 64, there, back)
        stream.download(target, back)

    target[:] = -1
    graph = stream.capture(work)
    assert (target == -1).all()
    for start in (0, 100):
        source[:] = np.arange(start, start + 64)
        graph.launch(stream)
        stream.synchronize()
        np.testing.assert_array_equal(target, source[::-1])


def test_events_pass(emulation: EmulatedRuntime) -> None:
    stream = emulation.stream()
    before, after = stream.record(), stream.record()
    after.synchronize()
    assert after.milliseconds_since(before) == 0


def test_memory_is_given_back(emulation: EmulatedRuntime) -> None:
    free = emulation.free_memory()
    memory = emulation.allocate(1000)
    assert emulation.free_memory() == free - 1000
    memory.free()
    memory.free()
    assert emulation.free_memory() == free
    with pytest.raises(
        DeviceMemoryError, match=f"{free + 1} bytes of device memory were asked for, and {free} are free"
    ):
        emulation.allocate(free + 1)


def test_another_runtimes_kernel_is_refused(emulation: EmulatedRuntime) -> None:
    class Foreign:
        name = "foreign"

        def resident_blocks(self, threads: int) -> int:
            return threads

    with pytest.raises(UsageError, match="foreign was loaded by another runtime"):
        emulation.stream().launch(Foreign(), 1, 1)


def test_a_program_that_does_not_compile_shows_the_compilers_words(emulation: EmulatedRuntime, tmp_path: Path) -> None:
    (tmp_path / "wrong.cu").write_text('extern "C" __global__ void wrong(int* out) { out[0] = missing; }\n')
    with pytest.raises(EmulationError, match=r"(?s)wrong\.cu can't be compiled as C\+\+:.*missing"):
        emulation.load(Program(tmp_path / "wrong.cu", ("wrong",)))


def test_no_compiler() -> None:
    with pytest.raises(MissingError, match="needs a C\\+\\+ compiler, and there is no no-such-compiler"):
        EmulatedRuntime("no-such-compiler")


def test_what_was_compiled_is_kept(tmp_path: Path, program: Program) -> None:
    EmulatedRuntime(folder=tmp_path).load(program)
    (library,) = tmp_path.glob("kernels-*.so")
    stamp = library.stat().st_mtime_ns
    EmulatedRuntime(folder=tmp_path).load(program)
    assert library.stat().st_mtime_ns == stamp
