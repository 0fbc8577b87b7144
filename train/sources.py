"""Where the pictures of a run are, in one line of text: what --data takes, and what config.json keeps.

photos/                                   a folder: see data.load_image_folder
unlabelled:photos/                        a folder of pictures of which nothing is known, in sub-folders or not
synthetic:birds, synthetic:birds?…        a generated set: see synthetic.resolve_data
cub200:/data, vegfru+val:/data            an official data set and the folder that holds it; options follow a plus:
                                          a variant of the set, or any-size (see datasets.OfficialDataset)
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from queryopt.errors import DataError, UsageError
from queryopt.progress import Progress
from queryopt.text import display_path
from queryopt.train.data import DataSplits, LabelledImages, check_folder, load_image_folder, load_unlabelled
from queryopt.train.datasets.attributes import ImageAttributes, birds_attributes
from queryopt.train.datasets.official import ANY_SIZE, OfficialDataset, dataset_names, official_dataset
from queryopt.train.draws import DEFAULT_SEED
from queryopt.train.synthetic import absolute_data, resolve_data

if TYPE_CHECKING:
    from queryopt.train.config import TrainConfig

__all__ = [
    "OfficialSource",
    "absolute_source",
    "check_source",
    "load_attributes",
    "load_data",
    "load_run_data",
    "official_source",
    "with_root",
]


_UNLABELLED = "unlabelled:"


@dataclass(frozen=True)
class OfficialSource:
    """An official data set somewhere. UsageError for a variant that it hasn't, or no folder.

    root: its own folder, or the one that holds it. variant: a key of its counts. any_size: see OfficialDataset.load.
    """

    dataset: OfficialDataset
    root: str
    variant: str = ""
    any_size: bool = False

    def __post_init__(self) -> None:
        self.dataset.check_variant(self.variant)
        if not self.root:
            raise UsageError(
                f"{self.dataset.name} is a data set: say which folder holds it with --root DIR (a folder of your own "
                f"with this name is ./{self.dataset.name})"
            )

    def __str__(self) -> str:
        options = [*([self.variant] if self.variant else []), *([ANY_SIZE] if self.any_size else [])]
        return f"{'+'.join([self.dataset.name, *options])}:{self.root}"

    def load(self) -> DataSplits:
        return self.dataset.load(self.root, self.variant, self.any_size)


def official_source(text: str | os.PathLike[str]) -> OfficialSource | None:
    """The official data set that `text` means, None where it is a path or a generated set.

    UsageError where the data set has no folder or no such option.
    """
    head, _, root = os.fspath(text).partition(":")
    name, *options = head.split("+")
    if name not in dataset_names():
        return None
    dataset = official_dataset(name)
    variants = [option for option in options if option != ANY_SIZE]
    if len(variants) > 1:
        raise UsageError(f"{head}: {' and '.join(variants)} can't be had together")
    return OfficialSource(dataset, root, variants[0] if variants else "", ANY_SIZE in options)


@overload
def with_root(data: str, root: str | None, any_size: bool = False) -> str: ...
@overload
def with_root(data: None, root: str | None, any_size: bool = False) -> None: ...
def with_root(data: str | None, root: str | None, any_size: bool = False) -> str | None:
    """`data` as the options --root and --any-size complete it, None where none of them is given.

    UsageError where they don't belong to it, or stand alone.
    """
    if root is None and not any_size:
        return data
    if data is None:
        raise UsageError("--root and --any-size say more about --data: give that too, such as --data cub200")
    head, colon, inside = data.partition(":")
    if head.split("+")[0] not in dataset_names():
        option = "--root" if root is not None else "--any-size"
        raise UsageError(
            f"{option} goes with an official data set, and {display_path(data)} is none: there are "
            f"{', '.join(dataset_names())}"
        )
    if colon and root is not None:
        raise UsageError(f"{display_path(data)} says already where the data set lies: leave --root out")
    if any_size and ANY_SIZE not in head.split("+"):
        head = f"{head}+{ANY_SIZE}"
    return f"{head}:{inside if root is None else root}"


def check_source(text: str | os.PathLike[str]) -> None:
    """Raise now what `load_data` would for a wrong name or value, or a folder that isn't there; nothing is read."""
    if (folder := _unlabelled(text)) is not None:
        check_folder(Path(folder))
    elif absolute_source(text) == os.path.abspath(text):
        check_folder(Path(text), dataset_names())


