"""Which pictures the parity gate looks at."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queryopt.errors import DataError, QueryOptError
from queryopt.images import find_images
from queryopt.progress import Progress
from queryopt.text import display_path

if TYPE_CHECKING:
    from queryopt.train.checkpoint import Checkpoint
    from queryopt.train.data import LabelledImages

__all__ = ["ParityPictures", "PicturePath", "calibration_pictures", "labelled_in", "parity_pictures"]

PicturePath = str | bytes | os.PathLike[Any]


@dataclass(frozen=True)
class ParityPictures:
    """What the gate compares on. labels: each picture's class, None where it has none. source: what they are."""

    paths: list[PicturePath]
    labels: list[str | None]
    source: str


def parity_pictures(
    checkpoint: "Checkpoint",
    given: str | os.PathLike[str] | Sequence[PicturePath] | None = None,
    progress: Progress | None = None,
) -> ParityPictures:
    """The pictures to compare on.

    given: a folder (see labelled_in) or paths, which have no labels. None: the validation pictures of the run, drawn as
    its training drew them; its training pictures where it set none aside (parity chooses nothing).
    progress: for a generated data set that has to be made again. DataError where there are none.
    """
    if given is None:
        return _of_run(checkpoint, progress)
    if isinstance(given, str | os.PathLike):
        return labelled_in(given)
    if not given:
        raise DataError("no pictures were given for the parity check")
    return ParityPictures(list(given), [None] * len(given), "the given pictures")


def labelled_in(folder: str | os.PathLike[str], option: str = "--images") -> ParityPictures:
    """The pictures of a folder and its sub-folders; one in a sub-folder has that folder's name as label.

    DataError where there are none; it names `option`.
    """
    root = os.fsencode(folder)
    names = find_images(root)
    if not names:
        raise DataError(
            f"{display_path(folder)}: no pictures in this folder: pass one that holds some with {option} FOLDER"
        )
    labels = [os.fsdecode(os.path.basename(os.path.dirname(name))) or None for name in names]
    return ParityPictures([os.path.join(root, name) for name in names], labels, "the given folder")


def calibration_pictures(
    checkpoint: "Checkpoint", given: str | os.PathLike[str] | None, count: int, progress: Progress | None = None
) -> list[PicturePath]:
    """At most `count` pictures to calibrate int8 on, evenly spread: of the given folder, else the run's training ones.

    Not those of the parity gate, where the run set some aside. DataError where there are none.
    """
    pictures = _of_run(checkpoint, progress, train=True) if given is None else labelled_in(given, "--calibrate")
    paths = pictures.paths
    return paths[:: max(1, -(-len(paths) // count))]


def _of_run(checkpoint: "Checkpoint", progress: Progress | None, train: bool = False) -> ParityPictures:
    from queryopt.train.data import split_validation
    from queryopt.train.open_set import hold_out_classes
    from queryopt.train.sources import load_data

    config = checkpoint.config
    remedy = f"pass some with {'--calibrate' if train else '--images'} FOLDER"
    if not config.data:
        raise DataError(
            f"{display_path(checkpoint.path)}: its configuration doesn't say where its pictures lie: {remedy}"
        )
    try:
        data = load_data(config.data, seed=config.seed, test_fraction=config.test_fraction, progress=progress)
        images = hold_out_classes(data, config.open_set, config.seed).seen.train
        training, validation = split_validation(images, config.validation_fraction, config.seed)
    except (QueryOptError, OSError) as error:
        raise DataError(
            f"{display_path(checkpoint.path)}: the pictures that it was trained on can't be had ({error}): {remedy}"
        ) from None
    if not train and len(validation):
        return _labelled(validation, "the run's validation pictures")
    return _labelled(training if train else images, "the run's training pictures")


def _labelled(images: "LabelledImages", source: str) -> ParityPictures:
    return ParityPictures(
        [Path(images.root, path) for path in images.paths],
        [images.classes[label] for label in images.labels.tolist()],
        source,
    )
