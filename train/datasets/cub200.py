"""CUB-200-2011: 200 species of birds, with 312 attributes of each picture.

See id_tables for the tables of pictures and classes; a picture lies in its class's folder. And:

    attributes/image_attribute_labels.txt   <picture> <attribute> <1 = present> <certainty 1 to 4> <seconds>
    attributes.txt                          <attribute> <group>::<value>, here, in attributes/ or beside the folder

bounding_boxes.txt and parts/ are not read.
"""

import os
import warnings
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from queryopt.errors import DataError
from queryopt.text import display_path
from queryopt.train.data import DataSplits
from queryopt.train.datasets.attributes import CERTAINTIES, ImageAttributes
from queryopt.train.datasets.id_tables import read_id_tables
from queryopt.train.datasets.official import Counts, OfficialDataset
from queryopt.train.datasets.splits import ClassRow
from queryopt.train.datasets.tables import Row, file_lines, keyed_rows, read_rows

__all__ = ["DATASET"]

_COLUMNS = ("picture", "attribute", "present", "certainty")


def _read(folder: Path, variant: str) -> DataSplits:
    tables = read_id_tables(folder)
    for picture, row in tables.pictures.items():
        of_class = tables.classes[tables.class_ids[picture]].fields[1]
        if str(PurePosixPath(row.fields[1]).parent) != of_class:
            label = tables.label_rows[picture]
            raise label.error(
                f"picture {display_path(picture)} has class {label.fields[1]} ({display_path(of_class)}), but lies in "
                f"another class's folder: {display_path(row.fields[1])} ({row.path.name}, line {row.line})"
            )
    numbers = sorted(tables.classes)
    classes = [ClassRow(tables.classes[number].fields[1], tables.classes[number]) for number in numbers]
    return tables.splits(folder, classes, {number: label for label, number in enumerate(numbers)})


def _read_attributes(folder: Path) -> ImageAttributes:
    """Every picture of images.txt with every attribute of attributes.txt.

    DataError, naming file and line, for rows that fit neither, values out of range, and a pair twice or never.
    """
    pictures = keyed_rows(read_rows(folder / "images.txt", ("picture", "path")), "picture")
    names = keyed_rows(
        read_rows(_names_file(folder), ("attribute", "group::value"), spaces_in="group::value"), "attribute"
    )
    path = folder / "attributes" / "image_attribute_labels.txt"
    table = _read_table(path)  # int64 [rows x 4]
    rows = _positions(table[:, 0], [row.whole_number(0, "id of a picture") for row in pictures.values()])
    columns = _positions(table[:, 1], [row.whole_number(0, "id of an attribute") for row in names.values()])
    checks = (
        (rows < 0, "picture {0} is unknown: images.txt has no such id"),
        (columns < 0, "attribute {1} is unknown: attributes.txt has no such id"),
        ((table[:, 2] < 0) | (table[:, 2] > 1), "{2} is neither 1 (present) nor 0 (absent)"),
        ((table[:, 3] < min(CERTAINTIES)) | (table[:, 3] > max(CERTAINTIES)), "{3} is no certainty: 1 to 4"),
    )
    for wrong, message in checks:
        if wrong.any():
            index = int(np.argmax(wrong))
            raise _error(path, index, message.format(*table[index].tolist()))
    shape = (len(pictures), len(names))
    cells = rows * shape[1] + columns  # [rows]
    order = np.argsort(cells, kind="stable")
    if (twice := np.diff(cells[order]) == 0).any():
        index = int(order[1:][twice].min())
        raise _error(path, index, f"picture {table[index, 0]} has attribute {table[index, 1]} already")
    if len(cells) != shape[0] * shape[1]:
        there = np.zeros(shape[0] * shape[1], bool)
        there[cells] = True
        row, column = divmod(int(np.argmin(there)), shape[1])
        raise DataError(
            f"{display_path(path)}: {len(cells):,} rows, but {shape[0]:,} pictures x {shape[1]} attributes are "
            f"{shape[0] * shape[1]:,}: the first that is missing is picture {list(pictures)[row]} with attribute "
            f"{list(names)[column]}"
        )
    present, certainties = np.zeros(shape, bool), np.zeros(shape, np.uint8)
    present[rows, columns] = table[:, 2] == 1
    certainties[rows, columns] = table[:, 3]
    return ImageAttributes(
        tuple(row.fields[1] for row in names.values()),
        tuple(os.path.normpath(f"images/{row.fields[1]}") for row in pictures.values()),
        present,
        certainties,
    )


def _names_file(folder: Path) -> Path:
    """The archive has it beside the folder; copies of the data set have it in one of the others."""
    places = (folder / "attributes.txt", folder / "attributes" / "attributes.txt", folder.parent / "attributes.txt")
    for path in places:
        if path.is_file():
            return path
    raise DataError(
        f"{display_path(folder)}: no attributes.txt here, in attributes/ or beside this folder: extract the archive "
        "again, which has it beside the folder"
    )


def _read_table(path: Path) -> npt.NDArray[np.int64]:
    """The first four columns: int64 [rows, 4]. Some rows of the official file have more than five."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file, warnings.catch_warnings():
            # It only warns of a file without rows, and of numbers with a fraction.
            warnings.simplefilter("error")
            # 3.7 million rows: as Python's objects they would take a minute and a gigabyte.
            return np.loadtxt(file, np.int64, comments=None, usecols=range(4), ndmin=2)
    except (OSError, ValueError, Warning):
        pass
    # Something is wrong: find out what, and where.
    lines = file_lines(path)
    for number, line in enumerate(lines, 1):
        row = Row(path, number, tuple(line.split()))
        if line and len(row.fields) < len(_COLUMNS):
            layout = " ".join(f"<{column}>" for column in _COLUMNS)
            many = "1 column" if len(row.fields) == 1 else f"{len(row.fields)} columns"
            raise row.error(f"{display_path(line[:80])}: {many}, but the layout begins with {layout}")
        for column, name in enumerate(_COLUMNS[: len(row.fields)]):
            row.whole_number(column, name)
    raise DataError(f"{display_path(path)}: no rows in it: extract the archive again")


def _positions(values: npt.NDArray[np.int64], ids: list[int]) -> npt.NDArray[np.int64]:
    """Where each value stands among the ids, -1 where it doesn't: int64 [n]."""
    known = np.array(ids, np.int64)
    order = np.argsort(known)
    at = np.minimum(np.searchsorted(known[order], values), len(known) - 1)
    return np.where(known[order][at] == values, order[at], -1).astype(np.int64)


def _error(path: Path, index: int, what: str) -> DataError:
    """An error about the row at this position among those that are not empty."""
    numbers = [number for number, line in enumerate(file_lines(path), 1) if line]
    return Row(path, numbers[index], ()).error(what)


DATASET = OfficialDataset(
    name="cub200",
    title="CUB-200-2011",
    folder="CUB_200_2011",
    sign="images.txt",
    home="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    counts={"": Counts(200, 5_994, 5_794)},
    read=_read,
    attributes=_read_attributes,
    attribute_count=312,
)
