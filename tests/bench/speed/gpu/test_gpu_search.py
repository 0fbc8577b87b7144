"""The benchmark of search on a GPU, on kernels that run on the CPU: its figures, not its times."""

import re
from dataclasses import replace

import numpy as np
import pytest

from emulated_cuda import EmulatedRuntime
from queryopt.bench.speed.gpu.peers import TorchCuda
from queryopt.bench.speed.gpu.search import measure_search, memory_limit, popcount_limit
from queryopt.bench.speed.gpu.section import GpuOptions, SectionReport, Turn
from queryopt.bench.speed.search.contender import Task
from queryopt.bench.speed.search.data import DataSpec
from queryopt.runtime.cuda import Device
from queryopt.runtime.search.gpu import CudaHammingIndex, Tuning

SMALL = Tuning(sample=64, min_piece=64, select_threads=64)
DATA = (DataSpec("clustered", 48, 900, queries=5, classes=3), DataSpec("equal", 12, 700, queries=5))
BOTH = (Task(4), Task(None, 3))


@pytest.fixture(scope="module")
def runtime() -> EmulatedRuntime:
    return EmulatedRuntime(flags=("-O0",))


def measure(runtime: EmulatedRuntime) -> SectionReport:
    return measure_search(GpuOptions(runtime, 2, DATA, (1, 7), BOTH, ()), Turn(), SMALL)


def test_figures(runtime: EmulatedRuntime) -> None:
    report = measure(runtime)
    rows = report.values["rows"]
    assert [(row["bits"], row["n"], row["queries"], row["k"], row["radius"]) for row in rows] == [
        (bits, n, queries, k, radius)
        for bits, n in ((48, 900), (12, 700))
        for queries in (1, 7)
        for k, radius in ((4, None), (None, 3))
    ]
    assert not report.problems
    assert len(report.values["build"]) == 2
    for row in rows:
        assert row["right"]
        assert len(row["seconds"]) == 2
        assert row["pairs"] == pytest.approx(row["n"] * row["queries"] / row["median"])
        assert row["shares"] == {}, "an emulated device has no clock"


def test_wrong_results_are_noticed(runtime: EmulatedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    search = CudaHammingIndex.search

    def off_by_one(self: CudaHammingIndex, codes: np.ndarray, k: int) -> object:
        found = search(self, codes, k)
        found.ids[-1, -1] += 1
        return found

    monkeypatch.setattr(CudaHammingIndex, "search", off_by_one)
    report = measure(runtime)
    wrong = {(row["queries"], row["k"]) for row in report.values["rows"] if not row["right"]}
    assert wrong == {(1, 4)}, "of 7 queries the first 3 are checked"
    assert [problem.partition(":")[0] for problem in report.problems] == [
        f"queryopt, {bits} bits, 1 query" for bits in (48, 12)
    ]


def test_what_there_is_no_time_for_is_left_out(runtime: EmulatedRuntime) -> None:
    kept: list[int] = []
    turn = Turn(0.0, keep=lambda report: kept.append(len(report.values["rows"])))
    report = measure_search(GpuOptions(runtime, 1, DATA, (1, 7), (Task(4),), ()), turn, SMALL)
    rows = [(row["bits"], row["queries"]) for row in report.values["rows"]]
    assert rows == [(48, 1)], "the first is measured in any case"
    assert kept == [1]
    assert [what.split(",")[0] for what in turn.cut] == ["clustered", "equal"]


def test_the_roofline() -> None:
    h100 = Device("H100", 0, (9, 0), 132, 80 << 30, 1_755_000_000)
    assert popcount_limit(h100, 32) == pytest.approx(3.7e12, rel=0.01)
    assert popcount_limit(h100, 33) == pytest.approx(1.85e12, rel=0.01)
    unknown = Device("?", 0, (9, 0), 132, 80 << 30)
    assert popcount_limit(unknown, 32) is None
    assert memory_limit(unknown, 32, 10) is None
    assert memory_limit(replace(h100, bandwidth=3_352_000_000_000), 48, 10) == pytest.approx(4.19e12, rel=0.001)


def test_beside_others(runtime: EmulatedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor takes part, PyTorch's product runs on it here, and FAISS without a GPU is left out by name."""
    monkeypatch.setattr(TorchCuda, "device", "cpu")
    said: list[str] = []
    report = measure_search(GpuOptions(runtime, 2, DATA[:1], (7,), BOTH), Turn(log=said.append), SMALL)
    rows = report.values["rows"]
    assert [(row["searcher"].split(",")[0], row["right"]) for row in rows[:3]] == [
        ("queryopt", True),
        ("torch", True),
        ("queryopt", True),
    ]
    assert rows[2]["searcher"].startswith("queryopt, CPU, ")
    assert [row["k"] for row in rows] == [4, 4, 4, None, None, None]
    (left,) = report.values["left_out"]
    assert (left["searcher"], left["bits"], left["n"], left["what"]) == ("faiss", 48, 900, "all searches")
    assert re.search("is one for the CPU|sees no GPU", left["reason"])
    assert any(line.startswith("without faiss (all searches): ") for line in said)


def test_a_search_that_a_peer_cannot_do_is_left_out(runtime: EmulatedRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch runs out of memory in the larger of two searches: the others go on, and the smaller is measured."""

    def full(self: TorchCuda, queries: object, radius: int) -> object:
        raise RuntimeError("CUDA out of memory. Tried to allocate 7 GiB\nand more")

    monkeypatch.setattr(TorchCuda, "device", "cpu")
    monkeypatch.setattr(TorchCuda, "within", full)
    report = measure_search(GpuOptions(runtime, 1, DATA[:1], (2,), BOTH, ("torch",)), Turn(), SMALL)
    assert [row["searcher"] for row in report.values["rows"]] == ["queryopt", "torch, cpu", "queryopt"]
    (left,) = report.values["left_out"]
    assert left["reason"] == "CUDA out of memory. Tried to allocate 7 GiB"
    assert left["what"] == "radius 3, 2 queries a call"
