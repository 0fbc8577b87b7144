import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from queryopt.errors import ModelError
from queryopt.export.count import count_multiply_adds
from queryopt.export.onnx import build_graph
from queryopt.export.strip import multiply_adds


def model_of(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in dict(weights).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_a_grouped_strided_convolution():
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    model = model_of([node], {"x": ["batch", 4, 10, 8]}, {"y": None}, {"w": [6, 2, 3, 3]})
    # 6 x 5 x 4 outputs, each of 2 channels x 3 x 3.
    assert count_multiply_adds(model).total == 6 * 5 * 4 * 2 * 9
    assert count_multiply_adds(model, batch=3).total == 3 * 6 * 5 * 4 * 2 * 9


def test_a_transposed_convolution_counts_each_input_against_the_kernel():
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    model = model_of([node], {"x": ["batch", 5, 7, 7]}, {"y": None}, {"w": [5, 3, 4, 4]})
    assert count_multiply_adds(model).by_operator == {"ConvTranspose": 5 * 7 * 7 * 3 * 16}


def test_broadcast_matrix_products_and_gemm():
    nodes = [
        helper.make_node("MatMul", ["q", "k"], ["s"]),
        helper.make_node("Gemm", ["a", "w"], ["y"], transA=1, transB=1),
    ]
    inputs = {"q": [1, 8, 3, 4], "k": ["batch", 8, 4, 5], "a": [6, 2]}
    model = model_of(nodes, inputs, {"s": None, "y": None}, {"w": [7, 6]})
    assert count_multiply_adds(model, batch=2).by_operator == {"MatMul": 2 * 8 * 3 * 5 * 4, "Gemm": 2 * 7 * 6}


def test_large_weights_and_reshapes_by_constants_are_followed():
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    model = model_of(nodes, {"x": ["batch", 6, 4]}, {"y": None}, {"w": [12, 2000]})
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 2, 12]), "shape"))
    assert count_multiply_adds(model).total == 2 * 12 * 2000


def test_an_unknown_shape_is_an_error_and_not_a_smaller_count():
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    model = model_of(nodes, {"x": [4, 6]}, {"y": None}, {"w": [6, 2]})
    model.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [2]))
    with pytest.raises(ModelError, match=r"'r' at MatMul.*unknown"):
        count_multiply_adds(model)


def test_control_flow_is_an_error():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = model_of([node], {"x": [1]}, {"y": [1]})
    model.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    with pytest.raises(ModelError, match="control flow"):
        count_multiply_adds(model)


def test_shapes_that_contradict_are_an_error():
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 3]}, {"y": None}, {"w": [4, 5]})
    with pytest.raises(ModelError, match="shapes can't be inferred"):
        count_multiply_adds(model)


def test_counting_leaves_the_model_as_it_is(graph):
    before = graph.SerializeToString(deterministic=True)
    count_multiply_adds(graph)
    assert graph.SerializeToString(deterministic=True) == before


def test_the_packing_product_is_counted_apart(graph):
    count = count_multiply_adds(graph)
    assert count.packing == 12 * 2
    assert count.total == sum(count.by_operator.values())


def test_the_paper_s_network_has_torch_s_count_in_its_graph_folded_and_not(full_network, full_model):
    network, _, report = full_network
    count = count_multiply_adds(build_graph(network))
    assert count.total == multiply_adds(network, branches=1) > 5.2e9
    assert count.packing == 24
    count = count_multiply_adds(onnx.load(full_model))
    assert count.total == report.after < 5.025e9
    assert count.packing == 24


def test_local_functions_are_counted():
    function = helper.make_function(
        "local",
        "product",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 20)],
    )
    model = model_of(
        [helper.make_node("product", ["x", "w"], ["y"], domain="local")], {"x": [2, 3]}, {"y": None}, {"w": [3, 5]}
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    assert count_multiply_adds(model).total == 2 * 3 * 5
