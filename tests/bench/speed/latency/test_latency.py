"""qo-bench latency's parts on the tiny model: interleaved, counted from the graph, drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from queryopt.bench.speed.harness import Schedule
from queryopt.bench.speed.latency.contenders import PEERS, check_peers, open_model, open_peer
from queryopt.bench.speed.latency.layers import profile_layers
from queryopt.bench.speed.latency.peak import Machine
from queryopt.bench.speed.latency.plot import plot_latency
from queryopt.bench.speed.latency.report import measure_latency, time_models
from queryopt.bench.speed.untrained import Untrained
from queryopt.errors import ModelError, UsageError
from queryopt.export.count import count_multiply_adds

MODEL = Path(__file__).parents[3] / "data" / "v1" / "model.onnx"


class Recorder:
    """A contender that notes when it is called."""

    precision, image_size, graph, runs_on = "fp32", 8, None, "nothing"

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def prepare(self, pixels):
        return pixels

    def run(self, batch):
        self.calls.append((self.name, len(batch)))

    def close(self):
        pass


def test_all_get_the_same_batch_in_turn() -> None:
    calls: list[tuple[str, int]] = []
    recorders = [Recorder("a", calls), Recorder("b", calls)]
    timings = time_models(recorders, 3, Schedule(rounds=2, seconds=1e-9, first_calls=3, warm_up=1))
    names = [name for name, _ in calls]
    assert names == ["a"] * 3 + ["b"] * 3 + ["a", "a", "b", "b"] + ["b", "b", "a", "a"]
    assert {size for _, size in calls} == {3}
    assert [len(timing.calls) for timing in timings] == [2, 2]


def test_report(tmp_path: Path) -> None:
    contenders = [
        open_peer("eager", Untrained("tiny"), 1),
        open_peer("eager-bf16", Untrained("tiny"), 1),
        open_model(MODEL, "auto", 1),
    ]
    report = measure_latency(contenders, [1, 4], threads=1, rounds=2, seconds=0.01, layers=True)
    assert [row["batch"] for row in report.rows] == [1, 1, 1, 4, 4, 4]
    assert [row["wall_ratio"] for row in report.rows if row["name"] == "PyTorch eager"] == [1, 1]
    model = report.rows[-1]
    assert model["multiply_adds"] == count_multiply_adds(onnx.load(MODEL), 4).total
    assert model["flops"] == pytest.approx(2 * model["multiply_adds"] / model["p50"])
    assert model["images_per_second"] == pytest.approx(4 / model["p50"])
    assert model["wall_ratio"] == pytest.approx(report.rows[3]["p50"] / model["p50"])
    assert model["p50"] <= model["p95"] <= model["p99"]
    assert set(report.peaks.flops) == {"fp32", "bf16"}
    assert report.rows[1]["flops"] is None  # there is no graph to count
    assert set(report.layers) == {model["name"]}
    assert json.loads(json.dumps(report.to_dict()))["paper_table_4"][0]["name"] == "ExchNet"
    plot_latency(report, tmp_path / "latency.png")
    with Image.open(tmp_path / "latency.png") as picture:
        assert picture.width > 1000
    for contender in contenders:
        contender.close()


def test_layers_hold_all_the_products_of_the_graph() -> None:
    groups = profile_layers(MODEL, 2, 1)
    counted = count_multiply_adds(onnx.load(MODEL), 2)
    products = {group.name: group.operations for group in groups}
    # Products of constants are done when the session is made.
    assert products["matrix products"] == pytest.approx(2 * counted.by_operator["MatMul"], rel=0.05)
    assert products["transposed convolutions"] == 2 * counted.by_operator["ConvTranspose"]
    # This model's few channels are padded to what a vector of the processor holds.
    assert sum(products.values()) > 2 * counted.total
    assert all(group.bytes > 0 for group in groups)
    assert {group.name for group in groups} >= {"matrix products", "elementwise and moves"}


def test_plain_resnet() -> None:
    contender: Any = open_peer("resnet50", Untrained(), 1)
    scores = contender.run(contender.prepare(np.zeros((1, 224, 224, 3), np.uint8)))
    assert scores[0].shape == (1, 1000)
    assert contender.graph is not None
    assert count_multiply_adds(onnx.load(contender.graph)).total == 4_089_184_256  # torchvision's 4.09 G
    contender.close()


def test_peaks_of_what_is_asked() -> None:
    machine = Machine({"fp32", "int8"}, 1)
    machine.measure()
    peaks = machine.peaks()
    assert set(peaks.flops) == {"fp32", "int8"}
    assert min(peaks.flops.values()) > 0
    assert peaks.bytes_per_second > 0


def test_what_can_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean eager"):
        check_peers(("eagre",))
    check_peers(tuple(PEERS))
    with pytest.raises(ModelError, match="no such model"):
        open_model(tmp_path / "none.onnx", "auto", 1)
