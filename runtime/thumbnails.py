"""Small pictures: as JPEGs, and as data URIs of these."""

import base64
import io
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from queryopt.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

    from queryopt.card import Preprocessing

__all__ = ["Seen", "Thumbnail", "Thumbnails", "seen_square", "small_jpeg"]


class Thumbnails:
    """Makes thumbnails, each once while it is among the `keep` last used (10 kB each at 192 pixels)."""

    def __init__(self, keep: int = 4096) -> None:
        self._keep = keep
        self._made: OrderedDict[tuple[bytes, int], Thumbnail] = OrderedDict()

    def get(self, path: bytes, pixels: int) -> "Thumbnail":
        """All of a picture, upright, of at most `pixels` a side."""
        key = (path, pixels)
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        self._made[key] = made = _thumbnail(path, pixels)
        if len(self._made) > self._keep:
            self._made.popitem(last=False)
        return made


@dataclass(frozen=True)
class Thumbnail:
    """source: a data URI of a JPEG; None where there is none, and `problem` says why. size: width and height of what
    was decoded, which has the picture's shape.
    """

    source: str | None
    problem: str = ""
    size: tuple[int, int] = (0, 0)


def _thumbnail(path: bytes, pixels: int) -> Thumbnail:
    from queryopt.images import open_rgb

    try:
        image = open_rgb(path, at_least=2 * pixels)
    except ImageError as error:
        return Thumbnail(None, str(error) if os.path.lexists(path) else "file not found")
    data = small_jpeg(image, pixels)
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(data).decode(), size=image.size)


@dataclass(frozen=True)
class Seen:
    """The part of a picture of `width` x `height` pixels that a model sees: a square, in the same pixels."""

    width: int
    height: int
    left: float
    top: float
    side: float


def seen_square(size: tuple[int, int], preprocessing: "Preprocessing") -> Seen | None:
    """What the model sees of a picture of this width and height; None where it sees all of it."""
    from queryopt.images import crop_box

    if preprocessing.resize == "pad":
        return None
    left, top, right, _ = crop_box(size, preprocessing)
    return Seen(*size, round(left, 1), round(top, 1), round(right - left, 1))


def small_jpeg(image: "Image.Image", pixels: int, square: tuple[float, float, float, float] | None = None) -> bytes:
    """A Pillow image of mode RGB as a JPEG of at most `pixels` a side; it is never enlarged.

    square: left, top, right and bottom of a square to cut out; what of it lies outside is left out.
    """
    from PIL import Image

    if square is None:
        small = image.copy()
        small.thumbnail((pixels, pixels), Image.Resampling.LANCZOS, reducing_gap=3.0)
    else:
        to = max(1, min(pixels, round(square[2] - square[0])))
        box = (square[0], square[1], min(square[2], image.width), min(square[3], image.height))
        small = image.resize((to, to), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    data = io.BytesIO()
    # Colour at half the resolution shows in pictures of a few dozen pixels.
    small.save(data, "JPEG", quality=82, optimize=True, subsampling=2 if max(small.size) > 128 else 0)
    return data.getvalue()
