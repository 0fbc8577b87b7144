"""A picture of a SearchReport: latency against the size of the gallery."""

from pathlib import Path

from queryopt.bench.speed.search.report import SearchReport

__all__ = ["plot_latency"]

_COLUMNS = 3
_LEGEND = 3
"""Names side by side below a panel."""
_COLOURS = {"faiss": "#33608c", "usearch": "#7a9a3a", "numpy": "#8a8f98", "duckdb": "#e3a93f", "torch": "#8a5aa5"}
_OURS = ("#c6543c", "#7a2f3a", "#e38b6f", "#401818")


def plot_latency(report: SearchReport, path: Path) -> None:
    """Write a PNG: a panel a group, a line a contender from its median, with a band up to its p95."""
    # The Agg canvas directly: no display, and none of pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(report.groups))
    lines = -(-len(report.groups) // columns)
    figure = Figure(figsize=(1 + 5 * columns, 1.2 + 4 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    names = dict.fromkeys(row.searcher for group in report.groups for row in group.rows)
    ours = [name for name in names if name.startswith("queryopt")]
    colours = dict(zip(ours, _OURS, strict=False)) | _COLOURS
    labelled = set()
    for panel, group in zip(panels, report.groups, strict=False):
        for name in names:
            rows = group.of(name)
            if not rows:
                continue
            sizes = [row.n for row in rows]
            panel.plot(
                sizes,
                [row.p50 for row in rows],
                marker="o",
                markersize=4,
                linewidth=2.4 if name in ours else 1.4,
                color=colours[name],
                label=None if name in labelled else name,
            )
            panel.fill_between(
                sizes,
                [row.p50 for row in rows],
                [row.p95 for row in rows],
                color=colours[name],
                alpha=0.15,
                linewidth=0,
            )
            labelled.add(name)
        panel.set(xscale="log", yscale="log", xlabel="codes in the gallery")
        panel.set_title(f"{group.bits} bits, {group.data}\n{group.task.describe()}", fontsize=9, loc="left")
        panel.grid(True, which="major", color="#e4e6ea")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(report.groups) :]:
        panel.set_visible(False)
    for panel in panels[::columns]:
        panel.set_ylabel("µs a query: median, up to p95")
    figure.suptitle(f"Exact search, one thread: {report.head.machine.split(',')[0]}", x=0.01, ha="left", weight="bold")
    figure.legend(loc="outside lower left", ncols=min(len(names), _LEGEND * columns), frameon=False)
    figure.savefig(path, dpi=130, format="png")
