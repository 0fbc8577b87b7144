"""curves.png: how a run went."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queryopt.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "save_curves"]


def save_curves(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write the picture of `draw_curves` in one step; nothing where there are no lines."""
    if not lines:
        return
    buffer = io.BytesIO()
    draw_curves(lines).savefig(buffer, format="png", dpi=130)
    with replacing(path) as file:
        file.write(buffer.getvalue())


def draw_curves(lines: Sequence[dict[str, Any]]) -> "Figure":
    """Draw the lines of metrics.jsonl (at least one): loss and its parts, validation map, learning rate, against outer
    iterations.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = max(line["inner"] for line in lines) + 1
    at = [line["outer"] + (line["inner"] + 1) / epochs for line in lines]
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, quality, rate = figure.subplots(1, 3)

    parts = ("loss", "hash_loss", "quantisation_loss", "classification_loss")
    for key in parts:
        if any(line.get(key) for line in lines):  # not every method has every part
            label = key.removesuffix("_loss")
            loss.plot(at, [line.get(key, 0.0) for line in lines], label=label, linewidth=1.4)
    loss.set_yscale("log")
    loss.set_title("training loss")
    _legend_below(loss)

    measured = [(x, line) for x, line in zip(at, lines, strict=True) if "map" in line]
    series = (("map", "deployed (network codes)"), ("map_paper", "gallery of supervised codes"), ("chance", "chance"))
    for key, label in series:
        if measured:
            style = {"linestyle": ":", "color": "grey"} if key == "chance" else {"marker": "o", "markersize": 3}
            quality.plot([x for x, _ in measured], [line[key] for _, line in measured], label=label, **style)
    quality.set_ylim(0, 1)
    quality.set_title("validation: tie-aware mAP")
    if measured:
        _legend_below(quality)
    else:
        quality.text(0.5, 0.5, "no validation pictures", ha="center", transform=quality.transAxes, color="grey")

    rate.plot(at, [line["lr"] for line in lines], linewidth=1.4)
    rate.set_title("learning rate")
    for axis in (loss, quality, rate):
        axis.set_xlabel("outer iteration")
        axis.set_xlim(0, max(at))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _legend_below(axis: Any) -> None:
    """Under the axis's label, for curves may pass anywhere within the axis."""
    axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
