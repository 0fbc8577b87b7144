"""The benchmark of engines, on an emulated device: its figures, not its times."""

from pathlib import Path

import numpy as np
import pytest

from emulated_cuda import EmulatedRuntime
from emulated_tensorrt import EmulatedBackend
from queryopt.bench.speed.gpu.engine import EngineRow, measure_batches
from queryopt.bench.speed.gpu.section import Turn
from queryopt.errors import MismatchError
from queryopt.runtime.tensorrt import Profile

MODEL = Path(__file__).parents[3] / "data" / "v1" / "model.onnx"


@pytest.fixture
def backend() -> EmulatedBackend:
    return EmulatedBackend(MODEL, Profile(1, 4, 8), EmulatedRuntime(deferred=True))


def test_figures(backend: EmulatedBackend) -> None:
    said: list[str] = []
    report = measure_batches(backend, [1, 8], rounds=2, turn=Turn(log=said.append))
    rows = report.values["rows"]
    assert [row["batch"] for row in rows] == [1, 8]
    assert not report.problems
    assert report.values["precision"] == "fp32"
    assert [line.partition(":")[0] for line in said] == ["batches of 8", "batches of 1"]
    for row in rows:
        assert len(row["alone"]) == len(row["overlapped"]) == 2
        assert row["images_per_second"] == pytest.approx(row["batch"] / np.median(row["overlapped"]))
        assert row["latency"] == pytest.approx(np.median(row["alone"]))


def test_the_largest_batch_is_measured_first(backend: EmulatedBackend) -> None:
    turn = Turn(0.0)
    report = measure_batches(backend, [1, 8], rounds=1, turn=turn)
    assert [row["batch"] for row in report.values["rows"]] == [8]
    assert turn.cut == ["batch 1"]


def test_the_gain_is_the_median_of_each_rounds_ratio() -> None:
    assert EngineRow(4, (2.0, 3.0, 8.0), (1.0, 2.0, 2.0), True).gain == 2.0


def test_codes_that_depend_on_how_they_are_run(backend: EmulatedBackend) -> None:
    class Turned(EmulatedBackend):
        def run(self, images):
            return super().run(images[::-1])

    wrong = Turned(MODEL, Profile(1, 4, 8), EmulatedRuntime(deferred=True))
    report = measure_batches(wrong, [8], rounds=1)
    assert [row["same"] for row in report.values["rows"]] == [False]
    assert report.problems == ["batches of 8: the codes depend on how batches are run: this is a bug"]


def test_a_batch_outside_of_the_profile(backend: EmulatedBackend) -> None:
    with pytest.raises(MismatchError, match="batches of 9"):
        measure_batches(backend, [1, 9])
