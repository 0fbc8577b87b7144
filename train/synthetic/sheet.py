"""A contact sheet: a few pictures of each class of a data set in one image, to look at."""

import os
from typing import TYPE_CHECKING

import numpy as np

from queryopt.errors import DataError, ImageError, UsageError
from queryopt.images import open_rgb
from queryopt.text import display_path
from queryopt.train.data import LabelledImages, load_image_folder

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["contact_sheet"]


def contact_sheet(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    columns: int = 12,
    rows: int = 9,
    per_class: int = 3,
    thumbnail: int = 96,
) -> None:
    """Write the first pictures of the first classes of a data set to `path` (.png, .jpg …), in rows of `columns`.

    A class takes `per_class` neighbouring cells, `thumbnail` pixels wide and high; an unreadable picture's is grey.
    DataError where `folder` is no data set; UsageError where `path` has no ending that Pillow writes.
    """
    from PIL import Image

    if min(columns, rows, per_class, thumbnail) < 1:
        raise UsageError(
            f"contact sheet of {columns} x {rows} cells of {thumbnail} pixels, {per_class} a class: each is at least 1"
        )
    images = load_image_folder(folder, test_fraction=0).train
    chosen = _first_of_each(images, per_class)[: columns * rows]
    height = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (min(columns, len(chosen)) * thumbnail, height * thumbnail), (128, 128, 128))
    for cell, index in enumerate(chosen):
        sheet.paste(_square(images, index, thumbnail), (cell % columns * thumbnail, cell // columns * thumbnail))
    try:
        sheet.save(path)
    except ValueError:
        raise UsageError(
            f"{display_path(path)}: no ending of a picture format; name the contact sheet .png or .jpg"
        ) from None
    except OSError as error:
        raise DataError(
            f"{display_path(path)}: {error.strerror or error}; the contact sheet can't be written"
        ) from None


def _first_of_each(images: LabelledImages, per_class: int) -> list[int]:
    return [int(i) for label in range(len(images.classes)) for i in np.flatnonzero(images.labels == label)[:per_class]]


def _square(images: LabelledImages, index: int, side: int) -> "Image.Image":
    from PIL import Image, ImageOps

    try:
        return ImageOps.fit(open_rgb(images.path(index)), (side, side), Image.Resampling.BICUBIC)
    except ImageError:
        return Image.new("RGB", (side, side), (128, 128, 128))
