import json
from contextlib import closing

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from queryopt.errors import MissingError, UsageError
from queryopt.export import export_onnx
from queryopt.export.cli import main
from queryopt.export.fold import fold
from queryopt.export.onnx import model_card, with_card
from queryopt.export.precision import head_nodes, lower_precision
from queryopt.runtime.backends import open_backend


@pytest.fixture(scope="module")
def folded_graph(network, trace):
    return trace(fold(network)[0])


def types(model):
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    known = {value.name: value.type.tensor_type.elem_type for value in values}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize(("precision", "element"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_strongly_typed_with_islands(folded_graph, precision, element):
    lowered = lower_precision(folded_graph, precision)
    known = types(lowered)
    head = head_nodes(lowered.graph)
    for node in lowered.graph.node:
        floats = {TensorProto.FLOAT, element}
        inputs = {known[name] for name in node.input} & floats
        assert len(inputs) < 2, f"{node.name}: inputs of two types"
        if node.op_type in ("Conv", "ConvTranspose"):
            assert known[node.output[0]] == element
        if node.op_type in ("Softmax", "LayerNormalization", "ReduceL2", "Div"):
            assert known[node.output[0]] == TensorProto.FLOAT
        if node.op_type == "MatMul":
            assert known[node.output[0]] == (TensorProto.FLOAT if node.name in head else element)
    assert known["logits"] == TensorProto.FLOAT
    first = next(node for node in lowered.graph.node if "images" in node.input)
    assert first.op_type == "Cast"


def test_small_weights_of_the_first_convolution_keep_their_digits(folded_graph):
    """Folding divides them by the pixels' spread: float16 would hold many as subnormal numbers."""
    lowered = lower_precision(folded_graph, "fp16")
    conv = next(node for node in lowered.graph.node if node.op_type == "Conv")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in lowered.graph.initializer}
    assert 0.25 < np.abs(weights[conv.input[1]]).max() <= 1


def test_a_weight_that_float16_cannot_hold(folded_graph):
    model = onnx.ModelProto()
    model.CopyFrom(folded_graph)
    name = [node for node in model.graph.node if node.op_type == "Conv"][1].input[1]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e9), name))
    with pytest.raises(UsageError, match="more than fp16 can hold"):
        lower_precision(model, "fp16")


@pytest.mark.needs("VNNI")
def test_every_precision_is_the_same_model(network, folded_graph, save_run, picture_folder, tmp_path):
    pytest.importorskip("openvino")
    run = save_run(network)
    card, size = model_card(network), len(with_card(folded_graph, model_card(network)))
    limits = {"fp16": 1e-3, "int8": 0.1}
    for precision, limit in limits.items():
        path = tmp_path / f"{precision}.onnx"
        options = {"calibrate": picture_folder} if precision == "int8" else {}
        result = export_onnx(
            run, path, pictures=picture_folder, precision=precision, max_flip_rate=limit, threads=1, **options
        )
        assert result.card.precision == precision
        assert result.card.fingerprint == card.fingerprint
        assert result.size < 0.8 * size
        assert result.parity.bits_compared >= 20_000
        images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
        outputs = []
        for backend in ("onnxruntime", "openvino"):
            with closing(open_backend(path, backend, threads=1)) as opened:
                outputs.append(opened.run(images))
        np.testing.assert_allclose(outputs[0].logits, outputs[1].logits, atol=0.1)
    check_int8(path, result, np.uint8)
    assert "QLinearConv" in optimised_operators(path, tmp_path)  # else int8 is slower than float32 there
    (tmp_path / "optimised.onnx").unlink()
    assert {p.name for p in tmp_path.iterdir()} == {"run", "fp16.onnx", "int8.onnx"}


def test_int8_for_tensorrt(network, save_run, picture_folder, tmp_path):
    options = {"calibrate": picture_folder, "activations": "int8", "parity": False, "threads": 1}
    run = save_run(network)
    result = export_onnx(run, tmp_path / "a.onnx", precision="int8", **options)
    check_int8(result.path, result, np.int8)
    for wrong in ({"precision": "int8", "activations": "int4"}, {"precision": "fp16", "activations": "int8"}):
        with pytest.raises(UsageError, match="activations are"):
            export_onnx(run, tmp_path / "b.onnx", **wrong)


def optimised_operators(path, folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node}


def check_int8(path, result, activations):
    """Weights symmetric and per channel; nothing in the packing of bits."""
    model = onnx.load(path)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    ends = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert ends
    for node in ends:
        zero = constants[node.input[2]]
        assert zero.dtype == (np.int8 if node.input[0] in constants else activations)
        assert zero.dtype == np.uint8 or not zero.any()
    convolutions = {n.input[1] for n in model.graph.node if n.op_type == "Conv"}
    scales = [constants[node.input[1]] for node in ends if node.output[0] in convolutions]
    assert scales
    assert all(scale.ndim == 1 and len(scale) > 1 for scale in scales)
    packing = next(node for node in model.graph.node if "codes" in node.output)
    product = next(node for node in model.graph.node if packing.input[0] in node.output)
    assert product.op_type == "MatMul"
    assert constants[product.input[1]].dtype == np.float32
    assert result.card.quantisation["pictures"] == 8
    assert result.card.quantisation["layers"] == len(result.quantisation.layers) > 10


def test_bf16_is_refused_where_it_cannot_be_computed(network, folded_graph, tmp_path):
    from dataclasses import replace

    path = tmp_path / "bf16.onnx"
    path.write_bytes(with_card(lower_precision(folded_graph, "bf16"), replace(model_card(network), precision="bf16")))
    with pytest.raises(MissingError, match="can't compute in bfloat16"):
        open_backend(path, "onnxruntime", threads=1)


def test_command(network, save_run, picture_folder, tmp_path):
    run = save_run(network)
    options = ["--ckpt", str(run), "--images", str(picture_folder), "--threads", "1", "--out", str(tmp_path / "a.onnx")]
    for more, says in (
        (["--precision", "fp61"], "did you mean fp16"),
        (["--precision", "fp16", "--calibrate", str(picture_folder)], "for precision int8"),
        (["--precision", "int8", "--calibrate", str(tmp_path)], "with --calibrate FOLDER"),
    ):
        done = CliRunner().invoke(main, options + more)
        assert done.exit_code in (2, 3)
        assert says in done.stderr
    done = CliRunner().invoke(main, [*options, "--precision", "fp16", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["card"]["precision"] == "fp16"
