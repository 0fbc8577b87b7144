"""A picture of a LatencyReport: time by batch size, and a roofline with each layer group as a point."""

from pathlib import Path
from typing import TYPE_CHECKING

from queryopt.bench.figure import new_figure
from queryopt.bench.speed.latency.layers import LayerGroup
from queryopt.bench.speed.latency.report import LatencyReport
from queryopt.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_latency"]

_COLOURS = ("#c6543c", "#33608c", "#e3a93f", "#7a9a3a", "#8a5aa5", "#5b9ac2", "#7a2f3a", "#8a8f98")
_SHOWN_SHARE = 0.005
"""Groups that take less of a model's time than this are left out."""


def plot_latency(report: LatencyReport, path: Path) -> None:
    """Write a PNG: images a second by batch size, and where layers were profiled their roofline."""
    figure = new_figure(12 if report.layers else 7, 5.2)
    panels = figure.subplots(1, 2 if report.layers else 1, squeeze=False)[0]
    # One file in two backends is two contenders of one name.
    keys = list(dict.fromkeys((row["name"], row["runs_on"]) for row in report.rows))
    colours = dict(zip(keys, _COLOURS * (1 + len(keys) // len(_COLOURS)), strict=False))
    _rates(panels[0], report, colours)
    if report.layers:
        _roofline(panels[1], report, colours)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, which="major", color="#e4e6ea")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    title = f"{report.head.machine.split(',')[0]}, {counted(report.threads, 'thread', 'threads')}"
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    figure.savefig(path, dpi=130, format="png")


def _rates(axes: "Axes", report: LatencyReport, colours: dict[tuple[str, str], str]) -> None:
    for (name, runs_on), colour in colours.items():
        rows = [row for row in report.rows if (row["name"], row["runs_on"]) == (name, runs_on)]
        precision = rows[0]["precision"]
        label = f"{name.removesuffix(f', {precision}')}, {precision} ({runs_on})"
        rates = [row["images_per_second"] for row in rows]
        axes.plot([row["batch"] for row in rows], rates, marker="o", color=colour, label=label)
    batches = sorted({row["batch"] for row in report.rows})
    axes.set(xscale="log", xlabel="batch", ylabel="images a second (median)")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def _roofline(axes: "Axes", report: LatencyReport, colours: dict[tuple[str, str], str]) -> None:
    intensities = []
    for name, groups in report.layers.items():
        colour = next(c for (n, runs_on), c in colours.items() if n == name and runs_on.startswith("onnxruntime"))
        total = sum(group.seconds for group in groups)
        for group in _shown(groups, total):
            intensities.append(group.operations / group.bytes)
            rate, area = group.operations / group.seconds / 1e9, 15 + 600 * group.seconds / total
            axes.scatter(intensities[-1], rate, s=area, color=colour, alpha=0.6, linewidth=0)
    low, high = min(intensities, default=1) / 2, max(intensities, default=100) * 2
    memory = report.peaks.bytes_per_second
    for precision, peak in report.peaks.flops.items():
        ridge = peak / memory
        left, right = min(low, ridge), max(high, ridge)
        rates = [left * memory / 1e9, peak / 1e9, peak / 1e9]
        axes.plot([left, ridge, right], rates, color="#8a8f98", linewidth=1.2)
        axes.text(right, peak / 1e9, f" {precision}", va="center", fontsize=8, color="#555")
    axes.set(xscale="log", yscale="log", xlabel="operations a byte (inputs, weights and outputs)", ylabel="GFLOP/s")
    axes.set_title("layer groups; area: share of the model's time; lines: peak and memory", fontsize=9, loc="left")


def _shown(groups: tuple[LayerGroup, ...], total: float) -> list[LayerGroup]:
    return [group for group in groups if group.operations and group.seconds >= total * _SHOWN_SHARE]
