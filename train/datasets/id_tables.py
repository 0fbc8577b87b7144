"""The layout that CUB-200-2011 and NABirds share: tables whose rows begin with a picture's or a class's id.

images.txt               <picture> <path below images/>
image_class_labels.txt   <picture> <class>
train_test_split.txt     <picture> <1 = training, 0 = test>
classes.txt              <class> <name>
"""

from pathlib import Path
from typing import NamedTuple

from queryopt.text import display_path
from queryopt.train.data import DataSplits
from queryopt.train.datasets.splits import ClassRow, Listed, make_splits
from queryopt.train.datasets.tables import Row, check_same_keys, keyed_rows, read_rows

__all__ = ["IdTables", "read_id_tables"]


class IdTables(NamedTuple):
    """The tables, read and found to be about the same pictures and classes.

    pictures: images.txt by picture. label_rows, split_rows: the other two, by picture. class_ids: of each picture, in
    images.txt's order. classes: classes.txt by class id.
    """

    pictures: dict[str, Row]
    label_rows: dict[str, Row]
    split_rows: dict[str, Row]
    class_ids: dict[str, int]
    classes: dict[int, Row]

    def splits(self, folder: Path, classes: list[ClassRow], label_of: dict[int, int]) -> DataSplits:
        """The data set, with these classes and each class id's position among them."""
        train: list[Listed] = []
        test: list[Listed] = []
        for picture, row in self.pictures.items():
            split = self.split_rows[picture]
            part = split.fields[1]
            if part not in ("0", "1"):
                raise split.error(f"{display_path(part)} is no part of the data set: 1 (training) or 0 (test)")
            (train if part == "1" else test).append(
                Listed(f"images/{row.fields[1]}", label_of[self.class_ids[picture]], row)
            )
        return make_splits(folder, train, test, classes)


def read_id_tables(folder: Path) -> IdTables:
    """Read the four tables.

    DataError, naming file and line, for rows with other columns, an id twice in a table, a picture that images.txt
    lacks or another table lacks, a class without a name, and ids of classes that are no numbers.
    """
    pictures = keyed_rows(read_rows(folder / "images.txt", ("picture", "path")), "picture")
    label_rows = keyed_rows(read_rows(folder / "image_class_labels.txt", ("picture", "class")), "picture")
    split_rows = keyed_rows(read_rows(folder / "train_test_split.txt", ("picture", "1 or 0")), "picture")
    check_same_keys(pictures, label_rows, "class")
    check_same_keys(pictures, split_rows, "part of the data set")
    classes: dict[int, Row] = {}
    for row in read_rows(folder / "classes.txt", ("class", "name"), spaces_in="name"):
        number = row.whole_number(0, "id of a class")
        if number in classes:
            raise row.error(f"class {number} is in line {classes[number].line} already")
        classes[number] = row
    class_ids: dict[str, int] = {}
    for picture in pictures:
        row = label_rows[picture]
        class_ids[picture] = number = row.whole_number(1, "id of a class")
        if number not in classes:
            raise row.error(f"class {number} has no name: classes.txt has no such id")
    return IdTables(pictures, label_rows, split_rows, class_ids, classes)
