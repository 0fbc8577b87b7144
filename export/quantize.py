"""int8 by Q/DQ: convolutions and products with constant matrices, per channel, calibrated on pictures.

ONNX Runtime's quantiser inserts the nodes. Weights are symmetric int8. Activations are one of two:

- "uint8", for CPUs: with a zero point, and outputs quantised as well, through ReLU, ReLU6 and residual sums, so that
  ONNX Runtime computes whole blocks in integers. It takes integer kernels only where a convolution's output is
  quantised.
- "int8", for TensorRT, which takes no other: symmetric, zero point 0, inputs of the layers alone.

The head, the packing of bits, and products of two activations (attention) are never quantised. All other layers are,
where the bits then agree. If not, the layers that do most harm are found by measurement and kept in float32.
"""

import heapq
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from queryopt.errors import DataError, UsageError
from queryopt.export.options import ACTIVATIONS
from queryopt.export.pictures import spread
from queryopt.export.precision import head_nodes
from queryopt.progress import Progress, no_progress

__all__ = [
    "CALIBRATION_PICTURES",
    "CHECKED_BITS",
    "MOST_KEPT",
    "TARGET_FLIP_RATE",
    "QuantisationReport",
    "Quantiser",
    "quantise",
]

CALIBRATION_PICTURES = 128
"""How many pictures calibrate at most."""
CHECKED_BITS = 2_400
"""Bits of views of the calibration pictures that decide whether layers have to stay in float32."""
TARGET_FLIP_RATE = 5e-3
"""Layers are kept in float32 until no larger share of the calibration pictures' bits flips: half the gate's limit."""
MOST_KEPT = 0.25
"""The largest share of layers that is kept."""
_MEASURED_VIEWS = 16
_PIXELS_AT_ONCE = 4 * 224 * 224
_OPERATORS = ("Conv", "MatMul", "Gemm")
_FOLLOWING = ("Add", "Clip", "Relu")


@dataclass(frozen=True)
class QuantisationReport:
    """What was quantised.

    activations: one of ACTIVATIONS.
    pictures: that calibrated.
    layers: that could be quantised, in the graph's order.
    kept: of these, the ones that stayed in float32, worst first.
    flip_rate: of the calibration pictures' bits, against the float32 graph in the same runtime.
    first_flip_rate: the same where all were quantised.
    sensitivity: of the layers that were measured alone, the root mean square of the change of the logits when only that
        one is quantised, worst first; none where none had to be kept.
    measured: sessions that it took.
    refusals: how often the gate said no before, and more layers were kept.
    """

    activations: str
    pictures: int
    layers: tuple[str, ...]
    kept: tuple[str, ...]
    flip_rate: float
    first_flip_rate: float
    sensitivity: tuple[tuple[str, float], ...] = ()
    measured: int = 0
    refusals: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and the model's card."""
        return {
            "activations": self.activations,
            "pictures": self.pictures,
            "layers": len(self.layers),
            "worst": {name: round(error, 6) for name, error in self.sensitivity[:5]},
            "kept": list(self.kept),
            "flip_rate": self.flip_rate,
            "first_flip_rate": self.first_flip_rate,
            "refusals": self.refusals,
        }


def quantise(
    model: onnx.ModelProto, pixels: npt.NDArray[np.uint8], threads: int | None = None, **options: Any
) -> tuple[onnx.ModelProto, QuantisationReport]:
    """A quantised copy of a float32 graph, and what was done. pixels, threads, options: see Quantiser."""
    return Quantiser(model, pixels, threads, **options).quantise()


