"""Which labelled pictures a model is measured on: folders, or a data set as a run divides it."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from queryopt.errors import DataError, MismatchError
from queryopt.kinds import Kind, mistaken
from queryopt.progress import Progress
from queryopt.text import display_path, listed_paths, parse_json
from queryopt.train.data import LabelledImages
from queryopt.train.run_files import CONFIG

if TYPE_CHECKING:
    from queryopt.train.config import TrainConfig
    from queryopt.train.open_set import OpenSet

__all__ = [
    "DataSource",
    "EvaluationPictures",
    "about_run",
    "check_shared",
    "full_paths",
    "labelled_folder",
    "untrained_classes",
]


@dataclass(frozen=True, eq=False)
class EvaluationPictures:
    """What a model is measured on: queries search a gallery, None where an index has its codes.

    unseen: gallery and queries of the classes that a run held out (`qo-train --open-set`), None where there are none.
    lone: pictures that are searched as well, of classes of which there is no other one: an index in use has them, too.
    """

    gallery: LabelledImages | None
    queries: LabelledImages
    unseen: tuple[LabelledImages, LabelledImages] | None = None
    lone: LabelledImages | None = None

    @property
    def searched(self) -> LabelledImages:
        """The gallery, and what lies among it."""
        assert self.gallery is not None
        return self.gallery if self.lone is None else self.gallery.joined(self.lone)

    def real_paths(self) -> set[bytes]:
        parts = (self.gallery, self.queries, self.lone, *(self.unseen or ()))
        return {os.path.realpath(path) for part in parts if part is not None for path in full_paths(part)}


@dataclass(frozen=True)
class DataSource:
    """A data set, and how a run divides it.

    data: see queryopt.train.sources. seed, test_fraction, validation_fraction, open_set, label_depth: as in
    TrainConfig.
    """

    data: str
    seed: int
    test_fraction: float
    validation_fraction: float
    open_set: float = 0.0
    label_depth: int = 1

    @classmethod
    def plain(cls, data: str) -> "DataSource":
        """As no run divides it: with the settings that a run has where nothing is said, and no validation pictures."""
        from queryopt.train.config import TrainConfig

        return cls(data, TrainConfig.seed, TrainConfig.test_fraction, 0.0)

    @classmethod
    def of_run(cls, run: str | os.PathLike[str], data: str | None = None) -> "DataSource":
        """As the run in this folder divides its data (or `data`, where that lies elsewhere now).

        DataError for a folder without a run's config.json, or where that doesn't say where its pictures lie.
        """
        from queryopt.train.checkpoint import read_run_config

        if not os.path.isdir(run) and (wrong := mistaken(run, Kind.RUN)):
            raise DataError(wrong)
        config = read_run_config(Path(run))
        if config is None:
            raise DataError(
                f"{display_path(run)}: no run folder (no config.json in it): give one of qo-train, or, for pictures, "
                f"a model with --data {display_path(run)}"
            )
        return cls.of_config(config, run, data)

    @classmethod
    def of_config(cls, config: "TrainConfig", run: str | os.PathLike[str], data: str | None = None) -> "DataSource":
        """As a run of this configuration divides its data. run: names it in errors."""
        if not (data := data or config.data):
            raise DataError(f"{display_path(run)}: its configuration doesn't say where its pictures lie: give --data")
        fractions = config.test_fraction, config.validation_fraction
        return cls(data, config.seed, *fractions, config.open_set, config.label_depth)

    def pictures(
        self, split: str = "test", progress: Progress | None = None, trained_only: bool = False
    ) -> EvaluationPictures:
        """The pictures of the split "test" or "validation".

        test: the test pictures search the training pictures (and those of classes of one picture), and those of unseen
        classes each other. validation: what a run sets aside to choose its checkpoint searches what it trains on.
        trained_only: leave what is not trained on out of the gallery of "test" too.
        progress: for a generated set that has to be made.

        DataError where there are no queries.
        """
        from queryopt.train.data import split_validation

        divided = self._divided(progress)
        gallery, queries = divided.seen.train, divided.seen.test
        if split == "validation" or trained_only:
            gallery, held_back = split_validation(gallery, self.validation_fraction, self.seed)
            queries = held_back if split == "validation" else queries
        if not len(queries):
            why = f"validation_fraction is {self.validation_fraction:g}" if split == "validation" else "no test part"
            raise DataError(f"{display_path(self.data)}: there are no {split} pictures ({why})")
        if split != "test":
            return EvaluationPictures(gallery, queries)
        lone = None if trained_only else divided.seen.lone
        if divided.unseen is None:
            return EvaluationPictures(gallery, queries, lone=lone)
        if not len(divided.unseen.test):
            raise DataError(f"{display_path(self.data)}: there are no test pictures of the unseen classes")
        return EvaluationPictures(gallery, queries, (divided.unseen.train, divided.unseen.test), lone)

    def training_pictures(self, progress: Progress | None = None) -> LabelledImages:
        """What a run trains on: without what it sets aside, and without the classes that it holds out."""
        from queryopt.train.data import split_validation

        return split_validation(self._divided(progress).seen.train, self.validation_fraction, self.seed)[0]

    def _divided(self, progress: Progress | None) -> "OpenSet":
        from queryopt.train.open_set import hold_out_classes
        from queryopt.train.sources import load_data

        splits = load_data(
            self.data,
            seed=self.seed,
            test_fraction=self.test_fraction,
            label_depth=self.label_depth,
            progress=progress,
        )
        return hold_out_classes(splits, self.open_set, self.seed)


def labelled_folder(folder: str | os.PathLike[str], depth: int = 1) -> tuple[LabelledImages, int]:
    """The pictures of a folder of class folders, and how many have no class: they lie directly in it.

    depth: see LabelRule. DataError where none has one.
    """
    from queryopt.images import find_images
    from queryopt.labels import LabelRule

    pictures = find_images(folder)
    name = LabelRule.of_folder(folder, depth).name
    labelled = {os.fsdecode(path): label for path in pictures if (label := name(path)) is not None}
    if not labelled:
        what = "its pictures lie directly in it" if pictures else "there are no pictures in it"
        raise DataError(f"{os.fsdecode(folder)}: {what}: give a folder with a sub-folder of pictures for each class")
    classes = sorted(set(labelled.values()))
    number = {name: label for label, name in enumerate(classes)}
    labels = np.array([number[name] for name in labelled.values()], np.int64)
    return LabelledImages(Path(folder), tuple(labelled), labels, tuple(classes)), len(pictures) - len(labelled)


def check_shared(queries: LabelledImages, gallery: Iterable[str], where: str | os.PathLike[str]) -> None:
    """MismatchError, naming some of each, where no class of the queries is one of the gallery's, which lies `where`."""
    theirs = sorted(set(gallery))
    if set(queries.classes).isdisjoint(theirs):
        raise MismatchError(
            f"{display_path(queries.root)} and {display_path(where)} share no class: the queries are of "
            f"{listed_paths(queries.classes)}, the gallery of {listed_paths(theirs)}. A class is the first folder "
            "below each, or, with --label-depth N, the first N: give folders whose sub-folders have the same names"
        )


def about_run(folder: str | os.PathLike[str]) -> Mapping[str, Any]:
    """What a run's config.json notes beside its configuration; nothing where there is none, or it is damaged."""
    try:
        values = parse_json(Path(folder, CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    about = values.get("run") if isinstance(values, dict) else None
    return about if isinstance(about, dict) else {}


def untrained_classes(run: str | os.PathLike[str], gallery: LabelledImages) -> list[str]:
    """The gallery's classes that the run was not trained on; none where it doesn't say on which it was."""
    classes = set(map(display_path, gallery.classes))
    return sorted(classes.difference(about_run(run).get("class_names", classes)))


def full_paths(images: LabelledImages) -> list[bytes]:
    """Absolute paths, in the pictures' order."""
    root = os.path.abspath(os.fsencode(images.root))
    return [os.path.join(root, os.fsencode(path)) for path in images.paths]
