"""int8 by Q/DQ: convolutions and products with constant weights, per channel, calibrated on pictures.

ONNX Runtime's quantiser inserts the nodes. Weights are symmetric int8. Activations are one of two:

- "uint8", for CPUs: with a zero point, and outputs quantised as well, through ReLU and residual sums, so that ONNX
  Runtime computes whole blocks in integers. It takes integer kernels only where a convolution's output is quantised.
- "int8", for TensorRT, which takes no other: symmetric, zero point 0, inputs of the layers alone.

The head, the packing of bits, and products of two activations (attention) are never quantised. Which other layers stay
in float32 is measured: each is quantised alone, and the worst are kept until the bits agree.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from queryopt.cli import Progress, no_progress
from queryopt.errors import DataError, UsageError
from queryopt.export.precision import head_nodes

__all__ = ["ACTIVATIONS", "CALIBRATION_PICTURES", "TARGET_FLIP_RATE", "QuantisationReport", "quantise"]

ACTIVATIONS = ("uint8", "int8")
CALIBRATION_PICTURES = 128
"""How many pictures calibrate at most."""
TARGET_FLIP_RATE = 5e-3
"""Layers are kept in float32 until no larger share of the calibration pictures' bits flips, or a quarter is kept."""
_MEASURED_PICTURES = 48
_MOST_KEPT = 0.25
_OPERATORS = ("Conv", "MatMul", "Gemm")
_FOLLOWING = ("Add", "Relu")


@dataclass(frozen=True)
class QuantisationReport:
    """What was quantised.

    activations: one of ACTIVATIONS. pictures: that calibrated. layers: that could be quantised, with the root mean
    square of the change of the logits when each is quantised alone, worst first. kept: of these, the ones that stayed
    in float32. flip_rate: of the calibration pictures' bits, against the float32 graph in the same runtime.
    """

    activations: str
    pictures: int
    layers: tuple[tuple[str, float], ...]
    kept: tuple[str, ...]
    flip_rate: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and the model's card."""
        return {
            "activations": self.activations,
            "pictures": self.pictures,
            "layers": len(self.layers),
            "worst": {name: round(error, 6) for name, error in self.layers[:5]},
            "kept": list(self.kept),
            "flip_rate": self.flip_rate,
        }


def quantise(
    model: onnx.ModelProto,
    pixels: npt.NDArray[np.uint8],
    threads: int | None = None,
    activations: str = "uint8",
    progress: Progress | None = None,
) -> tuple[onnx.ModelProto, QuantisationReport]:
    """A quantised copy of a float32 graph, and what was done.

    pixels: uint8 [n, s, s, 3], real pictures in the model's own crop. DataError where there are none. activations: one
    of ACTIVATIONS, else UsageError.
    """
    if activations not in ACTIVATIONS:
        raise UsageError(f"activations are {activations!r}: {' or '.join(ACTIVATIONS)}")
    if not len(pixels):
        raise DataError("no pictures to calibrate on: give some with --calibrate FOLDER")
    layers = _layers(model.graph)
    seen = pixels[:: max(1, len(pixels) // _MEASURED_PICTURES)]
    expected = _logits(model, seen, threads)
    with _quiet(), (progress or no_progress)("calibrate", len(layers) + 1, "layers") as advance:
        ranges = _ranges(model, pixels, activations)
        advance(1)
        errors = {}
        for layer in layers:
            alone = _logits(_with_nodes(model, ranges, [layer], activations), seen, threads)
            errors[layer] = float(np.sqrt(np.square(alone - expected).mean()))
            advance(1)
        worst = sorted(layers, key=lambda layer: -errors[layer])
        kept = 0
        while True:
            quantised = _with_nodes(model, ranges, worst[kept:], activations)
            flip_rate = float(np.mean((_logits(quantised, seen, threads) >= 0) != (expected >= 0)))
            if flip_rate <= TARGET_FLIP_RATE or kept >= int(len(layers) * _MOST_KEPT):
                break
            kept = min(max(1, 2 * kept), int(len(layers) * _MOST_KEPT))
    onnx.checker.check_model(quantised, full_check=True)
    report = QuantisationReport(
        activations, len(pixels), tuple((layer, errors[layer]) for layer in worst), tuple(worst[:kept]), flip_rate
    )
    return quantised, report


def _layers(graph: onnx.GraphProto) -> list[str]:
    """Nodes that may be quantised, by name: with a constant weight of two dimensions or more, outside of the head."""
    constants = {tensor.name for tensor in graph.initializer if len(tensor.dims) >= 2}
    head = head_nodes(graph)
    return [
        node.name
        for node in graph.node
        if node.op_type in _OPERATORS and node.input[1] in constants and node.name not in head
    ]


def _ranges(model: onnx.ModelProto, pixels: npt.NDArray[np.uint8], activations: str) -> Any:
    """Least and greatest value of every tensor over the pictures."""
    import tempfile
    from pathlib import Path

    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    class Reader:
        def __init__(self) -> None:
            self._left = iter(np.split(pixels, range(16, len(pixels), 16)))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory(prefix="queryopt-calibrate-") as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        calibrator = create_calibrator(
            path,
            [*_OPERATORS, *_FOLLOWING],
            augmented_model_path=str(Path(folder, "augmented.onnx")),
            calibrate_method=CalibrationMethod.MinMax,
            providers=["CPUExecutionProvider"],
            extra_options={"symmetric": activations == "int8"},
        )
        calibrator.collect_data(Reader())
        ranges = calibrator.compute_data()
        del calibrator
    return ranges


def _following(graph: onnx.GraphProto, layers: list[str]) -> list[str]:
    """ReLUs of what is quantised, and sums of it (residual connections), by name."""
    constants = {tensor.name for tensor in graph.initializer}
    quantised: set[str] = set()  # values
    names = set(layers)
    found = []
    for node in graph.node:
        values = [name for name in node.input if name and name not in constants]
        follows = node.op_type in _FOLLOWING and all(value in quantised for value in values)
        if follows:
            found.append(node.name)
        if follows or (node.name in names and node.op_type == "Conv"):
            quantised.update(node.output)
    return found


def _with_nodes(model: onnx.ModelProto, ranges: Any, nodes: list[str], activations: str) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    symmetric = activations == "int8"
    following = [] if symmetric else _following(model.graph, nodes)
    quantiser = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[*nodes, *following],
        nodes_to_exclude=[],
        op_types_to_quantize=[*_OPERATORS, *_FOLLOWING],
        # Biases stay in float32: TensorRT takes no int32 ones, and ONNX Runtime makes its own of them. Outputs that are
        # not quantised: what reads them quantises its input.
        extra_options={
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(_OPERATORS if symmetric else _OPERATORS[1:]),
        },
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()
    quantised: onnx.ModelProto = quantiser.model.model
    quantised.producer_name, quantised.producer_version = model.producer_name, model.producer_version
    return quantised


def _logits(model: onnx.ModelProto, pixels: npt.NDArray[np.uint8], threads: int | None) -> npt.NDArray[np.float32]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batches = np.split(pixels, range(16, len(pixels), 16))
    return np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in batches])


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser recommends its own tools to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
