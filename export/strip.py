"""The network as it is deployed, and the proof that nothing came along that only training uses.

Queries never see each other (cross-attention only), so running the first `bits` of them alone gives exactly the
training network's first `bits` logits. The architecture says so; what is exported is checked all the same, each time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from queryopt.card import Preprocessing
from queryopt.codes import code_bytes
from queryopt.errors import ParityError, UsageError
from queryopt.export.count import count_multiply_adds
from queryopt.export.parity import network_logits

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork, TrainingPart

__all__ = ["TOLERANCE", "InferenceNetwork", "StripReport", "check_strip", "multiply_adds"]

TOLERANCE = 1e-4
"""Largest logit difference from the training network that float32 rounding may make, for a logit_scale up to 1."""
_PROBES = 4


class InferenceNetwork(nn.Module):
    """What model.onnx holds: bytes in, packed codes and logits out.

    forward: images uint8 [b, s, s, 3] sRGB -> (codes uint8 [b, ceil(bits / 8)], logits float32 [b, bits]), and with
    `explain` also attention float32 [b, bits, tokens], averaged over heads. Nothing that only training uses runs:
    rolled copies of queries and classification heads never enter the graph. Switches `network` to eval mode.
    """

    mean: Tensor
    std: Tensor
    powers: Tensor

    def __init__(self, network: "HashNetwork", explain: bool = False) -> None:
        super().__init__()
        config = network.config
        if explain and not config.queries:
            raise UsageError("this network was trained without queries: it has no attention to explain its bits with")
        self.network = network.eval()
        self.explain = explain
        preprocessing = Preprocessing.for_size(config.image_size)
        self.register_buffer("mean", torch.tensor(preprocessing.mean))
        self.register_buffer("std", torch.tensor(preprocessing.std))
        powers = torch.zeros(config.bits, code_bytes(config.bits))
        for bit in range(config.bits):
            powers[bit, bit // 8] = 2.0 ** (bit % 8)
        self.register_buffer("powers", powers)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        # The cast comes first: TensorRT refuses to transpose uint8.
        x = ((images.to(torch.float32) / 255 - self.mean) / self.std).permute(0, 3, 1, 2)  # [b, 3, s, s]
        if self.explain:
            logits, attention = self.network.forward_with_attention(x)  # [b, bits], [b, bits, tokens]
            return self._pack(logits), logits, attention
        logits = self.network(x, branches=1)  # [b, bits]
        return self._pack(logits), logits

    def _pack(self, logits: Tensor) -> Tensor:
        """Logits [b, bits] -> codes uint8 [b, ceil(bits / 8)]; a product with powers of two, exact up to 255."""
        # A comparison and not Sign, which has a third value at zero. NaN compares false: bit 0.
        return torch.matmul((logits >= 0).to(torch.float32), self.powers).to(torch.uint8)


@dataclass(frozen=True)
class StripReport:
    """What the strip took away, and how the exported graph was compared with the training network.

    stripped: what training alone uses, by name, and how much of it there was (empty: nothing). branches: of the
    training network, the original queries included. multiply_adds: of one image, counted from the graph, without
    `packing` (the product that packs bits into bytes). multiply_adds_network: torch's count of the
    inference network; the graph may have less where the exporter folded a product of constants (the queries'
    projection, in small networks), never more. multiply_adds_training: torch's count with all branches.
    max_logit_difference: between the graph and the training network's first `bits` columns, over `probes` seeded
    inputs. flipped: bits that differ where |logit| > TOLERANCE.
    """

    stripped: Mapping[str, str]
    branches: int
    multiply_adds: int
    packing: int
    multiply_adds_network: int
    multiply_adds_training: int
    max_logit_difference: float
    flipped: int
    probes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Runner(Protocol):
    """Something that runs the exported graph: a backend of queryopt.runtime."""

    def run(self, images: npt.NDArray[np.uint8]) -> Any:
        """uint8 [b, s, s, 3] -> an object with .codes and .logits."""


def check_strip(network: "HashNetwork", model: onnx.ModelProto, runner: Runner) -> StripReport:
    """Prove that the graph is the training network without what only training uses; ParityError where it is not.

    network: the trained one, in eval mode (BatchNorm uses its running statistics). model: the exported graph; runner:
    runs it. Three things are held: no constant in the graph holds a trace of a part that is to be stripped (a rolled
    query, class weights); the graph has no more multiply-adds than the inference network (a single copy left behind
    would add its attention and feed-forward block); and its logits are the training network's first `bits` columns
    within TOLERANCE (times logit_scale where that is above 1), without a flipped bit where |logit| is above it.
    """
    config = network.config
    parts = network.training_parts()
    for part in parts:
        if name := _constant_with(part, model):
            raise ParityError(
                f"the exported graph still holds {part.trace} (in {name!r}): the {part.name} was not stripped"
            )
    graph = count_multiply_adds(model)
    inference = multiply_adds(network, branches=1)
    if graph.total > inference:
        raise ParityError(
            f"the exported graph has {graph.total:,} multiply-adds, but the inference network {inference:,}: "
            "something that only training uses was left in it"
        )
    pixels = _probe_pixels(config.image_size)
    preprocessing = Preprocessing.for_size(config.image_size)
    trained = network_logits(network, pixels, preprocessing, config.branches)[:, : config.bits]
    output = runner.run(pixels)
    difference = float(np.abs(output.logits - trained).max())
    tolerance = TOLERANCE * max(1.0, network.logit_scale)
    sure = np.abs(trained) > tolerance
    bits = np.unpackbits(output.codes, axis=1, count=config.bits, bitorder="little").astype(np.bool_)
    flipped = int(np.count_nonzero((bits != (trained >= 0)) & sure))
    if not difference <= tolerance or flipped:
        raise ParityError(
            f"the exported graph's logits differ from the training network's first {config.bits} by up to "
            f"{difference:.2e} (allowed: {tolerance:.1e}), {flipped} sure bits flipped "
            f"in {_PROBES} inputs: the graph is not the network"
        )
    return StripReport(
        stripped={part.name: part.size for part in parts},
        branches=config.branches,
        multiply_adds=graph.total,
        packing=graph.packing,
        multiply_adds_network=inference,
        multiply_adds_training=multiply_adds(network, branches=config.branches),
        max_logit_difference=difference,
        flipped=flipped,
        probes=_PROBES,
    )


def multiply_adds(network: "HashNetwork", branches: int) -> int:
    """Multiply-adds of one image in eval mode as torch's FlopCounterMode / 2 counts them, with so many branches."""
    size = network.config.image_size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, size, size), branches=branches)
    return int(counter.get_total_flops()) // 2


