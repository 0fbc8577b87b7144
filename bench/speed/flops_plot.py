"""A picture of a FlopReport: where the multiply-adds go, beside the paper's Table 4."""

from pathlib import Path

from queryopt.bench.speed.flops import PAPER_TABLE_4, FlopCount, FlopReport

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
    # The Agg canvas directly: no display, and none of pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = report.passes()
    paper, (scale, unit) = (PAPER_TABLE_4, (1e9, "G")) if report.like_the_papers else ((), (1e6, "M"))
    names = [row.name for row in paper] + [f"this network, {name}" for name in counts]
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    costs, sizes = figure.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    for y, row in enumerate(paper):
        costs.barh(y, row.inference / scale, color=_PAPER, label="the paper's figures for inference" if not y else None)
        sizes.barh(y, row.parameters / 1e6, color=_PAPER)
        costs.text(row.inference / scale, y, f" {row.inference / scale:.2f}", va="center")
        sizes.text(row.parameters / 1e6, y, f" {row.parameters / 1e6:.2f}", va="center")
    for y, count in enumerate(counts.values(), start=len(paper)):
        left = 0.0
        for name, value in _costs(count, scale).items():
            costs.barh(y, value, left=left, color=_PARTS[name], label=name if count is report.inference else None)
            left += value
        costs.text(left, y, f" {left:.2f}", va="center")
    y = len(paper)
    left = 0.0
    for name in _PARTS:
        if name in report.inference.parts:
            value = report.inference.parts[name].trainable / 1e6
            sizes.barh(y, value, left=left, color=_PARTS[name])
            left += value
    sizes.text(report.trainable / 1e6, y, f" {report.trainable / 1e6:.2f}", va="center")
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


def _costs(count: FlopCount, scale: float) -> dict[str, float]:
    """Multiply-adds by part, divided by `scale`."""
    return {name: count.parts[name].paper / scale for name in _PARTS if name in count.parts}
