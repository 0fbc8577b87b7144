"""Pictures of the index, by id: decoded, made small, and kept for a while; none lies outside of the index's root. And
those that were uploaded.
"""

import os
import secrets
import textwrap
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from queryopt.card import Preprocessing
from queryopt.errors import ImageError
from queryopt.images import crop_box, open_rgb, picture_size, resize_crop
from queryopt.runtime.index import IndexedImage
from queryopt.runtime.pages import Markup, render
from queryopt.runtime.thumbnails import small_jpeg

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MAX_SIZE", "MIN_SIZE", "Jpeg", "Pictures", "UploadedQuery", "Uploads", "View", "confined", "placeholder"]

View = Literal["model", "whole"]
"""The square in the middle that the model looks at, or all of the picture."""

MIN_SIZE, MAX_SIZE = 16, 2048
_SIZES = 10_000
"""Pictures whose width and height are kept."""


@dataclass(frozen=True)
class Jpeg:
    """A JPEG, and a tag that changes with the file that it was made from."""

    data: bytes
    tag: str


class Pictures:
    """Makes JPEGs of pictures of an index.

    preprocessing: of the index's model. keep_bytes: of JPEGs that are kept, the last used ones. decoders: pictures that
    are decoded at once; further ones wait, which bounds the memory.
    """

    def __init__(self, preprocessing: Preprocessing, keep_bytes: int, decoders: int) -> None:
        self.preprocessing = preprocessing
        self._keep = keep_bytes
        self._made: OrderedDict[tuple[object, ...], Jpeg] = OrderedDict()
        self._bytes = 0
        self._sizes: OrderedDict[tuple[bytes, str], tuple[int, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.BoundedSemaphore(decoders)

    def tag(self, root: Path, relative: bytes) -> str:
        """The tag of a picture's JPEGs now. ImageError where the file is not there, or lies outside of the root."""
        return _tag(confined(root, relative))

    def size(self, root: Path, relative: bytes) -> tuple[int, int]:
        """Width and height of a picture of the index, upright, from its header. ImageError as in `jpeg`."""
        path = confined(root, relative)
        key = (path, _tag(path))
        with self._lock:
            known = self._sizes.get(key)
        if known is None:
            known = picture_size(path)
            with self._lock:
                self._sizes[key] = known
                if len(self._sizes) > _SIZES:
                    self._sizes.popitem(last=False)
        return known

    def jpeg(self, root: Path, image: IndexedImage, size: int, view: View) -> Jpeg:
        """A picture of the index, upright, of at most `size` pixels a side, without any metadata.

        ImageError (the reason, without a path) where it can't be read or lies outside of the root.
        """
        path = confined(root, image.relative)
        key = (path, _tag(path), size, view)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        with self._decoding:
            made = Jpeg(self.encode(open_rgb(path, at_least=2 * size), size, view), key[1])
        with self._lock:
            if key not in self._made:
                self._made[key] = made
                self._bytes += len(made.data)
            while self._bytes > self._keep:
                self._bytes -= len(self._made.popitem(last=False)[1].data)
        return made

    def open(self, root: Path, image: IndexedImage) -> "Image.Image":
        """A picture of the index as the model is to be shown it: mode RGB, of full size. ImageError as in `jpeg`."""
        path = confined(root, image.relative)
        with self._decoding:
            return open_rgb(path)

    def decode(self, file: BinaryIO, max_pixels: int) -> "Image.Image":
        """A picture that was uploaded. ImageError where it is none, or has more pixels."""
        with self._decoding:
            return open_rgb(file, max_pixels=max_pixels)

    def encode(self, image: "Image.Image", size: int, view: View) -> bytes:
        """A decoded picture as a JPEG of at most `size` pixels a side."""
        if view == "model" and self.preprocessing.resize == "pad":
            from PIL import Image

            side = min(size, max(image.size))
            shown = replace(self.preprocessing, image_size=side, resize_size=side)
            return small_jpeg(Image.fromarray(resize_crop(image, shown)), size)
        return small_jpeg(image, size, crop_box(image.size, self.preprocessing) if view == "model" else None)


@dataclass(frozen=True, eq=False)
class UploadedQuery:
    """An uploaded picture: its name, code, margins int8 [bits], logits float32 [bits], maps float32 [bits, g, g] where
    the model has attention, itself as a small JPEG, and the width and height that it came with.
    """

    name: str
    code: npt.NDArray[np.uint8]
    margins: npt.NDArray[np.int8]
    logits: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32] | None
    jpeg: bytes
    size: tuple[int, int]


class Uploads:
    """Keeps the last `keep` of them, each under a name that can't be guessed."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._kept: OrderedDict[str, UploadedQuery] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, query: UploadedQuery) -> str:
        """Keep a query; returns its name."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[name] = query
            if len(self._kept) > self._keep:
                self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> UploadedQuery | None:
        """A query by its name; None where it is not kept (any more)."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)


def placeholder(reason: str) -> Markup:
    """An SVG in place of a picture that can't be shown, which says why."""
    return render("placeholder.svg.jinja", "queryopt.runtime.serve", lines=textwrap.wrap(reason, 26)[:5])


def confined(root: Path, relative: bytes) -> bytes:
    """The real path of a picture below the root. ImageError where a link leads out of it."""
    base = os.path.realpath(os.fsencode(root))
    path = os.path.realpath(os.path.join(base, relative))
    if os.path.commonpath([base, path]) != base:
        raise ImageError("a link that leaves the folder of the index")
    return path


def _tag(path: bytes) -> str:
    try:
        status = os.stat(path)
    except OSError:
        raise ImageError("the file is not there any more") from None
    # Unpacked archives have files of equal size and time: the inode tells one that took another's place or id.
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
