"""What a network costs: parameters and multiply-adds, by part, in the paper's convention and in torch's.

torch's: half of what torch.utils.flop_counter counts: a multiply-add for each product in convolutions and matrix
multiplications.

The paper's is that of fvcore 0.1.5, whose counters of convolution, linear, matrix product, BatchNorm and LayerNorm give
the paper's figures at 12 bits: torch's count, and

- BatchNorm: 2 an element in eval mode, 5 in train mode. This alone is the paper's difference between inference (5.23 G)
  and training (5.27 G, train mode without rolled queries);
- LayerNorm: 5 an element;
- 245 more at 224 pixels, the number of tokens (196 + 49). Our reading: fvcore counts one an output element of a
  nearest-neighbour resize, and the published code, being built on DETR, resizes a padding mask to both token grids. Our
  pictures have no padding, and so our network no mask; we add the number of tokens to compare like with like.

Counts are of the forward pass for one picture. "training" is what the forward pass costs in train mode with the rolled
queries; the backward pass, about twice as much, is in no count here, nor in the paper's.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from queryopt.bench.tables import figures_table
from queryopt.text import counted
from queryopt.train.methods import build_network
from queryopt.train.network import QueryOpt
from queryopt.train.network_config import NetworkConfig

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["PAPER_TABLE_4", "FlopCount", "FlopReport", "PartCount", "TableRow", "count_flops", "flop_report"]

_BATCH_NORM_EVAL, _BATCH_NORM_TRAIN, _LAYER_NORM = 2, 5, 5
"""fvcore's operations an element (norms with a scale and a shift)."""


@dataclass(frozen=True)
class PartCount:
    """A part's parameters (all, and those that are trained) and multiply-adds in both conventions."""

    parameters: int
    trainable: int
    paper: int
    torch: int


@dataclass(frozen=True)
class FlopCount:
    """Multiply-adds of one forward pass for one picture.

    queries: how many pass through the decoder (bits * branches). mask: the constant of the paper's convention, 0 for
    networks without attention.
    """

    queries: int
    parts: dict[str, PartCount]
    mask: int

    @property
    def paper(self) -> int:
        return sum(part.paper for part in self.parts.values()) + self.mask

    @property
    def torch(self) -> int:
        return sum(part.torch for part in self.parts.values())


@dataclass(frozen=True)
class TableRow:
    """A method: trainable parameters, and multiply-adds of training and inference in the paper's convention."""

    name: str
    parameters: float
    training: float
    inference: float


PAPER_TABLE_4 = (
    TableRow("ExchNet", 40.43e6, 7.67e9, 7.67e9),
    TableRow("SEMICON", 42.42e6, 7.09e9, 7.09e9),
    TableRow("AGMH", 35.56e6, 8.61e9, 8.61e9),
    TableRow("the paper's own (12 bits)", 31.71e6, 5.27e9, 5.23e9),
)


