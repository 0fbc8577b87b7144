"""Small pictures as data URIs."""

import base64
import io
import os
from collections import OrderedDict

from queryopt.errors import ImageError

__all__ = ["Thumbnails"]


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
    from PIL import Image, ImageOps

    from queryopt.images import open_rgb

    try:
        image = open_rgb(path, at_least=2 * pixels)
    except ImageError as error:
        return None, str(error) if os.path.lexists(path) else "file not found"
    if square:
        side = min(pixels, *image.size)
        image = ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS)
    else:
        image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS, reducing_gap=3.0)
    data = io.BytesIO()
    # Colour at half the resolution shows in pictures of a few dozen pixels.
    image.save(data, "JPEG", quality=82, optimize=True, subsampling=2 if max(image.size) > 128 else 0)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode(), ""
