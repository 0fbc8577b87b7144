"""VegFru: 200 vegetables and 92 fruits. The paper's gallery is train alone; the variant `val` is train and val.

    vegfru_list/vegfru_{train,val,test}.txt   <path> <label>
    veg200_images/<class>/v_*.jpg
    fru92_images/<class>/f_*.jpg

There is no list of classes: a class is called as its folder, which has one label of its own. Some pictures have damaged
EXIF data or unusual modes; the decoder copes, or names them.
"""

from collections import Counter
from pathlib import Path, PurePosixPath

from queryopt.text import display_path
from queryopt.train.data import DataSplits
from queryopt.train.datasets.official import Counts, OfficialDataset
from queryopt.train.datasets.splits import ClassRow, Listed, make_splits
from queryopt.train.datasets.tables import Row, read_rows

__all__ = ["DATASET"]


def _read(folder: Path, variant: str) -> DataSplits:
    lists = folder / "vegfru_list"
    gallery = ("train", "val") if variant == "val" else ("train",)
    train = [row for part in gallery for row in _rows(lists / f"vegfru_{part}.txt")]
    test = _rows(lists / "vegfru_test.txt")
    numbers = _labels([*train, *test])
    used = sorted(numbers)
    label_of = {number: label for label, number in enumerate(used)}
    train_list, test_list = (
        [Listed(row.fields[0], label_of[int(row.fields[1])], row) for row in rows] for rows in (train, test)
    )
    return make_splits(folder, train_list, test_list, [numbers[number] for number in used])


def _rows(path: Path) -> list[Row]:
    return read_rows(path, ("path", "label"), spaces_in="path")


def _labels(rows: list[Row]) -> dict[int, ClassRow]:
    """Each label's class and first row. DataError where a label has two folders, or a folder two labels."""
    of_label: dict[int, tuple[str, Row]] = {}
    of_folder: dict[str, int] = {}
    for row in rows:
        number = row.whole_number(1, "label")
        folder = str(PurePosixPath(row.fields[0]).parent)
        known, first = of_label.setdefault(number, (folder, row))
        if known != folder:
            raise row.error(
                f"label {number} is of {display_path(folder)} here, but of {display_path(known)} in {first.path.name}, "
                f"line {first.line}"
            )
        if of_folder.setdefault(folder, number) != number:
            other = of_label[of_folder[folder]][1]
            raise row.error(
                f"{display_path(folder)} has the label {number} here, but {of_folder[folder]} in {other.path.name}, "
                f"line {other.line}"
            )
    short = Counter(PurePosixPath(folder).name for folder in of_folder)
    named = {}
    for number, (folder, row) in of_label.items():
        name = PurePosixPath(folder).name
        # A vegetable and a fruit of one name keep their folders apart.
        named[number] = ClassRow(name if short[name] == 1 else folder, row)
    return named


DATASET = OfficialDataset(
    name="vegfru",
    title="VegFru",
    folder="vegfru",
    sign="vegfru_list/vegfru_train.txt",
    home="https://github.com/ustc-vim/vegfru",
    counts={"": Counts(292, 29_200, 116_931), "val": Counts(292, 43_800, 116_931)},
    read=_read,
)
