"""Figures drawn by matplotlib: embedded into the report, and, where asked for, saved as PNG and SVG.

An embedded SVG follows the reader's dark or light scheme: its ink is a variable that the figure itself sets by media
query, since a picture has no part in the page's styles.
"""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queryopt.errors import UsageError
from queryopt.text import display_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLORS", "Chart", "Figures", "styled"]

COLORS = ("#3b7dc4", "#d9603b", "#3a9a6b", "#9069c9", "#c99a2e", "#5f9ea8", "#c4598f", "#7d7d7d")
"""Of lines, in their order: each reads on white and on black."""
_INK, _DARK_INK = "#1c1d1e", "#e9eaeb"
_GRID, _DARK_GRID = "#d8d8d5", "#363b43"
_SVG_BYTES = 400_000
"""A larger SVG is embedded as PNG."""
_DPI = 144


@contextmanager
def styled() -> Iterator[None]:
    """Inside, matplotlib draws in the report's style, and equal figures become equal bytes."""
    import matplotlib
    from cycler import cycler

    style: Any = {
        "axes.edgecolor": _INK,
        "axes.labelcolor": _INK,
        "axes.titlesize": 10.5,
        "axes.labelsize": 9.5,
        "axes.prop_cycle": cycler(color=COLORS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "font.size": 9.5,
        "grid.color": _GRID,
        "grid.alpha": 1.0,
        "grid.linewidth": 0.7,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "svg.hashsalt": "queryopt",
        "text.color": _INK,
        "xtick.color": _INK,
        "xtick.labelsize": 8.5,
        "ytick.color": _INK,
        "ytick.labelsize": 8.5,
    }
    with matplotlib.rc_context(style):
        yield


@dataclass(frozen=True)
class Chart:
    """A figure as pages embed it. source: a data: URL. width, height: in pixels. raster: a PNG, not an SVG."""

    source: str
    width: int
    height: int
    raster: bool


class Figures:
    """Takes figures into the report. folder: where to save each as NAME.png and NAME.svg too; None for nowhere.

    UsageError at once where the folder can't be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.saved: list[Path] = []
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"{display_path(folder)}: can't be made: {error.strerror}") from None

    def embed(self, name: str, figure: "Figure") -> Chart:
        """The figure for a page. name: of its files."""
        svg, png = _bytes(figure, "svg"), None
        if self.folder is not None:
            png = _bytes(figure, "png")
            self._save(f"{name}.svg", svg)
            self._save(f"{name}.png", png)
        width, height = (round(side * 110) for side in figure.get_size_inches())
        if raster := len(svg) > _SVG_BYTES:
            kind, data = "png", png or _bytes(figure, "png")
        else:
            kind, data = "svg+xml", _follow_scheme(svg.decode()).encode()
        return Chart(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width, height, raster)

    def save(self, name: str, figure: "Figure") -> None:
        """Save a figure that the page shows in another way; nothing where figures are not saved."""
        if self.folder is not None:
            for kind in ("png", "svg"):
                self._save(f"{name}.{kind}", _bytes(figure, kind))

    def _save(self, name: str, data: bytes) -> None:
        from queryopt.files import replacing

        assert self.folder is not None
        with replacing(self.folder / name) as file:
            file.write(data)
        self.saved.append(self.folder / name)


def _bytes(figure: "Figure", kind: str) -> bytes:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"transparent": True} if kind == "svg" else {"dpi": _DPI, "facecolor": "white"}
    # Without the time of day: equal reports are equal files.
    figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None}, **options)
    return buffer.getvalue()


def _follow_scheme(svg: str) -> str:
    """The SVG with ink and grid that follow the reader's colour scheme."""
    light, dark = (f"svg{{--ink:{ink};--grid:{grid}}}" for ink, grid in ((_INK, _GRID), (_DARK_INK, _DARK_GRID)))
    style = f"{light}@media(prefers-color-scheme:dark){{{dark}}}"
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
    return svg.replace('<style type="text/css">', f'<style type="text/css">{style}', 1)
