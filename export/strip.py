"""The network as it is deployed, and the proof that nothing came along that only training uses.

Queries never see each other (cross-attention only), so running the first `bits` of them alone gives exactly the
training network's first `bits` logits. The architecture says so; what is exported is checked all the same, each time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from queryopt.codes import code_bytes, unpack_codes
from queryopt.errors import ParityError, UsageError
from queryopt.export.count import count_multiply_adds
from queryopt.export.fold import folded_multiply_adds, query_forms
from queryopt.export.folded import FoldedNetwork
from queryopt.export.torch_backend import network_logits
from queryopt.runtime.backends.base import Backend
from queryopt.train.network import QueryOpt

if TYPE_CHECKING:
    from queryopt.train.hash_network import HashNetwork, TrainingPart

__all__ = ["TOLERANCE", "InferenceNetwork", "StripReport", "check_strip", "multiply_adds"]

TOLERANCE = 1e-4
"""Largest logit difference from the training network that float32 rounding may make, for a logit_scale up to 1."""
_PROBES = 4
_SAME = 1e-5


class InferenceNetwork(nn.Module):
    """What model.onnx holds: bytes in, packed codes and logits out.

    network: the trained one, or what `fold` made of it. forward: images uint8 [b, s, s, 3] sRGB -> (codes uint8
    [b, ceil(bits / 8)], logits float32 [b, bits]), and with `explain` also attention float32 [b, bits, tokens],
    averaged over heads. Nothing that only training uses runs: rolled copies of queries and classification heads never
    enter the graph. Switches `network` to eval mode.
    """

    mean: Tensor
    std: Tensor
    powers: Tensor

    def __init__(self, network: "HashNetwork | FoldedNetwork", explain: bool = False) -> None:
        super().__init__()
        config = network.config
        if explain and not config.queries:
            raise UsageError("this network was trained without queries: it has no attention to explain its bits with")
        self.network = network.eval()
        self.explain = explain
        if not isinstance(network, FoldedNetwork):
            preprocessing = config.preprocessing
            self.register_buffer("mean", torch.tensor(preprocessing.mean))
            self.register_buffer("std", torch.tensor(preprocessing.std))
        powers = torch.zeros(config.bits, code_bytes(config.bits))
        for bit in range(config.bits):
            powers[bit, bit // 8] = 2.0 ** (bit % 8)
        self.register_buffer("powers", powers)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        # The cast comes first: TensorRT refuses to transpose uint8.
        pixels = images.to(torch.float32)
        logits, attention = self._run(self.network, pixels)  # [b, bits], [b, bits, tokens]
        if attention is not None and self.explain:
            return self._pack(logits), logits, attention
        return self._pack(logits), logits

    def _run(self, network: "HashNetwork | FoldedNetwork", pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """pixels [b, s, s, 3], 0 to 255 -> logits [b, bits] and, where there is one, attention [b, bits, tokens]."""
        if isinstance(network, FoldedNetwork):
            outputs: tuple[Tensor, Tensor | None] = network(pixels)
            return outputs
        x = ((pixels / 255 - self.mean) / self.std).permute(0, 3, 1, 2)  # [b, 3, s, s]
        return network.forward_with_attention(x) if self.explain else (network(x, branches=1), None)

    def _pack(self, logits: Tensor) -> Tensor:
        """Logits [b, bits] -> codes uint8 [b, ceil(bits / 8)]; a product with powers of two, exact up to 255."""
        # A comparison and not Sign, which has a third value at zero. NaN compares false: bit 0.
        return torch.matmul((logits >= 0).to(torch.float32), self.powers).to(torch.uint8)


@dataclass(frozen=True)
class StripReport:
    """What the strip took away, and how the exported graph was compared with the training network.

    stripped: what training alone uses, by name, and how much of it there was (empty: nothing).
    graph: which was compared, "plain" (the trained network's own parts) or "folded".
    branches: of the training network, the original queries included.
    multiply_adds: of one image, counted from the graph, without `packing` (the product that packs bits into bytes).
    multiply_adds_network: torch's count of what was exported, the inference network or the folded one; the graph may
        have less where the exporter folded a product of constants (the queries' projection, in small networks), never
        more.
    multiply_adds_training: torch's count of the trained network with all branches.
    max_logit_difference: between the graph and the training network's first `bits` columns, over `probes` seeded
        inputs.
    flipped: bits that differ where |logit| > TOLERANCE.
    """

    stripped: Mapping[str, str]
    graph: str
    branches: int
    multiply_adds: int
    packing: int
    multiply_adds_network: int
    multiply_adds_training: int
    max_logit_difference: float
    flipped: int
    probes: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_strip(
    network: "HashNetwork", model: onnx.ModelProto, runner: Backend, folded: FoldedNetwork | None = None
) -> StripReport:
    """Prove that the graph is the training network without what only training uses; ParityError where it is not.

    network: the trained one, in eval mode (BatchNorm uses its running statistics).
    model: the exported graph.
    runner: runs it.
    folded: what `fold` made of `network`, where the graph is that.

    Three things are held: no constant in the graph holds a trace of a part that is to be stripped (class weights; a
    rolled query, in any form that folding gives a query); the graph has no more multiply-adds than the inference
    network, or the folded one (a single copy left behind would add its attention and feed-forward block); and its
    logits are the training network's first `bits` columns within TOLERANCE (times logit_scale where that is above 1),
    without a flipped bit where |logit| is above it.
    """
    config = network.config
    kind = "plain" if folded is None else "folded"
    parts = network.training_parts()
    for part in parts:
        if name := _constant_with(_traces(network, part), model):
            raise ParityError(
                f"the exported {kind} graph still holds {part.trace} (in {name!r}): the {part.name} was not stripped"
            )
    graph = count_multiply_adds(model)
    inference = multiply_adds(network, branches=1) if folded is None else folded_multiply_adds(folded)
    if graph.total > inference:
        raise ParityError(
            f"the exported {kind} graph has {graph.total:,} multiply-adds, but the {kind} inference network "
            f"{inference:,}: something that only training uses was left in it"
        )
    pixels = _probe_pixels(config.image_size)
    preprocessing = config.preprocessing
    trained = network_logits(network, pixels, preprocessing, config.branches)[:, : config.bits]
    output = runner.run(pixels)
    difference = float(np.abs(output.logits - trained).max())
    tolerance = TOLERANCE * max(1.0, network.logit_scale)
    sure = np.abs(trained) > tolerance
    flipped = int(np.count_nonzero((unpack_codes(output.codes, config.bits) != (trained >= 0)) & sure))
    if not difference <= tolerance or flipped:
        raise ParityError(
            f"the exported {kind} graph's logits differ from the training network's first {config.bits} by up to "
            f"{difference:.2e} (allowed: {tolerance:.1e}), {flipped} sure bits flipped "
            f"in {_PROBES} inputs: the graph is not the network"
        )
    return StripReport(
        stripped={part.name: part.size for part in parts},
        graph=kind,
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


def _traces(network: "HashNetwork", part: "TrainingPart") -> list[npt.NDArray[np.floating[Any]]]:
    """The rows [k, width] that betray a part in a graph, a list of all forms that they may have there.

    A query may be there as it was trained and as folds (the exporter's, too) change it: see `query_forms`.
    """
    if not isinstance(network, QueryOpt) or network.queries is None or not part.are_queries:
        forms: list[npt.NDArray[np.floating[Any]]] = [part.rows]
    else:
        own = query_forms(network, network.queries)
        copies = query_forms(network, torch.from_numpy(part.rows))
        # A copy that is one of the queries itself (more branches than dim) is no trace of the branch.
        forms = [rows[~_near(rows, queries)] for rows, queries in zip(copies, own, strict=True)]
    # Numbers of one or two dimensions are found anywhere.
    return [rows for rows in forms if rows.shape[1] > 2 and len(rows)]


def _constant_with(forms: list[npt.NDArray[np.floating[Any]]], model: onnx.ModelProto) -> str | None:
    """Name of a constant in which one of these rows lies, along any axis; None where there is none.

    What was folded was computed in another order of rounding: what is nearer than _SAME, relative to its length, is the
    same.
    """
    for name, array in _constants(model).items():
        if array.dtype != np.float32:
            continue
        for rows in forms:
            for axis in (axis for axis, size in enumerate(array.shape) if size == rows.shape[1]):
                if _near(np.moveaxis(array, axis, -1).reshape(-1, rows.shape[1]), rows).any():
                    return name
    return None


def _near(rows: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which of the rows [m, width] are one of the others [k, width] but for rounding: bool [m]. Zeros are like none."""
    rows, others = rows.astype(np.float64), others.astype(np.float64)
    lengths = np.square(rows).sum(axis=1)  # [m]
    squares = lengths[:, None] + np.square(others).sum(axis=1) - 2 * rows @ others.T  # [m, k], of the distances
    near: npt.NDArray[np.bool_] = (lengths > 0) & (squares < _SAME**2 * lengths[:, None]).any(axis=1)
    return near


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
