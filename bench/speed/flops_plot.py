"""A picture of a FlopReport: where the multiply-adds go, beside the paper's Table 4."""

from pathlib import Path
from typing import TYPE_CHECKING

from queryopt.bench.figure import new_figure
from queryopt.bench.speed.flops import PAPER_TABLE_4, FlopReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_flops"]

_PAPER = "#b9bfc9"
_PARTS = {
    "backbone": "#33608c",
    "fusion": "#5b9ac2",
    "projection": "#93c6d6",
    "encoder": "#e3a93f",
    "decoder": "#c6543c",
    "head": "#7a2f3a",
}


def plot_flops(report: FlopReport, path: Path) -> None:
    """Write a PNG: multiply-adds by part and trainable parameters of this network; the paper's rows above one like
    theirs.
    """
    counts = report.passes()
    paper, (scale, unit) = (PAPER_TABLE_4, (1e9, "G")) if report.like_the_papers else ((), (1e6, "M"))
    figure = new_figure(11, 4.8)
    costs, sizes = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    for y, row in enumerate(paper):
        label = None if y else "the paper's figures for inference"
        cost, size = row.inference / scale, row.parameters / 1e6
        _bar(costs, y, {"paper": cost}, cost, {"paper": label})
        _bar(sizes, y, {"paper": size}, size)
    for y, count in enumerate(counts.values(), start=len(paper)):
        parts = {name: count.parts[name].paper / scale for name in _PARTS if name in count.parts}
        _bar(costs, y, parts, sum(parts.values()), {name: name for name in parts if count is report.inference})
    inference = report.inference.parts
    trainable = {name: inference[name].trainable / 1e6 for name in _PARTS if name in inference}
    _bar(sizes, len(paper), trainable, report.trainable / 1e6)
    names = [row.name for row in paper] + [f"this network, {name}" for name in counts]
    costs.set_yticks(range(len(names)), names)
    costs.invert_yaxis()
    costs.set_xlabel(f"multiply-adds of one picture, forward pass [{unit}], the paper's convention")
    sizes.set_xlabel("trainable parameters [M]")
    for axes in (costs, sizes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xmargin(0.12)
    config = report.config
    title = f"{config.backbone}, {config.bits} bits, {config.image_size} x {config.image_size} pixels"
    figure.suptitle(f"What a network costs: {title}", x=0.01, ha="left", weight="bold")
    figure.legend(loc="outside lower left", ncols=len(_PARTS) + 1, frameon=False)
    figure.savefig(path, dpi=130, format="png")


def _bar(
    axes: "Axes", y: int, parts: dict[str, float], total: float, labels: dict[str, str | None] | None = None
) -> None:
    """One bar of parts in their colours, with the total behind it."""
    left = 0.0
    for name, value in parts.items():
        axes.barh(y, value, left=left, color=_PARTS.get(name, _PAPER), label=(labels or {}).get(name))
        left += value
    axes.text(left, y, f" {total:.2f}", va="center")
