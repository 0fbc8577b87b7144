"""Food-101: 101 dishes. Its training pictures were never cleaned, so some labels are wrong.

meta/{train,test}.txt   <class>/<number>, without a suffix
meta/classes.txt        one class a line, as its folder is called
meta/labels.txt         its name for people, in the same order; not needed, but checked where it is there
images/<class>/<number>.jpg
"""

from pathlib import Path

from queryopt.errors import DataError
from queryopt.text import display_path
from queryopt.train.data import DataSplits
from queryopt.train.datasets.download import download_with_torchvision
from queryopt.train.datasets.official import Counts, OfficialDataset
from queryopt.train.datasets.splits import ClassRow, Listed, find_label, make_splits
from queryopt.train.datasets.tables import read_rows

__all__ = ["DATASET"]


def _read(folder: Path, variant: str) -> DataSplits:
    meta = folder / "meta"
    classes = [ClassRow(row.fields[0], row) for row in read_rows(meta / "classes.txt", ("class",))]
    labels = meta / "labels.txt"
    if labels.exists():
        names = len(read_rows(labels, ("name",), spaces_in="name"))
        if names != len(classes):
            raise DataError(
                f"{display_path(labels)}: {names} names, but classes.txt has {len(classes)} classes: extract the "
                "archive again"
            )
    label_of = {c.name: label for label, c in enumerate(classes)}
    train, test = (_read_part(meta / f"{part}.txt", label_of) for part in ("train", "test"))
    return make_splits(folder, train, test, classes)


def _read_part(path: Path, label_of: dict[str, int]) -> list[Listed]:
    pictures = []
    for row in read_rows(path, ("class/number",)):
        name, slash, number = row.fields[0].partition("/")
        if not slash or not number:
            raise row.error(f"{display_path(row.fields[0])} is no picture: <class>/<number> is needed")
        label = find_label(name, label_of, row, kind="class", listed_in="classes.txt")
        pictures.append(Listed(f"images/{name}/{number}.jpg", label, row))
    return pictures


def _download(root: Path) -> None:
    download_with_torchvision("Food101", root, DATASET.folder)


DATASET = OfficialDataset(
    name="food101",
    title="Food-101",
    folder="food-101",
    sign="meta/classes.txt",
    home="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    counts={"": Counts(101, 75_750, 25_250)},
    read=_read,
    download=_download,
)
