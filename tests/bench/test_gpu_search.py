"""The benchmark of search on a GPU, on kernels that run on the CPU: its figures, not its times."""

import numpy as np
import pytest

from queryopt.bench.gpu_search import GpuReport, measure_gpu_search, popcount_limit
from queryopt.bench.search.data import DataSpec
from queryopt.bench.search.peers.base import Task
from queryopt.runtime.cuda import Device
from queryopt.runtime.cuda.emulated import EmulatedRuntime
from queryopt.runtime.search.gpu import CudaHammingIndex, Tuning

SMALL = Tuning(sample=64, min_piece=64, select_threads=64)
DATA = [DataSpec("clustered", 48, 900, queries=5, classes=3), DataSpec("equal", 12, 700, queries=5)]


@pytest.fixture(scope="module")
def runtime() -> EmulatedRuntime:
    return EmulatedRuntime(flags=("-O0",))


def measure(runtime: EmulatedRuntime) -> GpuReport:
    return measure_gpu_search(DATA, [1, 7], [Task(4), Task(None, 3)], runtime=runtime, tuning=SMALL, rounds=2)


def test_figures(runtime: EmulatedRuntime) -> None:
    report = measure(runtime)
    assert [(row.bits, row.n, row.queries, row.k, row.radius) for row in report.rows] == [
        (bits, n, queries, k, radius)
        for bits, n in ((48, 900), (12, 700))
        for queries in (1, 7)
        for k, radius in ((4, None), (None, 3))
    ]
    assert not report.wrong
    assert len(report.build) == 2
    for row in report.rows:
        assert len(row.seconds) == 2
        assert row.pairs == pytest.approx(row.n * row.queries / row.median)
        assert row.share is None, "an emulated device has no clock"


def test_wrong_results_are_noticed(runtime: EmulatedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    search = CudaHammingIndex.search

    def off_by_one(self: CudaHammingIndex, codes: np.ndarray, k: int) -> object:
        found = search(self, codes, k)
        found.ids[-1, -1] += 1
        return found

    monkeypatch.setattr(CudaHammingIndex, "search", off_by_one)
    assert {(row.queries, row.k) for row in measure(runtime).wrong} == {(1, 4)}, "of 7 queries the first 3 are checked"


def test_the_roofline() -> None:
    h100 = Device("H100", 0, (9, 0), 132, 80 << 30, 1_755_000_000)
    assert popcount_limit(h100, 32) == pytest.approx(3.7e12, rel=0.01)
    assert popcount_limit(h100, 33) == pytest.approx(1.85e12, rel=0.01)
    assert popcount_limit(Device("?", 0, (9, 0), 132, 80 << 30), 32) is None
