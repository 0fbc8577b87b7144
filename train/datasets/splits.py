"""From the rows of a data set's files to its two parts, checked against the pictures that are there."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from queryopt.text import counted, did_you_mean, display_path
from queryopt.train.data import DataSplits, LabelledImages
from queryopt.train.datasets.tables import Row

__all__ = ["ClassRow", "Listed", "find_label", "make_splits"]


class Listed(NamedTuple):
    """A picture that a data set's files name.

    path: relative to the data set's folder. label: position among the classes. row: where it is named.
    """

    path: str
    label: int
    row: Row


class ClassRow(NamedTuple):
    """A class, and the row that names it (of a picture of it, where no file lists the classes)."""

    name: str
    row: Row


def find_label(name: str, labels: Mapping[str, int], row: Row, *, kind: str, listed_in: str) -> int:
    """The label of a class that a row names. DataError, naming file and line, where `labels` has no such class.

    kind: what the data set calls a class. listed_in: the file that lists them.
    """
    if name not in labels:
        raise row.error(
            f"{kind} {display_path(name)} is unknown: {listed_in} has no such name{did_you_mean(name, labels)}"
        )
    return labels[name]


def make_splits(
    folder: Path, train: Sequence[Listed], test: Sequence[Listed], classes: Sequence[ClassRow]
) -> DataSplits:
    """The data set of these pictures, each part in the order given.

    DataError, naming file and line, for: a path that leaves the folder; a picture that is named twice, in one part or
    in both; one that isn't there; a class without a training picture, which nothing could learn; a class name twice.
    """
    _check_classes(classes)
    seen: dict[str, Row] = {}
    train, test = ([_placed(picture, seen) for picture in part] for part in (train, test))
    _check_there(folder, (*train, *test))
    names = tuple(c.name for c in classes)
    train_part, test_part = (
        LabelledImages(
            folder, tuple(p.path for p in part), np.fromiter((p.label for p in part), np.int64, len(part)), names
        )
        for part in (train, test)
    )
    empty = np.flatnonzero(train_part.counts() == 0)
    if len(empty):
        first_class = classes[empty[0]]
        others = f", nor have {len(empty) - 1} more" if len(empty) > 1 else ""
        raise first_class.row.error(f"class {display_path(first_class.name)} has no training picture{others}")
    return DataSplits(train_part, test_part)


def _check_classes(classes: Sequence[ClassRow]) -> None:
    seen: dict[str, Row] = {}
    for name, row in classes:
        first = seen.setdefault(name, row)
        if first is not row:
            raise row.error(f"class {display_path(name)} is in line {first.line} already")


def _placed(picture: Listed, seen: dict[str, Row]) -> Listed:
    """The picture by its shortest path, found inside the folder and not in `seen`, to which it is added."""
    path = PurePosixPath(picture.path)  # without "//" and "./"
    if path.is_absolute() or ".." in path.parts:
        raise picture.row.error(f"{display_path(picture.path)} leads out of the data set's folder")
    placed = picture._replace(path=str(path))
    first = seen.setdefault(placed.path, picture.row)
    if first is not picture.row:
        raise picture.row.error(
            f"{display_path(placed.path)} is in {first.path.name}, line {first.line} already: a picture has one place "
            "in a data set"
        )
    return placed


def _check_there(folder: Path, pictures: Iterable[Listed]) -> None:
    """One look at each folder, not at each of 160,000 files."""
    there: dict[str, set[str]] = {}
    missing = []
    for picture in pictures:
        parent, name = os.path.split(picture.path)
        if parent not in there:
            try:
                there[parent] = set(os.listdir(folder / parent))
            except OSError:
                there[parent] = set()
        if name not in there[parent]:
            missing.append(picture)
    if missing:
        first = missing[0]
        more = f" (and {counted(len(missing) - 1, 'other', 'others')} of its lists)" if len(missing) > 1 else ""
        raise first.row.error(
            f"{display_path(first.path)}: no such picture in {display_path(folder)}{more}: extract the archive again"
        )