@dataclass(frozen=True)
class FlopReport:
    """The counts of one network: inference, training with all branches, and training with one (the paper's 5.27 G)."""

    config: NetworkConfig
    inference: FlopCount
    training: FlopCount
    training_one_branch: FlopCount

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.inference.parts.values())

    @property
    def trainable(self) -> int:
        """Parameters that are trained: what the paper gives."""
        return sum(part.trainable for part in self.inference.parts.values())

    @property
    def conventions(self) -> str:
        """How the counts were made, in two sentences."""
        mask = f", and {self.inference.mask} for resizing a padding mask" if self.inference.mask else ""
        return (
            "The paper's convention is fvcore 0.1.5's: convolutions, matrix products, BatchNorm (2 an element, 5 in "
            f"training), LayerNorm (5 an element){mask}. torch's "
            f"({torch.__version__.split('+')[0]}, FlopCounterMode / 2) has convolutions and matrix products alone. "
            "Both are for the forward pass of one picture."
        )

    @property
    def like_the_papers(self) -> bool:
        """Whether the paper's Table 4 has networks to compare it with: of ResNet-50, at 224 pixels."""
        return (self.config.backbone, self.config.image_size) == ("resnet50", 224)

    def passes(self) -> dict[str, FlopCount]:
        """The counts by name; the last one is left out where the network has one branch in training anyway."""
        counts = {"inference": self.inference, "training, 1 branch": self.training_one_branch}
        if self.config.branches > 1:
            counts[f"training, {self.config.branches} branches"] = self.training
        return counts

    def comparison(self) -> list[TableRow]:
        """The rows of the paper's Table 4, then this network with one branch in training and with all of its own."""
        ours = [
            TableRow(name.replace("training", "this network"), self.trainable, count.paper, self.inference.paper)
            for name, count in self.passes().items()
            if count is not self.inference
        ]
        return [*PAPER_TABLE_4, *ours]

    def to_dict(self) -> dict[str, Any]:
        def totals(count: FlopCount) -> dict[str, Any]:
            return {"paper": count.paper, "torch": count.torch, **asdict(count)}

        return {
            "network": self.config.to_dict(),
            "parameters": self.parameters,
            "trainable_parameters": self.trainable,
            "conventions": self.conventions,
            "inference": totals(self.inference),
            "training": totals(self.training),
            "training_one_branch": totals(self.training_one_branch),
            "paper_table_4": [asdict(row) for row in PAPER_TABLE_4],
        }

    def render(self) -> "Iterator[RenderableType]":
        config, passes = self.config, self.passes()
        branches = counted(config.branches, "branch", "branches")
        yield (
            f"{config.backbone}, {config.bits} bits, {config.image_size} x {config.image_size} pixels, {branches} in "
            f"training\n{self.trainable:,} trainable parameters, {self.parameters:,} in all\n"
        )
        conventions = ("paper's convention", "torch's convention")
        totals = figures_table("Multiply-adds of a picture", "", "queries", *conventions)
        for name, count in passes.items():
            totals.add_row(name, *(f"{number:,}" for number in (count.queries, count.paper, count.torch)))
        yield from (totals, "")
        if self.like_the_papers:
            sizes = ("trainable parameters", "training", "inference")
            beside = figures_table("Beside the paper's Table 4", "method", *sizes)
            for row in self.comparison():
                costs = (f"{row.training / 1e9:.2f} G", f"{row.inference / 1e9:.2f} G")
                beside.add_row(row.name, f"{row.parameters / 1e6:.2f} M", *costs)
            yield from (beside, "")
        columns = ("part", "parameters", "inference", "(torch's)", "training", "(torch's)")
        parts = figures_table(f"By part, in millions; training with {branches}", *columns)

        def add(name: str, parameters: int, *counts: PartCount | FlopCount) -> None:
            numbers = (parameters, *(number for count in counts for number in (count.paper, count.torch)))
            parts.add_row(name, *(f"{number / 1e6:,.2f}" for number in numbers))

        for name, part in self.inference.parts.items():
            add(name, part.parameters, part, self.training.parts[name])
        parts.add_section()
        add("total", self.parameters, self.inference, self.training)
        yield from (parts, "")
        yield self.conventions


def flop_report(config: NetworkConfig) -> FlopReport:
    """Count a network in inference and in training."""
    return FlopReport(
        config,
        inference=count_flops(config),
        training=count_flops(config, training=True),
        training_one_branch=count_flops(config, training=True, branches=1),
    )


def count_flops(config: NetworkConfig, *, training: bool = False, branches: int | None = None) -> FlopCount:
    """Count the multiply-adds of one forward pass for one picture, without running it.

    training: the network is in train mode. branches: how many rolled copies of the queries run, the original included;
    None: config.branches in train mode, else 1.
    """
    if branches is None:
        branches = config.branches if training else 1
    # Shapes are enough: nothing is allocated and nothing computed on the meta device.
    with torch.device("meta"):
        network = build_network(config).train(training)
        picture = torch.empty(1, 3, config.image_size, config.image_size)
    norms = {name: _NormCounter(part) for name, part in network.named_children()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(picture, branches)
    by_module = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    parts = {}
    for name, part in network.named_children():
        flops = _flops_of(by_module, f"{type(network).__name__}.{name}")
        parts[name] = PartCount(*_sizes(part.parameters()), paper=flops + norms[name].operations, torch=flops)
    queries = network.queries if isinstance(network, QueryOpt) else None
    if queries is not None:
        parts["queries"] = PartCount(*_sizes([queries]), paper=0, torch=0)
    return FlopCount(config.bits * branches, parts, config.tokens if isinstance(network, QueryOpt) else 0)


def _sizes(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """How many numbers there are in parameters, and in those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in parameters]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _flops_of(by_module: dict[str, int], name: str) -> int:
    """The count of a module; of one that is only a container, those of the modules in it."""
    if name in by_module:
        return by_module[name]
    return sum(count for other, count in by_module.items() if other.rpartition(".")[0] == name)


class _NormCounter:
    """Counts the operations of the norms inside a module as fvcore does."""

    def __init__(self, module: nn.Module) -> None:
        self.operations = 0
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d | nn.LayerNorm):
                child.register_forward_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.LayerNorm):
            each = _LAYER_NORM
        else:
            each = _BATCH_NORM_TRAIN if module.training else _BATCH_NORM_EVAL
        self.operations += each * inputs[0].numel()
