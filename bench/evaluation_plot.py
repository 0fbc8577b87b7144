"""A picture of evaluations: precision and recall over the radius, and the classes from the worst to the best."""

from collections.abc import Mapping
from typing import BinaryIO

from queryopt.bench.evaluate import Evaluation
from queryopt.cli import display_path

__all__ = ["plot_evaluations"]

_NAMED = 12
"""Classes named, the worst ones."""
_NAME_LENGTH = 34


def plot_evaluations(evaluations: Mapping[str, Evaluation], file: BinaryIO) -> None:
    """Write a PNG of evaluations, by their titles, the first of which orders the classes."""
    # The Agg canvas directly: no display, and none of pyplot's global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    curve, radius, ordered, named = figure.subplots(1, 4)
    lines = []
    for title, evaluation in evaluations.items():
        values = evaluation.metrics.curve
        shown = f"{display_path(title)} (mAP {evaluation.metrics.map:.3f})"
        [line] = curve.plot(values.recall, values.precision, marker="o", markersize=3, linewidth=1.4, label=shown)
        lines.append(line)
        curve.annotate("radius 0", (values.recall[0], values.precision[0]), fontsize=7, color=line.get_color())
        radius.plot(values.recall, color=line.get_color(), linewidth=1.4)
        radius.plot(values.precision, color=line.get_color(), linewidth=1.4, linestyle="--")
        scores = [score.map for score in evaluation.per_class]
        ordered.plot([100 * (i + 0.5) / len(scores) for i in range(len(scores))], scores, color=line.get_color())
    curve.set_xlim(-0.02, 1.02)
    for axes, title, x, y in (
        (curve, "one point a radius, mean over queries", "recall", "precision"),
        (radius, "recall (full), precision (dashed)", "within so many bits", ""),
        (ordered, "mAP of the classes, worst to best", "% of the classes", ""),
    ):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.25)

    first, *_ = evaluations.values()
    worst = first.per_class[:_NAMED]
    height = 0.8 / len(evaluations)
    for n, (line, evaluation) in enumerate(zip(lines, evaluations.values(), strict=True)):
        scores_of = {score.label: score.map for score in evaluation.per_class}
        rows = [i + n * height for i in range(len(worst))]
        named.barh(rows, [scores_of.get(score.label, 0.0) for score in worst], height, color=line.get_color())
    middle = (len(evaluations) - 1) * height / 2
    # Without mathtext: a class may be called $x$.
    names = [_short(str(score.label)).replace("$", r"\$") for score in worst]
    named.set_yticks([i + middle for i in range(len(worst))], names, fontsize=7)
    named.invert_yaxis()
    named.set_xlim(0, 1.02)
    named.set_title(f"the worst {len(worst)} of {len(first.per_class)} classes", fontsize=10)
    named.set_xlabel("mAP")
    for axes in (curve, radius, ordered, named):
        axes.spines[["top", "right"]].set_visible(False)
    labels = [str(line.get_label()).replace("$", r"\$") for line in lines]
    figure.legend(lines, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=8)
    figure.savefig(file, dpi=130, format="png")


def _short(name: str) -> str:
    shown = display_path(name)
    return shown if len(shown) <= _NAME_LENGTH else f"{shown[: _NAME_LENGTH - 1]}…"
