"""NABirds: North American birds, 555 visual categories (species, and sexes or ages of some) among 1,011 names."""

from pathlib import Path

from queryopt.train.data import DataSplits
from queryopt.train.datasets.id_tables import read_id_tables
from queryopt.train.datasets.official import Counts, OfficialDataset
from queryopt.train.datasets.splits import ClassRow

__all__ = ["DATASET"]


def _read(folder: Path, variant: str) -> DataSplits:
    """See id_tables for the layout. Most names are of groups that no picture has; the ids in use, sorted, are the
    classes. Their names begin with the id, for a group and a category in it may be called the same. hierarchy.txt is
    not read.
    """
    tables = read_id_tables(folder)
    used = sorted(set(tables.class_ids.values()))
    classes = [ClassRow(f"{number:04d} {tables.classes[number].fields[1]}", tables.classes[number]) for number in used]
    return tables.splits(folder, classes, {number: label for label, number in enumerate(used)})


DATASET = OfficialDataset(
    name="nabirds",
    title="NABirds",
    folder="nabirds",
    sign="images.txt",
    home="https://dl.allaboutbirds.org/nabirds",
    counts={"": Counts(555, 23_929, 24_633)},
    read=_read,
)
