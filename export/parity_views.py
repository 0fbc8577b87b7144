"""Views of pictures: the test crop of each, and where that is too little, flips and crops, the same in every run."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt import images
from queryopt.card import Preprocessing
from queryopt.errors import ImageError
from queryopt.text import display_path

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["parity_views", "spread", "view_batches"]


def parity_views(
    pictures: Sequence[str | bytes | os.PathLike[Any]],
    preprocessing: Preprocessing,
    count: int,
    failures: dict[str, str],
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield `count` views as (index into pictures, pixels uint8 [s, s, 3]); fewer only where no picture can be read.

    Every picture gives its test crop first. Where that is not enough, each gives as many further views as the others:
    flips, and crops of the picture; always the same ones. An unreadable picture goes into `failures`.
    """
    usable = [int(i) for i in spread(len(pictures), count)]
    made = dict.fromkeys(usable, 0)
    missing = count
    while missing and usable:
        readable = []
        for position, index in enumerate(usable):
            share = math.ceil(missing / (len(usable) - position))
            if not share:
                break
            try:
                picture = images.open_rgb(pictures[index])
            except ImageError as error:
                failures[display_path(pictures[index])] = str(error)
                continue
            readable.append(index)
            for view in range(made[index], made[index] + share):
                yield index, _view(picture, index, view, preprocessing)
            made[index] += share
            missing -= share
        usable = readable


def view_batches(
    views: Iterator[tuple[int, npt.NDArray[np.uint8]]], size: int
) -> Iterator[tuple[list[int], npt.NDArray[np.uint8]]]:
    """Views in batches of at most `size`: (indices of their pictures, pixels uint8 [b, s, s, 3])."""
    members: list[int] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    for index, view in views:
        members.append(index)
        pixels.append(view)
        if len(members) == size:
            yield members, np.stack(pixels)
            members, pixels = [], []
    if members:
        yield members, np.stack(pixels)


def spread(n: int, count: int) -> npt.NDArray[np.int64]:
    """At most `count` of the rows 0..n-1, evenly spread, ascending."""
    if n <= count:
        return np.arange(n)
    return np.arange(count) * n // count


def _view(picture: "Image", index: int, view: int, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """View 0 is the test crop, 1 its mirror image; then crops of half a side or more, every other one mirrored."""
    if view >= 2:
        share_x, share_y, at_x, at_y = np.random.default_rng((index, view)).random(4)
        width, height = (
            max(1, round(side * (0.5 + share / 2)))
            for side, share in zip(picture.size, (share_x, share_y), strict=True)
        )
        left, top = round((picture.width - width) * at_x), round((picture.height - height) * at_y)
        picture = picture.crop((left, top, left + width, top + height))
    pixels = images.resize_crop(picture, preprocessing)
    return np.ascontiguousarray(pixels[:, ::-1]) if view % 2 else pixels
