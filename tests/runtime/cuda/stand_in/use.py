"""Use a runtime on a driver that stands in for NVIDIA's; run as a program, with the runtime's name."""

import sys
import threading

import numpy as np
import pytest

from emulated_cuda import EmulatedRuntime
from queryopt.errors import DeviceMemoryError, MissingError, UsageError
from queryopt.runtime.cuda import CudaRuntime, open_runtime
from queryopt.runtime.search import HammingIndex
from queryopt.runtime.search.gpu import CudaHammingIndex, Tuning


def searches_are_the_cpus(runtime: CudaRuntime, bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, 3000).astype(np.uint64)
    queries, done = codes[:40], []
    cpu = HammingIndex(codes, bits)
    gpu = CudaHammingIndex(codes, bits, runtime=runtime, tuning=Tuning(sample=64, min_piece=64, workspace=100_000))

    def check() -> None:
        np.testing.assert_array_equal(gpu.search(queries, 5).ids, cpu.search(queries, 5).ids)
        near, expected = gpu.search_radius(queries, 4), cpu.search_radius(queries, 4)
        np.testing.assert_array_equal(near.offsets, expected.offsets)
        np.testing.assert_array_equal(near.ids, expected.ids)
        done.append(threading.current_thread())

    check()
    other = threading.Thread(target=check)
    other.start()
    other.join()
    assert len(done) == 2, "the search in another thread failed"
    gpu.close()


def memory_is_counted(runtime: CudaRuntime) -> None:
    free = runtime.free_memory()
    memory = runtime.allocate(1 << 20)
    assert runtime.free_memory() == free - (1 << 20)
    memory.free()
    memory.free()
    assert runtime.free_memory() == free
    runtime.allocate(1 << 20)
    assert runtime.free_memory() == free, "memory that nobody holds is given back"
    with pytest.raises(DeviceMemoryError, match=f"{1 << 40} bytes were asked for, and {free} of the GPU's"):
        runtime.allocate(1 << 40)


def copies_events_and_graphs(runtime: CudaRuntime) -> None:
    stream = runtime.stream()
    assert stream.handle > 0, "other libraries give it work"
    before = stream.record()
    source, target = runtime.pinned(4, np.uint64), runtime.pinned((2, 2), np.uint64)
    memory = runtime.allocate(40)
    stream.upload(memory, source, 8)
    target[:] = 0

    def work() -> None:
        stream.upload(memory, source, 8)
        stream.download(target, memory, 8)

    graph = stream.capture(work)
    assert not target.any()
    for start in (1, 5):
        source[:] = np.arange(start, start + 4)
        graph.launch(stream)
        stream.synchronize()
        assert target.ravel().tolist() == source.tolist()
    after = stream.record()
    after.synchronize()
    assert after.milliseconds_since(before) == 1.5
    with pytest.raises(ValueError, match="don't lie within"):
        stream.download(target, memory, 16)


def another_runtimes_things_are_refused(runtime: CudaRuntime) -> None:
    other = EmulatedRuntime()
    stream = runtime.stream()
    graph = stream.capture(lambda: None)
    with pytest.raises(UsageError, match="another runtime's"):
        graph.launch(other.stream())
    with pytest.raises(UsageError, match="another runtime's"):
        stream.record().milliseconds_since(other.stream().record())


def main(name: str) -> None:
    runtime = open_runtime(name)
    assert runtime.name.startswith(f"{name} ")
    assert runtime.name.endswith("(Stand-in)")
    device = runtime.device
    assert (device.name, device.index, device.capability) == ("Stand-in", 0, (9, 0))
    assert (device.multiprocessors, device.memory, device.clock) == (2, 8 << 30, 1_755_000_000)
    assert device.bandwidth == 3_352_320_000_000
    memory_is_counted(runtime)
    copies_events_and_graphs(runtime)
    another_runtimes_things_are_refused(runtime)
    for bits in (20, 48):
        searches_are_the_cpus(runtime, bits)
    with pytest.raises(MissingError, match="no GPU 3 can be used"):
        open_runtime(name, device=3)
    print("as it should")


main(sys.argv[1])
