"""Pictures in the terminal, by kitty's protocol or as sixels, where it can show them; through textual-image."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from queryopt.errors import ImageError, MissingError
from queryopt.text import install_extra

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

__all__ = ["Captioned", "Protocol", "TerminalPictures", "why_not_shown"]

Protocol: TypeAlias = Literal["kitty", "sixel", "half blocks"]
"""The last one is what any terminal with colours can: two pixels a character."""

_CELLS = 16
"""Characters that a picture is wide."""
_GAP = 2
_MOST = 16
"""Pictures in a row, however wide the terminal: kitty's placeholders number no more than 297 characters of one."""
_PIXELS = 14
"""Pixels that are made for each of them: those of a terminal's characters, about."""


@dataclass(frozen=True)
class Captioned:
    """A picture file with what stands below it."""

    path: bytes
    caption: str


def why_not_shown() -> str:
    """Why no pictures can be shown here, "" where they can. MissingError where textual-image is not installed."""
    from importlib.util import find_spec

    if find_spec("textual_image") is None:
        raise MissingError(f"--show needs textual-image, which is not installed: {install_extra('show')}")
    if not sys.stdout.isatty() or sys.__stdout__ is None or not sys.__stdout__.isatty():
        return "the output is no terminal"
    if os.environ.get("TERM", "dumb") == "dumb":
        return "this terminal (TERM=dumb) shows text alone"
    return ""


class TerminalPictures:
    """Shows rows of pictures on this terminal. Make it before anything else reads from it: it is asked what it can.

    width: characters in a line. protocol: None to ask the terminal.
    """

    def __init__(self, width: int, protocol: Protocol | None = None) -> None:
        self.protocol: Protocol = protocol or _ask()
        self._width = width

    def rows(self, pictures: Sequence[Captioned]) -> "Iterator[RenderableType]":
        """For rich: the pictures, as many side by side as fit, with their captions."""
        from rich.text import Text

        most = min(_MOST, max(1, self._width // (_CELLS + _GAP)))
        for start in range(0, len(pictures), most):
            part = pictures[start : start + most]
            yield self._image(_side_by_side([one.path for one in part]), len(part) * (_CELLS + _GAP))
            yield Text("".join(_fitted(one.caption).ljust(_CELLS + _GAP) for one in part).rstrip())

    def _image(self, image: "Image", cells: int) -> "RenderableType":
        from textual_image import renderable

        kinds: dict[Protocol, Any] = {
            "kitty": renderable.TGPImage,
            "sixel": renderable.SixelImage,
            "half blocks": renderable.HalfcellImage,
        }
        shown: RenderableType = kinds[self.protocol](image, width=cells, height="auto")
        return shown


def _ask() -> Protocol:
    """What the terminal can. textual-image asks it when it is imported; where it can't answer, nothing is asked."""
    if sys.__stdin__ is None or not sys.__stdin__.isatty():
        return "half blocks"
    from textual_image import renderable

    protocols: dict[Any, Protocol] = {renderable.TGPImage: "kitty", renderable.SixelImage: "sixel"}
    return protocols.get(renderable.Image, "half blocks")


def _side_by_side(paths: "list[bytes]") -> "Image":
    """The middle squares of pictures in a row, with a gap after each; an empty square for one that can't be read."""
    from PIL import Image, ImageOps

    from queryopt.images import open_rgb

    side, gap = _CELLS * _PIXELS, _GAP * _PIXELS
    sheet = Image.new("RGBA", (len(paths) * (side + gap), side), (0, 0, 0, 0))
    for number, path in enumerate(paths):
        try:
            image = open_rgb(path, at_least=side)
        except ImageError:
            image = Image.new("RGB", (side, side), (128, 128, 128))
        sheet.paste(ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS), (number * (side + gap), 0))
    return sheet


def _fitted(caption: str) -> str:
    from rich.cells import cell_len, set_cell_size

    return caption if cell_len(caption) <= _CELLS else set_cell_size(caption, _CELLS - 1) + "…"
