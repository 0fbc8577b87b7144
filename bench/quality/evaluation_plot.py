"""A picture of evaluations: precision and recall over the radius, and the classes from the worst to the best."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO

from queryopt.bench.figure import new_figure, plain
from queryopt.bench.quality.evaluate import Evaluation
from queryopt.text import display_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["draw_classes", "draw_curve", "draw_radius", "draw_worst", "plot_evaluations"]

_NAMED = 12
"""Classes named, the worst ones."""
_NAME_LENGTH = 34


def plot_evaluations(evaluations: Mapping[str, Evaluation], file: BinaryIO) -> None:
    """Write a PNG of evaluations, by their titles, the first of which orders the classes."""
    figure = new_figure(15, 4.6)
    curve, radius, ordered, named = figure.subplots(1, 4)
    lines = draw_curve(curve, evaluations)
    curve.set_title("one point a radius, mean over queries", fontsize=10)
    draw_radius(radius, evaluations)
    radius.set_title("recall (full), precision (dashed)", fontsize=10)
    draw_classes(ordered, evaluations)
    ordered.set_title("mAP of the classes, worst to best", fontsize=10)
    draw_worst(named, evaluations)
    for axes in (curve, radius, ordered, named):
        axes.spines[["top", "right"]].set_visible(False)
    labels = [str(line.get_label()).replace("$", r"\$") for line in lines]
    figure.legend(lines, labels, loc="outside lower left", ncols=2, frameon=False, fontsize=8)
    figure.savefig(file, dpi=130, format="png")


def draw_curve(axes: "Axes", evaluations: Mapping[str, Evaluation], legend: bool = False) -> "list[Line2D]":
    """Precision over recall, a point a radius, by their titles. Returns the lines, labelled with the mAP."""
    lines = []
    for title, evaluation in evaluations.items():
        values = evaluation.metrics.curve
        shown = f"{display_path(title)} (mAP {evaluation.metrics.map:.3f})"
        [line] = axes.plot(values.recall, values.precision, marker="o", markersize=3, linewidth=1.4, label=shown)
        lines.append(line)
        axes.annotate("radius 0", (values.recall[0], values.precision[0]), fontsize=7, color=line.get_color())
    axes.set_xlim(-0.02, 1.02)
    _share(axes, "recall", "precision")
    if legend:
        axes.legend(loc="lower left")
    return lines


def draw_radius(axes: "Axes", evaluations: Mapping[str, Evaluation]) -> None:
    """Recall (full lines) and precision (dashed) over the radius."""
    for n, evaluation in enumerate(evaluations.values()):
        values = evaluation.metrics.curve
        axes.plot(values.recall, color=f"C{n}", linewidth=1.4)
        axes.plot(values.precision, color=f"C{n}", linewidth=1.4, linestyle="--")
    _share(axes, "within so many bits", "")


def draw_classes(axes: "Axes", evaluations: Mapping[str, Evaluation]) -> None:
    """The mAP of all classes, from the worst to the best."""
    for n, evaluation in enumerate(evaluations.values()):
        scores = [score.map for score in evaluation.per_class]
        axes.plot([100 * (i + 0.5) / len(scores) for i in range(len(scores))], scores, color=f"C{n}")
    _share(axes, "% of the classes", "")


def draw_worst(axes: "Axes", evaluations: Mapping[str, Evaluation]) -> None:
    """The classes that the first evaluation finds worst, by name, with the mAP that each evaluation gives them."""
    first, *_ = evaluations.values()
    worst = first.per_class[:_NAMED]
    height = 0.8 / len(evaluations)
    for n, evaluation in enumerate(evaluations.values()):
        scores_of = {score.label: score.map for score in evaluation.per_class}
        rows = [i + n * height for i in range(len(worst))]
        axes.barh(rows, [scores_of.get(score.label, 0.0) for score in worst], height, color=f"C{n}")
    middle = (len(evaluations) - 1) * height / 2
    names = [plain(str(score.label), _NAME_LENGTH) for score in worst]
    axes.set_yticks([i + middle for i in range(len(worst))], names, fontsize=7)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.02), xlabel="mAP")
    axes.set_title(f"the worst {len(worst)} of {len(first.per_class)} classes", fontsize=10)


def _share(axes: "Axes", x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y, ylim=(-0.02, 1.02))
    axes.grid(alpha=0.25)
