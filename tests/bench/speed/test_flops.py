"""Counts of multiply-adds, against the paper's and those of fvcore 0.1.5 on the published code.

tests/train/test_network.py holds the numbers of parameters.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from queryopt.bench.speed.flops import FlopReport, count_flops, flop_report
from queryopt.train.network import QueryOpt
from queryopt.train.network_config import NetworkConfig


@pytest.fixture(scope="module")
def report() -> FlopReport:
    return flop_report(NetworkConfig(12))


@pytest.mark.parametrize(
    ("bits", "paper", "torchs"),
    [
        (12, 5_233_365_237, 5_209_600_256),
        (24, 5_258_110_197, 5_234_276_096),
        (32, 5_274_606_837, 5_250_726_656),
        (48, 5_307_600_117, 5_283_627_776),
    ],
)
def test_inference(bits: int, paper: int, torchs: int) -> None:
    count = count_flops(NetworkConfig(bits))
    assert (count.paper, count.torch, count.queries) == (paper, torchs, bits)


@pytest.mark.parametrize(
    ("bits", "one_branch"), [(12, 5_267_497_461), (24, 5_292_242_421), (32, 5_308_739_061), (48, 5_341_732_341)]
)
def test_training(bits: int, one_branch: int) -> None:
    config = NetworkConfig(bits)
    assert count_flops(config, training=True, branches=1).paper == one_branch
    every = count_flops(config, training=True)
    assert (every.queries, every.paper) == (96, 5_440_712_181)


def test_parts_are_those_that_were_computed_by_hand(report: FlopReport) -> None:
    bits, parts = 12, report.inference.parts
    assert parts["backbone"].torch == 4_087_136_256
    assert parts["fusion"].torch == 25_690_112 + 51_380_224 + 51_380_224 + 205_520_896
    assert parts["projection"].torch == 77_070_336 + 38_535_168
    assert parts["encoder"].torch == 108_380_160 + 23_049_600 + 23_049_600 + 36_126_720 + 385_351_680
    assert parts["decoder"].torch == 2 * 36_126_720 + bits * (2 * 147_456 + 2 * 94_080 + 1_572_864)
    assert parts["head"].torch == 384 * bits


def test_conventions_differ_by_the_norms_and_the_mask(report: FlopReport) -> None:
    layer_norms = 5 * 384 * (2 * 245 + 3 * 12)
    batch_norms = 22_754_816
    assert report.inference.paper - report.inference.torch == batch_norms + layer_norms + 245
    assert (
        report.training_one_branch.paper - report.training_one_branch.torch == batch_norms // 2 * 5 + layer_norms + 245
    )


def test_the_methods_with_a_hash_layer_cost_the_backbone_and_the_layer() -> None:
    report = flop_report(NetworkConfig(24, method="adsh", classes=200))
    body, layer = 4_087_136_256, 2048 * 24
    assert report.inference.torch == body + layer
    assert report.training.torch == body + layer  # one branch, and the classification head is left out
    assert report.inference.parts["classifier"].parameters == 24 * 200 + 200
    assert report.inference.parts["head"].parameters == layer + 24
    assert report.inference.mask == 0
    assert "mask" not in report.conventions
    assert list(report.passes()) == ["inference", "training, 1 branch"]


def test_parameters_are_all_of_the_network(report: FlopReport) -> None:
    with torch.device("meta"):
        parameters = list(QueryOpt(report.config).parameters())
    assert report.parameters == sum(p.numel() for p in parameters)
    assert report.trainable == sum(p.numel() for p in parameters if p.requires_grad) < report.parameters


def test_rolled_queries_cost_the_decoder_and_the_head_alone(report: FlopReport) -> None:
    one, every = report.training_one_branch.parts, report.training.parts
    assert {name for name in one if one[name] != every[name]} == {"decoder", "head"}


def test_table_has_the_papers_rows_and_ours(report: FlopReport) -> None:
    rows = {
        row.name: (f"{row.parameters / 1e6:.2f}", f"{row.training / 1e9:.2f}", f"{row.inference / 1e9:.2f}")
        for row in report.comparison()
    }
    assert rows == {
        "ExchNet": ("40.43", "7.67", "7.67"),
        "SEMICON": ("42.42", "7.09", "7.09"),
        "AGMH": ("35.56", "8.61", "8.61"),
        "the paper's own (12 bits)": ("31.71", "5.27", "5.23"),
        "this network, 1 branch": ("31.71", "5.27", "5.23"),
        "this network, 8 branches": ("31.71", "5.44", "5.23"),
    }


@pytest.mark.parametrize(
    "settings", [{"fusion": False}, {"queries": False}, {"fusion": False, "queries": False}, {"branches": 1}]
)
def test_ablations_cost_less(settings: dict[str, bool | int], report: FlopReport) -> None:
    ablated = flop_report(NetworkConfig(12, **settings))  # type: ignore[arg-type]
    assert ablated.training.torch < report.training.torch
    assert ablated.trainable <= report.trainable
    assert len(ablated.comparison()) == 4 + (1 if ablated.config.branches == 1 else 2)


def test_counting_leaves_nothing_out() -> None:
    """Every multiply-add of the whole network lies in one of its parts."""
    config = NetworkConfig(7, backbone="tiny", dim=32, feedforward=64, image_size=48, branches=5)
    network = QueryOpt(config).train()
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(2, 3, 48, 48))
    # A batch projects the queries once: 5 * 7 queries of 32 x 32.
    expected = 2 * count_flops(config, training=True).torch - 35 * 32 * 32
    assert counter.get_total_flops() // 2 == expected
