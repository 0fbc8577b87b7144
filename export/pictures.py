"""Which pictures the parity gate looks at, and which views of them: the same in every run."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt import images
from queryopt.card import Preprocessing
from queryopt.errors import DataError, ImageError, QueryOptError
from queryopt.labels import LabelRule
from queryopt.progress import Progress
from queryopt.text import display_path

if TYPE_CHECKING:
    from PIL.Image import Image

    from queryopt.train.checkpoint import Checkpoint
    from queryopt.train.data import LabelledImages

__all__ = [
    "ParityPictures",
    "PicturePath",
    "calibration_pictures",
    "labelled_in",
    "parity_pictures",
    "parity_views",
    "spread",
    "view_batches",
]

PicturePath = str | bytes | os.PathLike[Any]


@dataclass(frozen=True)
class ParityPictures:
    """What the gate compares on. labels: each picture's class, None where it has none. source: what they are."""

    paths: list[PicturePath]
    labels: list[str | None]
    source: str


def parity_pictures(
    checkpoint: "Checkpoint",
    pictures: str | os.PathLike[str] | Sequence[PicturePath] | None = None,
    progress: Progress | None = None,
) -> ParityPictures:
    """The pictures to compare on.

    pictures: a folder (see labelled_in) or paths, which have no labels. None: the validation pictures of the run, drawn
    as its training drew them; its training pictures where it set none aside (parity chooses nothing).
    progress: for a generated data set that has to be made again. DataError where there are none.
    """
    if pictures is None:
        return _of_run(checkpoint, progress)
    if isinstance(pictures, str | os.PathLike):
        return labelled_in(pictures, depth=checkpoint.config.label_depth)
    if not pictures:
        raise DataError("no pictures were given for the parity check")
    return ParityPictures(list(pictures), [None] * len(pictures), "the given pictures")


def labelled_in(folder: str | os.PathLike[str], option: str = "--images", depth: int = 1) -> ParityPictures:
    """The pictures of a folder and its sub-folders, with their labels by the rule of this depth (see LabelRule).

    DataError where there are none; it names `option`.
    """
    root = os.fsencode(folder)
    names = images.find_images(root)
    if not names:
        raise DataError(
            f"{display_path(folder)}: no pictures in this folder: pass one that holds some with {option} FOLDER"
        )
    labels = [*map(LabelRule.of_folder(folder, depth).name, names)]
    return ParityPictures([os.path.join(root, name) for name in names], labels, "the given folder")


def calibration_pictures(
    checkpoint: "Checkpoint", folder: str | os.PathLike[str] | None, count: int, progress: Progress | None = None
) -> list[PicturePath]:
    """At most `count` pictures to calibrate int8 on, evenly spread: of the folder, else the run's training ones.

    Not those of the parity gate, where the run set some aside. DataError where there are none.
    """
    pictures = _of_run(checkpoint, progress, train=True) if folder is None else labelled_in(folder, "--calibrate")
    return pictures.paths[:: max(1, -(-len(pictures.paths) // count))]


def parity_views(
    pictures: Sequence[PicturePath],
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


def _of_run(checkpoint: "Checkpoint", progress: Progress | None, train: bool = False) -> ParityPictures:
    from queryopt.train.data import split_validation
    from queryopt.train.open_set import hold_out_classes
    from queryopt.train.sources import load_run_data

    config = checkpoint.config
    remedy = f"pass some with {'--calibrate' if train else '--images'} FOLDER"
    if not config.data:
        raise DataError(
            f"{display_path(checkpoint.path)}: its configuration doesn't say where its pictures lie: {remedy}"
        )
    try:
        seen = hold_out_classes(load_run_data(config, progress), config.open_set, config.seed).seen.train
        training, validation = split_validation(seen, config.validation_fraction, config.seed)
    except (QueryOptError, OSError) as error:
        raise DataError(
            f"{display_path(checkpoint.path)}: the pictures that it was trained on can't be had ({error}): {remedy}"
        ) from None
    if not train and len(validation):
        return _labelled(validation, "the run's validation pictures")
    return _labelled(training if train else seen, "the run's training pictures")


def _labelled(split: "LabelledImages", source: str) -> ParityPictures:
    return ParityPictures(
        [Path(split.root, path) for path in split.paths],
        [split.classes[label] for label in split.labels.tolist()],
        source,
    )


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
