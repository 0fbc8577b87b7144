"""Where a model's time goes: its operators in groups, from ONNX Runtime's own profile of a run."""

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from queryopt.bench.speed.latency.contenders import cpu_options

if TYPE_CHECKING:
    import onnx

__all__ = ["LayerGroup", "profile_layers"]

_RUNS = 12
_SKIPPED = 2
"""Runs at the start whose times are left out."""
_SIZES = {"float": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4}
"""Bytes of an element; all other types have one."""


@dataclass(frozen=True)
class LayerGroup:
    """Operators of a kind: seconds of one run (the median run's), operations (a multiply-add is two) and bytes.

    bytes: inputs, weights and outputs of each operator once: what passes through the caches, and at least what memory
    has to give where they are too small.
    """

    name: str
    seconds: float
    operations: int
    bytes: int


def profile_layers(path: Path, batch: int, threads: int) -> tuple[LayerGroup, ...]:
    """Profile a model.onnx in ONNX Runtime on the CPU; groups in order of time, longest first.

    Convolutions are grouped by kernel and output size, all other products together, and what has no products
    ("elementwise and moves") together. Operations are those that ONNX Runtime does: channels that it pads, for its
    blocked layout, count.
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="queryopt-profile-") as folder:
        options = cpu_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        # A profile lacks the shapes of weights that were packed: they are looked up in the graph that runs.
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3  # it warns that this graph is for this machine alone
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        entry = session.get_inputs()[0]
        shape = [batch if not isinstance(size, int) else size for size in entry.shape]
        data = np.zeros(shape, np.uint8 if entry.type == "tensor(uint8)" else np.float32)
        for _ in range(_RUNS):
            session.run(None, {entry.name: data})
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
        weights = _weights(onnx.load(options.optimized_model_filepath).graph)
    return _groups(events, weights)


def _weights(graph: "onnx.GraphProto") -> dict[str, list[int]]:
    """Shapes of the convolution weights [out, in / group, h, w], by the name of their node."""
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer if len(tensor.dims) == 4}
    return {node.name: shapes[name] for node in graph.node for name in node.input if name in shapes}


def _groups(events: list[dict[str, Any]], weights: dict[str, list[int]]) -> tuple[LayerGroup, ...]:
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)  # of one operator, a call a run
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            calls[f"{event['name']}/{event['args'].get('node_index')}"].append(event)
    seconds: dict[str, float] = defaultdict(float)
    operations: dict[str, int] = defaultdict(int)
    moved: dict[str, int] = defaultdict(int)
    for runs in calls.values():
        args = runs[-1]["args"]
        weight = weights.get(runs[-1]["name"].removesuffix("_kernel_time"))
        inputs, outputs = (_shapes(args.get(f"{side}_type_shape", [])) for side in ("input", "output"))
        name, count = _kind(args["op_name"], [shape for _, shape in inputs], [shape for _, shape in outputs], weight)
        seconds[name] += float(np.median([run["dur"] for run in runs[_SKIPPED:] or runs])) / 1e6
        operations[name] += count
        moved[name] += sum(size * prod(shape) for size, shape in inputs + outputs)
    groups = [LayerGroup(name, seconds[name], operations[name], moved[name]) for name in seconds]
    return tuple(sorted(groups, key=lambda group: -group.seconds))


def _shapes(values: list[dict[str, list[int]]]) -> list[tuple[int, list[int]]]:
    return [(_SIZES.get(kind, 1), shape) for value in values for kind, shape in value.items()]


def _kind(
    operator: str, inputs: list[list[int]], outputs: list[list[int]], weight: list[int] | None
) -> tuple[str, int]:
    """The group of an operator, and its operations."""
    if "Conv" in operator and weight is not None:
        if operator == "ConvTranspose":
            return "transposed convolutions", 2 * prod(inputs[0]) * prod(weight[1:])
        kernel, size = f"{weight[2]} x {weight[3]}", " x ".join(map(str, outputs[0][-2:]))
        return f"convolutions {kernel} to {size}", 2 * prod(outputs[0]) * prod(weight[1:])
    if ("MatMul" in operator or "Gemm" in operator) and outputs and outputs[0]:
        return "matrix products", 2 * prod(outputs[0]) * inputs[0][-1]
    return "elementwise and moves", 0
