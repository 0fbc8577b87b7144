"""What an official data set is, and which there are: one interface for all, and the same checks of each."""

import os
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from queryopt.errors import DataError, UsageError
from queryopt.text import did_you_mean, display_path
from queryopt.train.data import DataSplits
from queryopt.train.datasets.attributes import ImageAttributes

__all__ = ["ANY_SIZE", "Counts", "OfficialDataset", "dataset_names", "official_dataset"]

ANY_SIZE = "any-size"
"""The option, of every data set, that leaves the official counts unchecked."""


class Counts(NamedTuple):
    """How large a data set is: classes, training pictures (the gallery) and test pictures (the queries)."""

    classes: int
    train: int
    test: int

    def __str__(self) -> str:
        return f"{self.classes:,} classes, {self.train:,} training and {self.test:,} test pictures"


@dataclass(frozen=True)
class OfficialDataset:
    """A public data set in the layout that its archive has.

    name: as --data takes it. title: its own name. folder: what the archive calls the folder that everything lies in.
    sign: a file in it by which it is known. home: where it can be had. counts: the official sizes, by variant; "" is
    the paper's choice, another key an option of that name. read: (folder, variant) -> its pictures; raises DataError
    that names file and line. attributes: folder -> the attributes of its pictures, in any order, and how many of them
    the official set has. download: fetches the archive into a folder and extracts it there.
    """

    name: str
    title: str
    folder: str
    sign: str
    home: str
    counts: Mapping[str, Counts]
    read: Callable[[Path, str], DataSplits]
    attributes: Callable[[Path], ImageAttributes] | None = None
    attribute_count: int = 0
    download: Callable[[Path], None] | None = None

    def load(self, root: str | os.PathLike[str], variant: str = "", any_size: bool = False) -> DataSplits:
        """The official training and test pictures.

        root: the data set's folder, or the one that holds it. any_size: don't compare with the official counts (a part
        of the set, say); all else is checked as ever. DataError for whatever doesn't fit; UsageError for a variant that
        there isn't.
        """
        self.check_variant(variant)
        folder = self.find(root)
        splits = self.read(folder, variant)
        counts = Counts(len(splits.train.classes), len(splits.train), len(splits.test))
        if counts.classes < 2:
            raise DataError(
                f"{display_path(folder)}: one class only ({display_path(splits.train.classes[0])}); codes need at "
                "least two classes to tell apart"
            )
        expected = self.counts[variant]
        if not any_size and counts != expected:
            raise DataError(
                f"{display_path(folder)}: {counts}, but {self.title} has {expected}: extract the archive again, or "
                f"say --any-size where this is meant to be a part of it"
            )
        return splits

    def load_attributes(self, root: str | os.PathLike[str], any_size: bool = False) -> ImageAttributes:
        """What is known of each picture. DataError where the set has no attributes, or their files don't fit."""
        if self.attributes is None:
            raise DataError(f"{self.title} has no attributes of its pictures")
        folder = self.find(root)
        attributes = self.attributes(folder)
        if not any_size and len(attributes.names) != self.attribute_count:
            raise DataError(
                f"{display_path(folder)}: {len(attributes.names)} attributes, but {self.title} has "
                f"{self.attribute_count}: extract the archive again, or say --any-size where this is "
                "meant to be a part of it"
            )
        return attributes

    def find(self, root: str | os.PathLike[str]) -> Path:
        """The data set's own folder: `root` or one in it. DataError where it is neither."""
        folder_or_parent = Path(root)
        for folder in (folder_or_parent, folder_or_parent / self.folder):
            if (folder / self.sign).is_file():
                return folder
        shown = display_path(folder_or_parent)
        if not folder_or_parent.is_dir():
            what = "not a folder" if folder_or_parent.exists() else "no such folder"
            raise DataError(f"{shown}: {what}; {self._where()}")
        raise DataError(
            f"{shown}: {self.title} is not here: there is neither {self.sign} nor {self.folder}/{self.sign}; "
            f"{self._where()}"
        )

    def fetch(self, root: str | os.PathLike[str]) -> None:
        """Download and extract the data set into `root`, unless it is there.

        UsageError where it can't be downloaded without its owners' leave; MissingError where the network or its server
        can't be reached; DataError for an archive that is damaged.
        """
        try:
            self.find(root)
        except DataError:
            if self.download is None:
                raise UsageError(
                    f"{self.title} can't be downloaded for you: get it from {self.home}, extract it, and give the "
                    f"folder that holds {self.folder}/ as --root"
                ) from None
            if (there := Path(root, self.folder)).exists():
                raise DataError(
                    f"{display_path(there)}: there already, but without {self.sign}: a part of {self.title}? Remove "
                    "it, and it will be downloaded; or extract the archive again"
                ) from None
            self.download(Path(root))

    def check_variant(self, variant: str) -> None:
        """UsageError where there is no such variant."""
        if variant not in self.counts:
            options = [ANY_SIZE, *(name for name in self.counts if name)]
            raise UsageError(f"{self.name}+{variant}: no option {variant}; there are {', '.join(options)}")

    def _where(self) -> str:
        how = "download it with qo-train --download" if self.download else f"get it from {self.home}"
        return f"give the folder that holds {self.folder}/ as --root, or {how}"


def dataset_names() -> tuple[str, ...]:
    """The names that `official_dataset` takes, sorted."""
    return tuple(sorted(_datasets()))


def official_dataset(name: str) -> OfficialDataset:
    """The data set of this name. UsageError where there is none."""
    if name not in _datasets():
        raise UsageError(
            f"no data set is called {name!r}: there are {', '.join(dataset_names())}"
            f"{did_you_mean(name, dataset_names())}"
        )
    return _datasets()[name]


@cache
def _datasets() -> dict[str, OfficialDataset]:
    """Every module of this package that defines DATASET has one."""
    package = import_module("queryopt.train.datasets")
    modules = (import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__))
    defined = (getattr(module, "DATASET", None) for module in modules)
    return {dataset.name: dataset for dataset in defined if isinstance(dataset, OfficialDataset)}
