"""A picture of the cosines between classes' codes over the number of branches, with the Welch bound (Figure 3)."""

from collections.abc import Sequence
from typing import BinaryIO

from queryopt.bench.quality.welch import WelchReport, welch_bound

__all__ = ["plot_welch"]

_BOUND, _RMS, _LARGEST = "#5f6773", "#33608c", "#c6543c"


def plot_welch(reports: Sequence[WelchReport], file: BinaryIO) -> None:
    """Write a PNG of at least one report: all columns of training on the left, the deployed bits on the right."""
    # The Agg canvas directly: no display, and none of pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    at = [report.branches for report in reports]
    most = max(at)
    shown = range(1, most + 1)
    for part, axis in zip(("all_columns", "code"), axes, strict=True):
        found = [getattr(report, part) for report in reports]
        axis.scatter(at, [one.rms for one in found], color=_RMS, label="root mean square", zorder=3)
        axis.scatter(at, [one.largest for one in found], color=_LARGEST, marker="^", label="largest", zorder=3)
        for classes, bits in sorted({(r.all_columns.classes, r.bits) for r in reports}):
            bound = [welch_bound(classes, bits * (n if part == "all_columns" else 1)) for n in shown]
            label = f"Welch bound, {classes} classes, {bits} bits" + (" x N" if part == "all_columns" else "")
            axis.plot(shown, bound, color=_BOUND, marker="." if most == 1 else None, label=label)
        axis.set_title("all columns of training, d = bits x N" if part == "all_columns" else "the code's own bits")
        axis.set_xlabel("branches N")
        axis.set_ylim(0, 1.03)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    axes[0].set_ylabel("|cosine| between two classes' codes")
    figure.savefig(file, dpi=130, format="png")
