"""Rows of small pictures: as HTML, which fits any screen, and as a figure, for papers and slides."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.bench.figure import new_figure, plain
from queryopt.bench.quality.report.figures import Figures
from queryopt.bench.quality.report.page import PACKAGE
from queryopt.errors import ImageError
from queryopt.runtime.pages import Markup, render
from queryopt.runtime.thumbnails import Thumbnail, Thumbnails

__all__ = ["Mark", "Row", "Strip", "Tile", "Tiles"]

Mark: TypeAlias = Literal["asked-for", "right", "wrong"]
"""The query itself; a picture of its class; one of another class."""

_PIXELS = 96
"""Side of an embedded picture: sharp at the size that a page shows it at, and 2 to 5 kB."""
_SAVED_PIXELS = 120
"""Of a tile in a saved figure, with the gap around it."""
_EDGES = {"asked-for": "#3b7dc4", "right": "#1a7f4b", "wrong": "#c2410c"}
_Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Tile:
    """A picture: a file's path (its middle square is shown), or pixels uint8 [h, w, 3].

    caption: below it. alt: for those who don't see it.
    """

    picture: bytes | _Pixels
    caption: str
    alt: str
    mark: Mark | None = None


@dataclass(frozen=True)
class Strip:
    """Tiles in their order, under a title of their own where a row has several."""

    tiles: Sequence[Tile]
    title: str | None = None


@dataclass(frozen=True)
class Row:
    """A row of the report: a title, lines about it, and strips of tiles."""

    title: str
    about: Sequence[str] = ()
    strips: Sequence[Strip] = field(default_factory=tuple)


class Tiles:
    """Makes rows of tiles; each picture is read once."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._thumbnails = Thumbnails()

    def embed(self, name: str, rows: Sequence[Row], large: bool = False) -> Markup:
        """The rows as HTML. name: of the figure's files, where figures are saved. large: tiles of half more a side."""
        if self._figures.folder is not None:
            self._save(name, rows)
        return render("tiles.html.jinja", PACKAGE, rows=rows, source=self._source, large=large)

    def _source(self, picture: bytes | _Pixels) -> Thumbnail:
        if isinstance(picture, bytes):
            return self._thumbnails.get(picture, _PIXELS)
        from PIL import Image

        data = io.BytesIO()
        Image.fromarray(picture).save(data, "JPEG", quality=82, optimize=True)
        return Thumbnail("data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode())

    def _save(self, name: str, rows: Sequence[Row]) -> None:
        """The same as one figure: a line a strip, in units of a tile."""
        from matplotlib.patches import Rectangle

        lines = [(row.title, strip) for row in rows for strip in row.strips]
        most = max((len(strip.tiles) for _, strip in lines), default=0)
        if not most:
            return
        left, height = 2.1, 1.3
        figure = new_figure(0.85 * (left + most), 0.85 * height * len(lines), fitted=False)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        # All pictures as one: drawn one by one, hundreds take a minute.
        side, step = _SAVED_PIXELS, round(_SAVED_PIXELS * height)
        sheet = np.zeros((step * len(lines), side * most, 4), np.uint8)
        gap = side // 24
        for line, (title, strip) in enumerate(lines):
            top = height * line + 0.24
            said = title if strip.title is None else f"{title}\n{strip.title}"
            axes.text(0.08, top + 0.5, _wrapped(said, 26), va="center", fontsize=7.5)
            for column, tile in enumerate(strip.tiles):
                y, x = step * line + round(0.24 * side), side * column
                if (pixels := _square(tile.picture, side - 2 * gap)) is not None:
                    sheet[y + gap : y + side - gap, x + gap : x + side - gap, :3] = pixels
                    sheet[y + gap : y + side - gap, x + gap : x + side - gap, 3] = 255
                axes.text(left + column + 0.05, top, _wrapped(tile.caption, 18), va="bottom", fontsize=5)
                if tile.mark is not None:
                    box = Rectangle((left + column + 0.04, top + 0.04), 0.92, 0.92, fill=False, linewidth=2)
                    box.set_edgecolor(_EDGES[tile.mark])
                    axes.add_patch(box)
        bottom = height * len(lines)
        axes.imshow(sheet, extent=(left, left + most, step * len(lines) / side, 0), aspect="auto")
        axes.set(xlim=(0, left + most), ylim=(bottom, 0))
        axes.set_axis_off()
        self._figures.save(name, figure)


def _square(picture: bytes | _Pixels, side: int) -> _Pixels | None:
    """All of a picture on a square of so many pixels a side; None for a file that can't be read."""
    from PIL import Image, ImageOps

    from queryopt.images import open_rgb

    try:
        image = open_rgb(picture, at_least=side) if isinstance(picture, bytes) else Image.fromarray(picture)
    except ImageError:
        return None
    return np.asarray(ImageOps.pad(image, (side, side), Image.Resampling.LANCZOS, color="white"))


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(plain(part) for line in text.split("\n") for part in textwrap.wrap(line, width)[:3])
