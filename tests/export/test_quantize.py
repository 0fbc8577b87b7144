"""Sensitive layers of int8, on the frozen network with an outlier channel: found, and kept in float32.

A channel between two convolutions is made 4,096 times as large by the first one and as small again by the second: the
same network, bit for bit in float32, and a range of activations in which int8 tells the other channels from nothing.
"""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from queryopt.errors import ParityError
from queryopt.export import check_parity, export_onnx
from queryopt.export.fold import fold
from queryopt.export.onnx import model_card, with_card
from queryopt.export.options import ACTIVATIONS
from queryopt.export.pictures import parity_views
from queryopt.export.quantize import Quantiser
from queryopt.train.checkpoint import Checkpoint, load_checkpoint
from queryopt.train.network import QueryOpt
from queryopt.train.network_config import NetworkConfig

FROZEN = Path(__file__).parent.parent / "data" / "v1" / "best.safetensors"
LIMIT = 0.03
"""It was trained on eight pictures alone: of their crops, 1.5 % of the bits flip in int8 as it is."""


@pytest.fixture(scope="module")
def outlier():
    """The checkpoint with the outlier channel. Not to be changed."""
    loaded = load_checkpoint(FROZEN)
    network = loaded.network()
    block = network.backbone.stage2
    with torch.no_grad():
        block.bn1.weight[0] *= 4096
        block.bn1.bias[0] *= 4096
        block.conv2.weight[:, 0] /= 4096
    return Checkpoint(loaded.config, network.state_dict(), FROZEN)


@pytest.fixture(scope="module")
def outlier_graph(outlier, trace):
    return trace(fold(outlier.network().eval())[0])


@pytest.fixture(scope="module")
def views(outlier, pictures):
    """Views of the pictures, uint8 [200, 32, 32, 3]."""
    preprocessing = model_card(outlier.network()).preprocessing
    return np.stack([view for _, view in parity_views(pictures, preprocessing, 200, {})])


def conv_of_shape(graph, *shapes):
    """Names of the convolutions with such weights, in the graph's order."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = [node.name for node in graph.node if node.op_type == "Conv" and sizes[node.input[1]] in shapes]
    assert len(found) == len(shapes)
    return found


def test_it_is_the_same_network(outlier, pictures):
    before = load_checkpoint(FROZEN).network().eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(outlier.network().eval()(x), before(x))


def test_without_the_fallback_the_gate_refuses(outlier, outlier_graph, views, pictures, tmp_path):
    quantised, report = Quantiser(outlier_graph, views[::25], 1, checked=views, most_kept=0).quantise()
    assert report.kept == ()
    assert report.first_flip_rate == report.flip_rate > LIMIT
    path = tmp_path / "model.onnx"
    path.write_bytes(with_card(quantised, replace(model_card(outlier.network()), precision="int8")))
    with pytest.raises(ParityError, match="bits differ"):
        check_parity(outlier, path, pictures, threads=1).require(LIMIT)


@pytest.mark.needs("VNNI")
def test_with_it_the_two_layers_beside_the_outlier_stay_and_the_gate_lets_it_through(
    outlier, outlier_graph, picture_folder, tmp_path
):
    options = {"precision": "int8", "calibrate": picture_folder, "pictures": picture_folder, "threads": 1}
    result = export_onnx(outlier, tmp_path / "model.onnx", max_flip_rate=LIMIT, **options)
    done = result.quantisation
    sensitive = conv_of_shape(outlier_graph.graph, (16, 8, 3, 3), (16, 16, 3, 3))
    assert set(done.kept[:2]) == set(sensitive)
    assert len(done.kept) <= 4
    assert done.flip_rate <= LIMIT / 2 < done.first_flip_rate
    assert 0 < done.measured < len(done.layers), "fewer sessions than one for each layer"
    assert [name for name, _ in done.sensitivity[:2]] == list(done.kept[:2])
    assert result.card.quantisation["kept"] == list(done.kept)
    model = onnx.load(result.path)
    constants = {tensor.name for tensor in model.graph.initializer}
    weights = {node.name: node.input[1] in constants for node in model.graph.node if node.op_type == "Conv"}
    assert {name for name, plain in weights.items() if plain} == set(done.kept) & set(weights)
    assert all(report.flip_rate <= LIMIT for report in result.parities)


def test_where_the_gate_says_no_more_layers_stay(outlier, picture_folder, tmp_path, caplog):
    """Calibrated on one heron alone, what its views decide is too little for the finches."""
    calibrate = tmp_path / "heron"
    calibrate.mkdir()
    shutil.copy(picture_folder / "heron" / "2.jpg", calibrate)
    options = {"precision": "int8", "calibrate": calibrate, "pictures": picture_folder, "threads": 1}
    with caplog.at_level(logging.WARNING, "queryopt"):
        result = export_onnx(outlier, tmp_path / "a.onnx", max_flip_rate=0.035, backend="onnxruntime", **options)
    done = result.quantisation
    assert (done.refusals, len(done.kept)) == (1, 4)
    assert result.card.quantisation["refusals"] == 1
    assert result.parity.flip_rate <= 0.035
    (message,) = [record.getMessage() for record in caplog.records]
    assert "is above the limit 3.50e-02" in message
    assert message.endswith("again with at least 4 layers in float32")
    with pytest.raises(ParityError, match="no model was written"):
        export_onnx(outlier, tmp_path / "b.onnx", max_flip_rate=1e-4, backend="onnxruntime", **options)


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_nothing_is_measured_where_the_bits_agree(activations, outlier_graph, views):
    quantiser = Quantiser(outlier_graph, views[::25], 1, activations, checked=views, target_flip_rate=0.5)
    _, report = quantiser.quantise()
    assert (report.kept, report.measured, report.sensitivity) == ((), 0, ())


@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_every_product_runs_when_it_is_the_only_one_that_is_quantised(activations, trace):
    """A fold gives each head of attention its matrix: ONNX Runtime has no integer product for such a stack of them."""
    torch.manual_seed(0)
    network = QueryOpt(NetworkConfig(12, backbone="small", image_size=64, dim=128, heads=8, feedforward=256)).eval()
    graph = trace(fold(network)[0])
    sizes = {tensor.name: len(tensor.dims) for tensor in graph.graph.initializer}
    assert 3 in {sizes.get(node.input[1]) for node in graph.graph.node if node.op_type == "MatMul"}
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    quantiser = Quantiser(graph, pixels, 1, activations)
    products = {node.name for node in graph.graph.node if node.op_type in ("MatMul", "Gemm")}
    alone = [name for name in quantiser.layers if name in products]
    assert len(alone) > 4
    assert all(0 < quantiser.measure.error((name,)) < 1 for name in alone)


def test_the_worst_layers_are_those_that_are_worst_when_each_is_measured(outlier_graph, views):
    quantiser = Quantiser(outlier_graph, views[::25], 1, checked=views)
    layers, measure = quantiser.layers, quantiser.measure
    worst = measure.worst_first(layers)
    found = [next(worst) for _ in range(4)]
    assert len(measure.errors) < len(layers)
    alone = {name: measure.error((name,)) for name in layers}
    assert found == sorted(layers, key=lambda name: -alone[name])[:4]
    assert sorted([*found, *worst]) == sorted(layers)