def _constant_with(part: "TrainingPart", model: onnx.ModelProto) -> str | None:
    """Name of a constant of which a row or a column is one of the part's rows; None where there is none."""
    width = part.rows.shape[1]
    traces = {row.tobytes() for row in part.rows}
    for name, array in _constants(model).items():
        if array.dtype != np.float32 or array.ndim < 1:
            continue
        matrices = [array.reshape(-1, width)] if array.shape[-1] == width else []
        matrices += [array.reshape(width, -1).T] if array.shape[0] == width else []
        if any(row.tobytes() in traces for matrix in matrices for row in matrix):
            return name
    return None


def _constants(model: onnx.ModelProto) -> Mapping[str, npt.NDArray[Any]]:
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                arrays[node.output[0]] = onnx.numpy_helper.to_array(attribute.t)
    return arrays


def _probe_pixels(size: int) -> npt.NDArray[np.uint8]:
    """Seeded inputs uint8 [4, size, size, 3]: coloured patches of several sizes move a network more than noise."""
    rng = np.random.default_rng(0)
    pixels = np.empty((_PROBES, size, size, 3), np.uint8)
    for probe in range(_PROBES):
        cells = 2 ** (probe + 1)
        at = np.arange(size) * cells // size
        pixels[probe] = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)[at][:, at]
    return pixels
