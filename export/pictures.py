"""Which pictures the parity gate looks at."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queryopt.cli import Progress, display_path
from queryopt.errors import DataError, QueryOptError
from queryopt.images import find_images

if TYPE_CHECKING:
    from queryopt.train.checkpoint import Checkpoint

__all__ = ["PicturePath", "calibration_pictures", "parity_pictures", "pictures_in"]

PicturePath = str | bytes | os.PathLike[Any]


def parity_pictures(
    checkpoint: "Checkpoint",
    given: str | os.PathLike[str] | Sequence[PicturePath] | None = None,
    progress: Progress | None = None,
) -> tuple[list[PicturePath], str]:
    """Paths of the pictures to compare on, and in words what they are.

    given: a folder (searched with its sub-folders) or paths. None: the validation pictures of the run, drawn as its
    training drew them; its training pictures where it set none aside (parity chooses nothing).
    progress: for a generated data set that has to be made again. DataError where there are none.
    """
    if given is None:
        return _of_run(checkpoint, progress)
    if isinstance(given, str | os.PathLike):
        return pictures_in(given), "the given folder"
    if not given:
        raise DataError("no pictures were given for the parity check")
    return list(given), "the given pictures"


def pictures_in(folder: str | os.PathLike[str], option: str = "--images") -> list[PicturePath]:
    """Paths of the pictures in a folder and its sub-folders. DataError where there are none; it names `option`."""
    root = os.fsencode(folder)
    paths: list[PicturePath] = [os.path.join(root, name) for name in find_images(root)]
    if not paths:
        raise DataError(
            f"{display_path(folder)}: no pictures in this folder: pass one that holds some with {option} FOLDER"
        )
    return paths


def calibration_pictures(
    checkpoint: "Checkpoint", given: str | os.PathLike[str] | None, count: int, progress: Progress | None = None
) -> list[PicturePath]:
    """At most `count` pictures to calibrate int8 on, evenly spread: of the given folder, else the run's training ones.

    Not those of the parity gate, where the run set some aside. DataError where there are none.
    """
    paths = _of_run(checkpoint, progress, train=True)[0] if given is None else pictures_in(given, "--calibrate")
    return paths[:: max(1, -(-len(paths) // count))]


def _of_run(checkpoint: "Checkpoint", progress: Progress | None, train: bool = False) -> tuple[list[PicturePath], str]:
    from queryopt.train.data import split_validation
    from queryopt.train.open_set import hold_out_classes
    from queryopt.train.sources import load_data

    config = checkpoint.config
    if not config.data:
        raise DataError(
            f"{display_path(checkpoint.path)}: its configuration doesn't say where its pictures lie: pass some "
            f"with {'--calibrate' if train else '--images'} FOLDER"
        )
    try:
        data = load_data(config.data, seed=config.seed, test_fraction=config.test_fraction, progress=progress)
        images = hold_out_classes(data, config.open_set, config.seed).seen.train
        training, validation = split_validation(images, config.validation_fraction, config.seed)
    except (QueryOptError, OSError) as error:
        raise DataError(
            f"{display_path(checkpoint.path)}: the pictures that it was trained on can't be had "
            f"({error}): pass some with --images FOLDER"
        ) from None
    if train:
        return [Path(training.root, path) for path in training.paths], "the run's training pictures"
    chosen, words = (
        (validation, "the run's validation pictures") if len(validation) else (images, "the run's training pictures")
    )
    return [Path(chosen.root, path) for path in chosen.paths], words
