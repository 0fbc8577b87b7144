"""A graph in float16 or bfloat16, with islands in float32: strongly typed, so every runtime computes what is written.

Convolutions, products and what lies between them are lowered. Softmax, LayerNormalization, sums and roots stay in
float32, as does the head with the packing of bits: a bit is the sign of a small number that comes out of it.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from queryopt.errors import UsageError

__all__ = ["head_nodes", "lower_precision"]

_ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_LARGEST = {"fp16": 65504.0, "bf16": 3.3e38}

_LOWERED = frozenset(
    {"Conv", "ConvTranspose", "MatMul", "Gemm", "Relu", "Add", "MaxPool", "Concat", "Pad", "Reshape", "Transpose"}
    | {"DepthToSpace", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Gather", "Identity"}
    | {"Clip", "Gelu", "HardSigmoid", "HardSwish", "Mul", "Sigmoid"}
)
"""Operators that are computed in the lower precision, where they compute with floats."""

_BF16_OPSET = 22
"""The first in which convolutions and pooling take bfloat16; for what is in these graphs, nothing else changed."""

_MOST_BALANCED = 6
"""Pixels are scaled by 2^-6 at most: what is a grey level then still is far from what float16 can't hold."""


def lower_precision(model: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """A copy of a float32 graph in fp16 or bf16: see the module. Inputs and outputs keep their types.

    The pixels' own operators stay in float32. Where folding made the first convolution's weights so small that float16
    has few digits for them, a power of two moves from the pixels into the weights, which is exact. UsageError for
    another precision, or a weight that it can't hold.
    """
    if precision not in _ELEMENT:
        raise UsageError(f"precision is {precision!r}: {' or '.join(_ELEMENT)}")
    lowered = onnx.ModelProto()
    lowered.CopyFrom(model)
    graph = lowered.graph
    _constants_to_initializers(graph)
    pixels, head = _pixel_nodes(graph), head_nodes(graph)
    _balance_first_convolution(graph, pixels)
    kinds = _element_types(lowered)
    low = {
        output
        for node in graph.node
        if node.op_type in _LOWERED and node.name not in pixels | head
        for output in node.output
        if kinds.get(output) == TensorProto.FLOAT
    }
    _insert_casts(graph, low, kinds, precision)
    if precision == "bf16":
        for entry in lowered.opset_import:
            if entry.domain in ("", "ai.onnx"):
                entry.version = max(entry.version, _BF16_OPSET)
    onnx.checker.check_model(lowered, full_check=True)
    return lowered


def head_nodes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes from the last product that isn't packing on; from the LayerNormalization before it, where no
    other product lies between them.
    """
    packed = {node.input[0] for node in graph.node if "codes" in node.output}
    ends = [
        node
        for node in graph.node
        if node.op_type in ("Conv", "MatMul", "Gemm", "LayerNormalization") and node.output[0] not in packed
    ]
    start = ends[-2:] if len(ends) > 1 and ends[-2].op_type == "LayerNormalization" else ends[-1:]
    reached = {output for node in start for output in node.output}
    names = {node.name for node in start}
    for node in graph.node:
        if reached & set(node.input):
            names.add(node.name)
            reached |= set(node.output)
    return names


def _pixel_nodes(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes before the first convolution."""
    first = next(at for at, node in enumerate(graph.node) if node.op_type == "Conv")
    return {node.name for node in graph.node[:first]}


def _balance_first_convolution(graph: onnx.GraphProto, pixels: set[str]) -> None:
    at, first = next((at, node) for at, node in enumerate(graph.node) if node.op_type == "Conv")
    weight = next(tensor for tensor in graph.initializer if tensor.name == first.input[1])
    array = numpy_helper.to_array(weight)
    largest = float(np.abs(array).max())
    exponent = min(-math.ceil(math.log2(largest)), _MOST_BALANCED) if largest else 0
    if exponent < 1:
        return
    weight.CopyFrom(numpy_helper.from_array(array * np.float32(2.0**exponent), weight.name))
    graph.initializer.append(numpy_helper.from_array(np.array(2.0**-exponent, np.float32), "pixel_scale"))
    scale = helper.make_node("Mul", [first.input[0], "pixel_scale"], ["scaled_pixels"], name="scale_pixels")
    first.input[0] = "scaled_pixels"
    graph.node.insert(at, scale)
    pixels.add(scale.name)


def _insert_casts(graph: onnx.GraphProto, low: set[str], kinds: dict[str, int], precision: str) -> None:
    """Give every float input of a node the type of its outputs (low: those of lower precision).

    Constants are converted, all else passes a Cast.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    made: dict[str, str] = {}

    def converted(name: str, kind: int) -> str:
        if name not in made:
            made[name] = f"{name}_{TensorProto.DataType.Name(kind).lower()}"
            if name in constants:
                array = numpy_helper.to_array(constants[name])
                largest = float(np.abs(array).max(initial=0))
                if not largest <= _LARGEST[precision]:
                    raise UsageError(f"a weight of {largest:.3g} ({name}) is more than {precision} can hold")
                lower = array.astype(helper.tensor_dtype_to_np_dtype(kind))
                graph.initializer.append(numpy_helper.from_array(lower, made[name]))
            else:
                nodes.append(helper.make_node("Cast", [name], [made[name]], name=f"{made[name]}_cast", to=kind))
        return made[name]

    for node in graph.node:
        lowered = not low.isdisjoint(node.output)
        for at, name in enumerate(node.input):
            if lowered and name not in low and kinds.get(name) == TensorProto.FLOAT:
                node.input[at] = converted(name, _ELEMENT[precision])
            elif not lowered and name in low and node.op_type != "Shape":
                node.input[at] = converted(name, TensorProto.FLOAT)
        nodes.append(node)
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    used = {name for node in ordered for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for number, node in enumerate(graph.node):
        value = next((a for a in node.attribute if a.name == "value"), None) if node.op_type == "Constant" else None
        if value is None:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            kept[-1].name = node.name or f"node_{number}"
        else:
            tensor = onnx.TensorProto.FromString(value.t.SerializeToString())
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    return kinds | {tensor.name: tensor.data_type for tensor in graph.initializer}
