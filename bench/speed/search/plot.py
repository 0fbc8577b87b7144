"""A picture of a SearchReport: latency against the size of the gallery."""

from pathlib import Path
from typing import Any

from queryopt.bench.figure import new_figure
from queryopt.bench.speed.search.report import Group, SearchReport, is_ours

__all__ = ["plot_latency"]

_COLUMNS = 3
_LEGEND = 3
"""Names side by side below a panel."""
_COLOURS = {"faiss": "#33608c", "usearch": "#7a9a3a", "numpy": "#8a8f98", "duckdb": "#e3a93f", "torch": "#8a5aa5"}
_OURS = ("#c6543c", "#7a2f3a", "#e38b6f", "#401818")


def plot_latency(report: SearchReport, path: Path) -> None:
    """Write a PNG: a panel a group, a line a contender from its median, with a band up to its p95."""
    columns = min(_COLUMNS, len(report.groups))
    lines = -(-len(report.groups) // columns)
    figure = new_figure(1 + 5 * columns, 1.2 + 4 * lines)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    names = list(dict.fromkeys(row["searcher"] for group in report.groups for row in group.rows))
    colours = dict(zip((name for name in names if name not in _COLOURS), _OURS, strict=False)) | _COLOURS
    handles: dict[str, Any] = {}
    for panel, group in zip(panels, report.groups, strict=False):
        handles |= _plot_group(panel, group, {name: colours[name] for name in names})
    for panel in panels[len(report.groups) :]:
        panel.set_visible(False)
    for panel in panels[::columns]:
        panel.set_ylabel("µs a query: median, up to p95")
    figure.suptitle(f"Exact search, one thread: {report.head.machine.split(',')[0]}", x=0.01, ha="left", weight="bold")
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower left",
        ncols=min(len(names), _LEGEND * columns),
        frameon=False,
    )
    figure.savefig(path, dpi=130, format="png")


def _plot_group(panel: Any, group: Group, colours: dict[str, str]) -> dict[str, Any]:
    """Draw a panel; returns the line of each contender in it."""
    lines = {}
    for name, colour in colours.items():
        if rows := group.of(name):
            sizes, medians = [row["n"] for row in rows], [row["p50"] for row in rows]
            width = 2.4 if is_ours(rows[0]) else 1.4
            (lines[name],) = panel.plot(sizes, medians, marker="o", markersize=4, linewidth=width, color=colour)
            panel.fill_between(sizes, medians, [row["p95"] for row in rows], color=colour, alpha=0.15, linewidth=0)
    panel.set(xscale="log", yscale="log", xlabel="codes in the gallery")
    panel.set_title(f"{group.bits} bits, {group.data}\n{group.task.describe()}", fontsize=9, loc="left")
    panel.grid(True, which="major", color="#e4e6ea")
    panel.spines[["top", "right"]].set_visible(False)
    return lines
