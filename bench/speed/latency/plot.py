"""A picture of a LatencyReport: time by batch size, and a roofline with each layer group as a point."""

from pathlib import Path
from typing import TYPE_CHECKING

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
    # The Agg canvas directly: no display, and none of pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12 if report.layers else 7, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if report.layers else 1, squeeze=False)[0]
    # One file in two backends is two contenders of one name.
    keys = list(dict.fromkeys((row.name, row.runs_on) for row in report.rows))
    colours = dict(zip(keys, _COLOURS * (1 + len(keys) // len(_COLOURS)), strict=False))
    _rates(panels[0], report, colours)
    if report.layers:
        _roofline(panels[1], report, colours)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.suptitle(
        f"{report.machine.split(',')[0]}, {counted(report.threads, 'thread', 'threads')}",
        x=0.01,
        ha="left",
        weight="bold",
    )
    figure.savefig(path, dpi=130, format="png")


def _rates(axes: "Axes", report: LatencyReport, colours: dict[tuple[str, str], str]) -> None:
    for key, colour in colours.items():
        rows = [row for row in report.rows if (row.name, row.runs_on) == key]
        axes.plot(
            [row.batch for row in rows],
            [row.images_per_second for row in rows],
            marker="o",
            color=colour,
            label=f"{key[0].removesuffix(f', {rows[0].precision}')}, {rows[0].precision} ({key[1]})",
        )
    batches = sorted({row.batch for row in report.rows})
    axes.set(xscale="log", xlabel="batch", ylabel="images a second (median)")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e4e6ea")


def _roofline(axes: "Axes", report: LatencyReport, colours: dict[tuple[str, str], str]) -> None:
    intensities = []
    for name, groups in report.layers.items():
        colour = next(c for (n, runs_on), c in colours.items() if n == name and runs_on.startswith("onnxruntime"))
        total = sum(group.seconds for group in groups)
        for group in groups:
            if not group.operations or group.seconds < total * _SHOWN_SHARE:
                continue
            intensity = group.operations / group.bytes
            intensities.append(intensity)
            axes.scatter(
                intensity,
                group.operations / group.seconds / 1e9,
                s=15 + 600 * group.seconds / total,
                color=colour,
                alpha=0.6,
                linewidth=0,
            )
    low, high = (min(intensities, default=1) / 2, max(intensities, default=100) * 2)
    for precision, peak in report.peaks.flops.items():
        ridge = peak / report.peaks.bytes_per_second
        axes.plot(
            [min(low, ridge), ridge, max(high, ridge)],
            [min(low, ridge) * report.peaks.bytes_per_second / 1e9, peak / 1e9, peak / 1e9],
            color="#8a8f98",
            linewidth=1.2,
        )
        axes.text(max(high, ridge), peak / 1e9, f" {precision}", va="center", fontsize=8, color="#555")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations a byte (inputs, weights and outputs)",
        ylabel="GFLOP/s",
    )
    axes.set_title("layer groups; area: share of the model's time; lines: peak and memory", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#e4e6ea")