def absolute_source(text: str | os.PathLike[str]) -> str:
    """The same data, put so that it means the same in every working directory. UsageError for a wrong name or value."""
    if (folder := _unlabelled(text)) is not None:
        return _UNLABELLED + os.path.abspath(folder)
    source = official_source(text)
    if source is None:
        return absolute_data(text)
    return str(OfficialSource(source.dataset, os.path.abspath(source.root), source.variant, source.any_size))


def load_data(
    text: str | os.PathLike[str],
    *,
    seed: int = DEFAULT_SEED,
    test_fraction: float = 0.2,
    label_depth: int = 1,
    progress: Progress | None = None,
) -> DataSplits:
    """The training and test pictures of whatever `text` means.

    seed, test_fraction: of a folder without train/ and test/; where neither is given, those of a run. label_depth: of a
    folder, how many of those below it name a class. progress: for a generated set that has to be made.
    Raises DataError where there is no such data or it doesn't fit its layout, UsageError for a wrong name or value and
    for an official data set that is given as a plain folder.
    """
    if (source := official_source(text)) is not None:
        return source.load()
    if (folder_of := _unlabelled(text)) is not None:
        return load_unlabelled(folder_of)
    folder = resolve_data(text, progress=progress)
    _refuse_layout(folder)
    return load_image_folder(folder, seed=seed, test_fraction=test_fraction, label_depth=label_depth)


def load_run_data(config: "TrainConfig", progress: Progress | None = None) -> DataSplits:
    """The data of a run, divided as it divides it. Errors as `load_data`."""
    return load_data(
        config.data,
        seed=config.seed,
        test_fraction=config.test_fraction,
        label_depth=config.label_depth,
        progress=progress,
    )


def has_attributes(text: str | os.PathLike[str]) -> bool:
    """Whether the data that `text` means comes with attributes of its pictures. Raises what `resolve_data` does."""
    if (source := official_source(text)) is not None:
        return source.dataset.attributes is not None
    return (resolve_data(text) / "attributes.csv").is_file()


def load_attributes(text: str | os.PathLike[str], images: LabelledImages) -> ImageAttributes:
    """The attributes of these pictures of the data that `text` means, in their order.

    DataError where that data has none, or they don't fit.
    """
    if (source := official_source(text)) is not None:
        return source.dataset.load_attributes(source.root, source.any_size).of(images)
    folder = resolve_data(text)
    if not (folder / "attributes.csv").is_file():
        raise DataError(
            f"{display_path(folder)}: its pictures have no attributes (no attributes.csv): cub200 and synthetic:birds "
            "have some"
        )
    return birds_attributes(folder, images)


def _unlabelled(text: str | os.PathLike[str]) -> str | None:
    """The folder of `unlabelled:FOLDER`; None for any other data."""
    head, colon, folder = os.fspath(text).partition(":")
    return folder if colon and head + colon == _UNLABELLED else None


def _refuse_layout(folder: Path) -> None:
    """As a folder of class folders, an official layout would be a set of classes such as images/ and parts/."""
    for name in dataset_names():
        dataset = official_dataset(name)
        own = (folder / dataset.sign).is_file() and folder.resolve().name == dataset.folder
        if own or (folder / dataset.folder / dataset.sign).is_file():
            raise UsageError(
                f"{display_path(folder)}: here is {dataset.title} in its official layout, which has no folder a class: "
                f"give it as --data {name} --root {display_path(folder)}"
            )
