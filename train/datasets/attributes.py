"""Visual attributes of pictures: which of them each picture shows, and how sure whoever said so was.

One interface for data sets that name them picture by picture (CUB-200-2011) and for those whose classes have them (the
generated birds).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from queryopt.errors import DataError
from queryopt.text import display_path, listed
from queryopt.train.data import LabelledImages

__all__ = ["CERTAINTIES", "ImageAttributes", "birds_attributes"]

CERTAINTIES = {1: "not visible", 2: "guessing", 3: "probably", 4: "definitely"}
"""The levels of `ImageAttributes.certainties`, those of CUB-200-2011."""


@dataclass(frozen=True, eq=False)
class ImageAttributes:
    """Which attributes each picture shows.

    names: one an attribute, `<group>::<value>` as in `has_bill_shape::curved`; of a group, values exclude each other or
    not, as the data set will have it. paths: one a picture, as LabelledImages.paths. present: bool [pictures x
    attributes]. certainties: uint8 [pictures x attributes], a key of CERTAINTIES; what is not visible is not known to
    be absent.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    present: npt.NDArray[np.bool_]
    certainties: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Refuse matrices that don't belong to the names and paths."""
        shape = (len(self.paths), len(self.names))
        for name, matrix, dtype in (("present", self.present, np.bool_), ("certainties", self.certainties, np.uint8)):
            if matrix.shape != shape or matrix.dtype != dtype:
                raise DataError(
                    f"attributes: {name} is {matrix.dtype} {list(matrix.shape)}, but {np.dtype(dtype)} "
                    f"{list(shape)}, pictures x attributes, is needed"
                )

    def __len__(self) -> int:
        return len(self.paths)

    def of(self, images: LabelledImages) -> "ImageAttributes":
        """The rows of these pictures, in their order. DataError, naming some, where pictures have none."""
        row_of = {path: row for row, path in enumerate(self.paths)}
        unknown = [path for path in images.paths if path not in row_of]
        if unknown:
            raise DataError(
                f"{display_path(images.root)}: {len(unknown)} of {len(images)} pictures have no attributes: "
                f"{listed([display_path(path) for path in unknown])}"
            )
        rows = np.fromiter((row_of[path] for path in images.paths), np.int64, len(images))
        return ImageAttributes(self.names, images.paths, self.present[rows], self.certainties[rows])

    def groups(self) -> dict[str, tuple[int, ...]]:
        """The attributes of each group, as positions in `names`, in their order."""
        groups: dict[str, list[int]] = {}
        for position, name in enumerate(self.names):
            groups.setdefault(name.partition("::")[0], []).append(position)
        return {group: tuple(positions) for group, positions in groups.items()}


def birds_attributes(folder: str | os.PathLike[str], images: LabelledImages) -> ImageAttributes:
    """The attributes of generated birds: those of each picture's class, all certain ("definitely").

    folder: the generated set's, with attributes.csv. DataError where that is missing or damaged, lacks a class of
    `images`, or has classes with other columns.
    """
    from queryopt.train.synthetic import load_attributes

    of_class = load_attributes(folder)
    unknown = [name for name in images.classes if name not in of_class]
    if unknown:
        raise DataError(
            f"{display_path(Path(folder, 'attributes.csv'))}: has no row for {listed(list(map(display_path, unknown)))}"
        )
    names = _names(list(of_class.values()))
    table = np.array(
        [[of_class[c].get(group) == value for group, value in names] for c in images.classes], bool
    )  # [classes x attributes]
    certainties = np.full((len(images), len(names)), 4, np.uint8)
    joined = tuple(f"{group}::{value}" for group, value in names)
    return ImageAttributes(joined, images.paths, table[images.labels], certainties)


def _names(classes: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """Every (attribute, value) that occurs: attributes in the file's order, the values of each sorted."""
    groups = dict.fromkeys(group for values in classes for group in values)
    return [(group, value) for group in groups for value in sorted({values[group] for values in classes})]
