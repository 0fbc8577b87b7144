"""FGVC-Aircraft 2013b: 100 variants of aircraft. The paper trains on trainval.

    data/variants.txt                        one name a line, with spaces in some
    data/images_variant_{trainval,test}.txt  <7-digit id> <variant>
    data/images/<id>.jpg                     the lowest 20 pixels or so are a banner with the photographer's name

The banner stays: the test crop cuts it off (a picture is scaled to 256 pixels and loses 16 at the bottom, the banner
has about 8), and random crops rarely hold it.
"""

from pathlib import Path

from queryopt.text import display_path
from queryopt.train.data import DataSplits
from queryopt.train.datasets.download import download_with_torchvision
from queryopt.train.datasets.official import Counts, OfficialDataset
from queryopt.train.datasets.splits import ClassRow, Listed, find_label, make_splits
from queryopt.train.datasets.tables import read_rows

__all__ = ["DATASET"]

_ID_DIGITS = 7


def _read(folder: Path, variant: str) -> DataSplits:
    classes = [
        ClassRow(row.fields[0], row)
        for row in read_rows(folder / "data" / "variants.txt", ("variant",), spaces_in="variant")
    ]
    label_of = {c.name: label for label, c in enumerate(classes)}
    train, test = (
        _read_part(folder / "data" / f"images_variant_{part}.txt", label_of) for part in ("trainval", "test")
    )
    return make_splits(folder, train, test, classes)


def _read_part(path: Path, label_of: dict[str, int]) -> list[Listed]:
    pictures = []
    for row in read_rows(path, ("picture", "variant"), spaces_in="variant"):
        picture, name = row.fields
        if not (picture.isascii() and picture.isdigit() and len(picture) == _ID_DIGITS):
            raise row.error(f"{display_path(picture)} is no id of a picture: {_ID_DIGITS} digits are needed")
        label = find_label(name, label_of, row, kind="variant", listed_in="variants.txt")
        pictures.append(Listed(f"data/images/{picture}.jpg", label, row))
    return pictures


def _download(root: Path) -> None:
    download_with_torchvision("FGVCAircraft", root, DATASET.folder)


DATASET = OfficialDataset(
    name="aircraft",
    title="FGVC-Aircraft",
    folder="fgvc-aircraft-2013b",
    sign="data/variants.txt",
    home="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    counts={"": Counts(100, 6_667, 3_333)},
    read=_read,
    download=_download,
)
