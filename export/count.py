"""Multiply-adds of an ONNX graph, counted from the graph itself.

The convention is that of torch's FlopCounterMode divided by two: convolutions, transposed convolutions and matrix
products count; biases, norms, activations and softmax don't. So a graph and the PyTorch network that it came from can
be compared number by number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import inliner, shape_inference

from queryopt.errors import ModelError

__all__ = ["GraphCount", "count_multiply_adds"]

_SHAPE_DATA_LIMIT = 1024
"""Initializers up to this many elements keep their values for shape inference (they may be shapes, axes, splits)."""


@dataclass(frozen=True)
class GraphCount:
    """Multiply-adds of one run of a graph.

    total: all of them but `packing`.
    packing: the product with powers of two that packs bits into bytes: it belongs to the file format, not to the
        network.
    by_operator: total split by ONNX operator.
    batch: the images of the run.
    """

    total: int
    packing: int
    by_operator: Mapping[str, int]
    batch: int


def count_multiply_adds(model: onnx.ModelProto, batch: int = 1) -> GraphCount:
    """Count the multiply-adds of Conv, ConvTranspose, MatMul and Gemm, in local functions too.

    Every symbolic dimension of an input becomes `batch`. ModelError where shape inference leaves an operand of these
    operators without a shape, and for control flow (If, Loop, Scan): a count that silently lacks a part is worthless.
    """
    inlined = inliner.inline_local_functions(model) if model.functions else model
    skeleton = _skeleton(inlined, batch)
    try:
        graph = shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as error:
        raise ModelError(f"the graph's shapes can't be inferred: {error}") from None
    packing_node = _packing_product(graph)
    counts: dict[str, int] = {}
    packing = 0
    shapes = _shapes(graph)
    for node in graph.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise ModelError(
                f"the graph has control flow ({node.op_type} {node.name!r}): its multiply-adds can't be counted"
            )
        counter = _COUNTERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if counter is None:
            continue
        count = counter(node, [_known(shapes, name, node) for name in (*node.input[:2], node.output[0])])
        if packing_node is not None and node.output[0] == packing_node:
            packing += count
        else:
            counts[node.op_type] = counts.get(node.op_type, 0) + count
    return GraphCount(sum(counts.values()), packing, counts, batch)


_Shape = tuple[int, ...]


def _conv(node: onnx.NodeProto, shapes: list[_Shape]) -> int:
    _, weight, output = shapes
    # weight [out, in / group, *kernel]
    return math.prod(output) * math.prod(weight[1:])


def _conv_transpose(node: onnx.NodeProto, shapes: list[_Shape]) -> int:
    data, weight, _ = shapes
    # weight [in, out / group, *kernel]: each input element meets it once
    return math.prod(data) * math.prod(weight[1:])


def _matmul(node: onnx.NodeProto, shapes: list[_Shape]) -> int:
    left, _, output = shapes
    return math.prod(output) * left[-1]


def _gemm(node: onnx.NodeProto, shapes: list[_Shape]) -> int:
    left, _, output = shapes
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(output) * left[0 if transposed else 1]


_COUNTERS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm}


def _skeleton(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """The graph with its large weights turned into inputs: shape inference copies the whole model more than once."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph, source = skeleton.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    initialized = {tensor.name for tensor in source.initializer}
    for value in source.input:
        if value.name in initialized:
            continue
        fixed = graph.input.add()
        fixed.CopyFrom(value)
        for dim in fixed.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                dim.dim_value = batch
    for tensor in source.initializer:
        if math.prod(tensor.dims) <= _SHAPE_DATA_LIMIT:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    # Outputs keep their type alone: their symbolic shapes would contradict the fixed batch.
    for value in source.output:
        graph.output.append(onnx.helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None))
    return skeleton


def _shapes(graph: onnx.GraphProto) -> dict[str, _Shape]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return shapes


def _packing_product(graph: onnx.GraphProto) -> str | None:
    """Name of the value that is cast to uint8 as output `codes`, where a MatMul makes it."""
    producers = {name: node for node in graph.node for name in node.output}
    cast = producers.get("codes")
    if cast is None or cast.op_type != "Cast":
        return None
    product = producers.get(cast.input[0])
    return cast.input[0] if product is not None and product.op_type == "MatMul" else None


def _known(shapes: Mapping[str, _Shape], name: str, node: onnx.NodeProto) -> _Shape:
    if name not in shapes:
        raise ModelError(
            f"the shape of {name!r} at {node.op_type} {node.name!r} is unknown: its multiply-adds can't be counted"
        )
    return shapes[name]
