"""A picture of a study's table: each arm's mAP with its seeds' range, seen and unseen classes apart."""

from typing import BinaryIO

from queryopt.bench.quality.ablation.report import StudyTable

__all__ = ["plot_study"]

_SERIES = (
    ("deployed", "seen classes, deployed", "#33608c"),
    ("paper_protocol", "seen classes, gallery of solved codes", "#93c6d6"),
    ("unseen", "unseen classes, deployed", "#e3a93f"),
)
_PAPER = "#c6543c"


def plot_study(table: StudyTable, file: BinaryIO) -> None:
    """Write a PNG. The paper's figures are marked where it reports the arm."""
    # The Agg canvas directly: no display, and none of pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = [part for part in _SERIES if any(part[0] in row.values for row in table.rows)]
    figure = Figure(figsize=(9, 1.6 + 0.55 * max(1, len(table.rows))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    height = 0.8 / max(1, len(series))
    for n, (name, label, colour) in enumerate(series):
        drawn = [(i, row.values[name]) for i, row in enumerate(table.rows) if name in row.values]
        at = [i + (n - (len(series) - 1) / 2) * height for i, _ in drawn]
        means = [value.mean for _, value in drawn]
        ranges = [[v.mean - v.low for _, v in drawn], [v.high - v.mean for _, v in drawn]]
        axes.barh(at, means, height * 0.92, xerr=ranges, color=colour, label=label, error_kw={"linewidth": 1})
    marked = [(i, row.paper / 100) for i, row in enumerate(table.rows) if row.paper is not None]
    if marked:
        axes.scatter([x for _, x in marked], [i for i, _ in marked], marker="D", color=_PAPER, label="the paper")
    labels = [f"{row.label}  ({len(row.seeds)})" for row in table.rows]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("tie-aware mAP; whiskers: smallest and largest of the seeds (their number in brackets)")
    axes.set_title(table.title, loc="left")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if table.rows:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, frameon=False, fontsize=8)
    figure.savefig(file, dpi=130, format="png")
