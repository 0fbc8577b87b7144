"""Small pictures: as JPEGs, and as data URIs of these."""

import base64
import io
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

from queryopt.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Thumbnails", "small_jpeg"]


class Thumbnails:
    """Makes thumbnails, each once while it is among the `keep` last used (10 kB each at 192 pixels)."""

    def __init__(self, keep: int = 4096) -> None:
        self._keep = keep
        self._made: OrderedDict[tuple[bytes, int, bool], tuple[str | None, str]] = OrderedDict()

    def get(self, path: bytes, pixels: int, square: bool = False) -> tuple[str | None, str]:
        """A data URI of a JPEG of the picture, upright, of at most `pixels` a side; or None, and why there is none.

        square: cut out the middle, which is what the model looks at.
        """
        key = (path, pixels, square)
        if key in self._made:
            self._made.move_to_end(key)
            return self._made[key]
        self._made[key] = made = _thumbnail(path, pixels, square)
        if len(self._made) > self._keep:
            self._made.popitem(last=False)
        return made


def _thumbnail(path: bytes, pixels: int, square: bool) -> tuple[str | None, str]:
    from queryopt.images import open_rgb

    try:
        image = open_rgb(path, at_least=2 * pixels)
    except ImageError as error:
        return None, str(error) if os.path.lexists(path) else "file not found"
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    data = small_jpeg(image, pixels, (left, top, left + side, top + side) if square else None)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode(), ""


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