class Quantiser:
    """A float32 graph with the ranges of its tensors, ready to be quantised.

    pixels: uint8 [n, s, s, 3], real pictures in the model's own crop. DataError where there are none.
    activations: one of ACTIVATIONS, else UsageError.
    checked: uint8 [m, s, s, 3], what the flip rate is measured on (None: pixels).
    target_flip_rate, most_kept: layers are kept in float32, 1, 2, 4 … of them, until no larger share of bits flips, or
        that share of the layers is kept; then as few as will do. Where none will, that with the fewest flips is given.

    Layers are ranked by the change of the logits when each is quantised alone. Measuring that takes a session each, so
    it is done where it decides something: where all quantised flip too many bits, groups of neighbouring layers are
    quantised alone, and the group that changes the logits most is halved, until single layers come out, worst first.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        pixels: npt.NDArray[np.uint8],
        threads: int | None = None,
        activations: str = "uint8",
        progress: Progress | None = None,
        *,
        checked: npt.NDArray[np.uint8] | None = None,
        target_flip_rate: float = TARGET_FLIP_RATE,
        most_kept: float = MOST_KEPT,
    ) -> None:
        if activations not in ACTIVATIONS:
            raise UsageError(f"activations are {activations!r}: {' or '.join(ACTIVATIONS)}")
        if not len(pixels):
            raise DataError("no pictures to calibrate on: give some with --calibrate FOLDER")
        self._model, self._activations, self._pictures = model, activations, len(pixels)
        self._threads, self._target = threads, target_flip_rate
        self._show = progress or no_progress
        self._seen = pixels if checked is None else checked
        self.layers = _layers(model.graph)
        self.most = int(len(self.layers) * most_kept)
        with self._show("calibrate", 2, "steps") as advance, _quiet():
            self._expected = _logits(model, self._seen, threads)
            advance(1)
            self._ranges = _ranges(model, pixels, activations)
            advance(1)
        self.measure = Sensitivity(model, self._ranges, activations, self._seen, self._expected, threads)
        self._ranked = self.measure.worst_first(self.layers)
        self._worst: list[str] = []
        self._first: _Attempt | None = None

    def quantise(self, least_kept: int = 0) -> tuple[onnx.ModelProto, QuantisationReport]:
        """A quantised copy, and what was done; at least so many layers stay in float32."""
        with self._show("quantise", self.most, "layers kept in float32") as advance, _quiet():
            count, too_few = min(least_kept, self.most), least_kept - 1
            best = self._attempt(count)
            self._first = first = self._first or best
            while best.flip_rate > self._target and count < self.most:
                too_few, count = count, min(max(1, 2 * count), self.most)
                best = min(best, self._attempt(count), key=lambda one: one.flip_rate)
                advance(count - too_few)
            while best.flip_rate <= self._target and len(best.kept) - too_few > 1:
                tried = self._attempt((len(best.kept) + too_few) // 2)
                if tried.flip_rate <= self._target:
                    best = tried
                else:
                    too_few = len(tried.kept)
        onnx.checker.check_model(best.model, full_check=True)
        return best.model, QuantisationReport(
            self._activations,
            self._pictures,
            tuple(self.layers),
            best.kept,
            best.flip_rate,
            first.flip_rate,
            self.measure.sensitivity(),
            len(self.measure.errors),
        )

    def _attempt(self, count: int) -> "_Attempt":
        self._worst += islice(self._ranked, max(0, count - len(self._worst)))
        kept = tuple(self._worst[:count])
        nodes = [name for name in self.layers if name not in kept]
        quantised = _with_nodes(self._model, self._ranges, nodes, self._activations)
        flips = (_logits(quantised, self._seen, self._threads) >= 0) != (self._expected >= 0)
        return _Attempt(quantised, kept, float(np.mean(flips)))


@dataclass(frozen=True)
class _Attempt:
    """A quantised graph in which some layers were kept. flip_rate: of the views that are checked."""

    model: onnx.ModelProto
    kept: tuple[str, ...]
    flip_rate: float


@dataclass
class Sensitivity:
    """How much groups of layers change the logits (root mean square) when they alone are quantised."""

    model: onnx.ModelProto
    ranges: Any
    activations: str
    pixels: npt.NDArray[np.uint8]
    expected: npt.NDArray[np.float32]
    threads: int | None
    errors: dict[tuple[str, ...], float] = field(default_factory=dict)

    def error(self, group: tuple[str, ...]) -> float:
        """Of one group, measured once; on an even spread of the pixels."""
        if group not in self.errors:
            rows = spread(len(self.pixels), _MEASURED_VIEWS)
            alone = _logits(
                _with_nodes(self.model, self.ranges, list(group), self.activations), self.pixels[rows], self.threads
            )
            error = float(np.sqrt(np.square(alone - self.expected[rows]).mean()))
            self.errors[group] = error if np.isfinite(error) else float("inf")
        return self.errors[group]

    def worst_first(self, layers: list[str]) -> Iterator[str]:
        """The layers, that with the greatest error first. Nothing is measured before it is asked for.

        The group with the greatest error is halved until it is a single layer: no layer in another group can do more
        harm than that whole group, where errors add up. They may cancel out, which can change the order of two layers.
        """
        heap: list[tuple[float, int, tuple[str, ...]]] = [(-np.inf, 0, tuple(layers))]
        while heap:
            _, first, group = heapq.heappop(heap)
            if len(group) == 1:
                yield group[0]
                continue
            middle = len(group) // 2
            for at, part in ((first, group[:middle]), (first + middle, group[middle:])):
                heapq.heappush(heap, (-self.error(part), at, part))

    def sensitivity(self) -> tuple[tuple[str, float], ...]:
        """Of the layers that were measured alone, worst first."""
        single = [(group[0], error) for group, error in self.errors.items() if len(group) == 1]
        return tuple(sorted(single, key=lambda item: -item[1]))


def _layers(graph: onnx.GraphProto) -> list[str]:
    """Nodes that may be quantised, by name: with a constant weight, outside of the head.

    Not products with a stack of matrices (a fold makes one for each attention head): ONNX Runtime takes scales of
    columns for a single matrix only, and fails when it runs the rest.
    """
    sizes = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    head = head_nodes(graph)
    return [
        node.name
        for node in graph.node
        if node.op_type in _OPERATORS
        and node.name not in head
        and (sizes.get(node.input[1], 0) > 2 if node.op_type == "Conv" else sizes.get(node.input[1]) == 2)
    ]


def _ranges(model: onnx.ModelProto, pixels: npt.NDArray[np.uint8], activations: str) -> Any:
    """Least and greatest value of every tensor over the pictures."""
    import tempfile
    from pathlib import Path

    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    class Reader:
        def __init__(self) -> None:
            self._left = iter(_batches(pixels))

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
    """ReLUs of what is quantised (ReLU6 is a Clip), and sums of it (residual connections), by name."""
    constants = {tensor.name for tensor in graph.initializer}
    quantised: set[str] = set()  # values
    names = set(layers)
    following = []
    for node in graph.node:
        values = [name for name in node.input if name and name not in constants]
        follows = node.op_type in _FOLLOWING and all(value in quantised for value in values)
        if follows:
            following.append(node.name)
        if follows or (node.name in names and node.op_type == "Conv"):
            quantised.update(node.output)
    return following


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
    return np.concatenate([session.run(["logits"], {"images": batch})[0] for batch in _batches(pixels)])


def _batches(pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """Batches of at most 16 pictures, and of large ones so many that their activations take little memory."""
    size = max(1, min(16, _PIXELS_AT_ONCE // (pixels.shape[1] * pixels.shape[2])))
    return np.split(pixels, range(size, len(pixels), size))


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser recommends its own tools to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
