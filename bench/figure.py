"""Figures of matplotlib without a display, and without pyplot's global state."""

from typing import TYPE_CHECKING

from queryopt.text import display_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["new_figure", "plain"]


def new_figure(width: float = 6.0, height: float = 3.9, fitted: bool = True) -> "Figure":
    """An empty figure of so many inches. fitted: axes make room for their labels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if fitted else None)
    FigureCanvasAgg(figure)
    return figure


def plain(text: str, most: int = 60) -> str:
    """A name as matplotlib shows it unchanged, cut after so many characters: a class may be called $x$."""
    shown = display_path(text)
    return (shown if len(shown) <= most else f"{shown[: most - 1]}…").replace("$", r"\$")
