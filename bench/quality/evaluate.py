"""How well deployed models retrieve: folders of labelled pictures hashed as in use, and ranked.

Codes come from the exported model through the runtime, on both sides: this measures what a user gets, not what a
network scored in training. Beside it, for a run, the paper's protocol: the queries' codes are the model's, but the
gallery's are those that the run solved from labels (`paper_gallery`).
"""

import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.errors import DataError, MismatchError, UsageError
from queryopt.metrics import ClassScore, RetrievalMetrics, class_scores, retrieval_metrics
from queryopt.progress import Progress
from queryopt.runtime.search import Rank, ranked
from queryopt.text import display_path

if TYPE_CHECKING:
    from queryopt.runtime import Hasher, HashIndex
    from queryopt.train.config import TrainConfig
    from queryopt.train.data import LabelledImages
    from queryopt.train.open_set import OpenSet

__all__ = [
    "DataSource",
    "Evaluation",
    "LabelledCodes",
    "LabelledFolder",
    "Part",
    "Protocol",
    "evaluate",
    "hash_labelled",
    "index_codes",
    "labelled_folder",
    "labelled_pictures",
    "own_rows",
    "paper_gallery",
]


Protocol: TypeAlias = Literal["deployed", "paper"]
"""Where the gallery's codes come from: the model, or the labels of a run's training pictures."""

Part: TypeAlias = Literal["seen", "unseen"]
"""The classes that a run trained on, or those that it held out (`qo-train --open-set`): each has its own gallery."""


@dataclass(frozen=True)
class LabelledFolder:
    """Pictures below a folder, each with its class: the name of the folder that it lies in, or what a data set says."""

    root: bytes
    paths: tuple[bytes, ...]
    """Absolute."""
    labels: tuple[str, ...]
    unlabelled: int
    """Pictures directly in the root, which have no class, and are left out."""


@dataclass(frozen=True)
class DataSource:
    """A data set, and how a run divides it.

    data: see queryopt.train.sources. seed, test_fraction, validation_fraction, open_set: as in TrainConfig.
    """

    data: str
    seed: int
    test_fraction: float
    validation_fraction: float
    open_set: float = 0.0

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

        config = read_run_config(Path(run))
        if config is None:
            raise DataError(f"{display_path(run)}: no config.json in it: give the run folder of a qo-train")
        return cls.of_config(config, run, data)

    @classmethod
    def of_config(cls, config: "TrainConfig", run: str | os.PathLike[str], data: str | None = None) -> "DataSource":
        """As a run of this configuration divides its data. run: names it in errors."""
        if not (data := data or config.data):
            raise DataError(f"{display_path(run)}: its config.json doesn't say where its pictures lie: give --data")
        return cls(data, config.seed, config.test_fraction, config.validation_fraction, config.open_set)

    def images(
        self, split: str, progress: Progress | None = None, trained_only: bool = False
    ) -> "tuple[LabelledImages, LabelledImages]":
        """(gallery, queries) of the split "test" or "validation", of the classes that a run trains on.

        test: the training pictures and the test pictures. validation: what a run trains on, and what it sets aside to
        choose its checkpoint. trained_only: leave the latter out of the gallery of "test" too. progress: for a
        generated set that has to be made. DataError where there are no queries.
        """
        from queryopt.train.data import split_validation

        splits = self._divided(progress).seen
        gallery, queries = splits.train, splits.test
        if split == "validation" or trained_only:
            gallery, held_back = split_validation(splits.train, self.validation_fraction, self.seed)
            queries = held_back if split == "validation" else queries
        if not len(queries):
            why = f"validation_fraction is {self.validation_fraction:g}" if split == "validation" else "no test part"
            raise DataError(f"{display_path(self.data)}: there are no {split} pictures ({why})")
        return gallery, queries

    def unseen_images(self, progress: Progress | None = None) -> "tuple[LabelledImages, LabelledImages] | None":
        """(gallery, queries) of the classes that the run held out: their pictures of the training part and of the test
        part; None where it held none out. DataError where there are no queries.
        """
        unseen = self._divided(progress).unseen
        if unseen is None:
            return None
        if not len(unseen.test):
            raise DataError(f"{display_path(self.data)}: there are no test pictures of the unseen classes")
        return unseen.train, unseen.test

    def _divided(self, progress: Progress | None) -> "OpenSet":
        from queryopt.train.open_set import hold_out_classes
        from queryopt.train.sources import load_data

        splits = load_data(self.data, seed=self.seed, test_fraction=self.test_fraction, progress=progress)
        return hold_out_classes(splits, self.open_set, self.seed)


@dataclass(frozen=True, eq=False)
class LabelledCodes:
    """Codes with their labels. codes: uint8 [n, ceil(bits / 8)]; labels: str [n]; paths: as in LabelledFolder.

    logits: float32 [n, bits], None where they are not known: an index has none.
    """

    bits: int
    codes: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.str_]
    paths: tuple[bytes, ...]
    failures: dict[bytes, str]
    """Pictures that could not be read, with the reason; they have no row."""
    logits: npt.NDArray[np.float32] | None = None

    def only(self, paths: Collection[bytes]) -> "LabelledCodes":
        """The rows of these paths."""
        kept = np.array([path in paths for path in self.paths], np.bool_)
        return LabelledCodes(
            self.bits,
            self.codes[kept],
            self.labels[kept],
            tuple(path for path in self.paths if path in paths),
            self.failures,
            None if self.logits is None else self.logits[kept],
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's metrics, and what they were taken over."""

    metrics: RetrievalMetrics
    bits: int
    gallery: int
    """Pictures in the gallery."""
    classes: int
    """Classes of the gallery."""
    own: int
    """Queries that lie in the gallery themselves: each is left out of its own ranking."""
    absent: tuple[str, ...]
    """Classes that only queries have; these are left out and counted in metrics.skipped_queries."""
    per_class: tuple[ClassScore, ...]
    """Of each class that queries have, the worst first."""
    rank: Rank = "hamming"
    """What the gallery was ranked by."""
    protocol: Protocol = "deployed"
    """Where the gallery's codes come from."""
    part: Part = "seen"
    """Which classes they are of."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return (
            {"protocol": self.protocol, "rank": self.rank, "part": self.part}
            | self.metrics.to_dict()
            | {
                "bits": self.bits,
                "gallery": self.gallery,
                "classes": self.classes,
                "queries_in_gallery": self.own,
                "classes_only_in_queries": list(self.absent),
                "per_class": [asdict(score) for score in self.per_class],
            }
        )


def labelled_folder(folder: str | bytes | os.PathLike[str]) -> LabelledFolder:
    """Find the pictures of a folder of class folders (at any depth). DataError where none lies in a class folder."""
    from queryopt.images import find_images

    root = os.fsencode(folder)
    found = find_images(root)
    inside = [path for path in found if os.path.dirname(path)]
    if not inside:
        what = "its pictures lie directly in it" if found else "there are no pictures in it"
        raise DataError(f"{os.fsdecode(root)}: {what}: give a folder with a sub-folder of pictures for each class")
    return LabelledFolder(
        root=root,
        paths=tuple(os.path.join(os.path.abspath(root), path) for path in inside),
        labels=tuple(os.fsdecode(os.path.basename(os.path.dirname(path))) for path in inside),
        unlabelled=len(found) - len(inside),
    )


def labelled_pictures(images: "LabelledImages") -> LabelledFolder:
    """The pictures of a part of a data set, labelled with its classes' names."""
    root = os.path.abspath(os.fsencode(images.root))
    return LabelledFolder(
        root=root,
        paths=tuple(os.path.join(root, os.fsencode(path)) for path in images.paths),
        labels=tuple(images.classes[label] for label in images.labels.tolist()),
        unlabelled=0,
    )


def hash_labelled(hasher: "Hasher", folder: LabelledFolder, progress: Progress, description: str) -> LabelledCodes:
    """Hash a labelled folder. DataError where not one picture could be read."""
    label_of = dict(zip(folder.paths, folder.labels, strict=True))
    codes: list[npt.NDArray[np.uint8]] = []
    logits: list[npt.NDArray[np.float32]] = []
    paths: list[bytes] = []
    failures: dict[bytes, str] = {}
    with progress(description, len(folder.paths)) as advance:
        for batch in hasher.stream(folder.paths):
            codes.append(batch.codes)
            logits.append(batch.logits)
            paths += map(os.fsencode, batch.paths)
            failures |= {os.fsencode(path): reason for path, reason in batch.failures.items()}
            advance(len(batch.paths) + len(batch.failures))
    if not paths:
        name, reason = next(iter(failures.items()))
        raise DataError(
            f"{os.fsdecode(folder.root)}: none of its {len(failures)} pictures could be read "
            f"(the first, {os.fsdecode(name)}: {reason})"
        )
    labels = np.array([label_of[path] for path in paths], dtype=np.str_)
    return LabelledCodes(
        hasher.card.bits, np.concatenate(codes), labels, tuple(paths), failures, np.concatenate(logits)
    )


def paper_gallery(run: str | os.PathLike[str], images: "LabelledImages") -> tuple[LabelledCodes, int]:
    """The codes that a run solved for the pictures it trains on, and after how many outer iterations.

    images: those pictures; ones that the run could not read are left out. Raises what `load_solved_codes` does.
    """
    from queryopt.train.solved import load_solved_codes

    solved = load_solved_codes(run, images)
    folder = labelled_pictures(images)
    kept = np.flatnonzero(solved.readable)
    labels = np.array(folder.labels, dtype=np.str_)[kept]
    paths = tuple(folder.paths[row] for row in kept.tolist())
    return LabelledCodes(solved.bits, solved.codes[kept], labels, paths, {}), solved.iteration


def index_codes(index: "HashIndex") -> LabelledCodes:
    """The codes and labels that an index holds. DataError where no picture in it has a label."""
    images = [image for image in index if image.label is not None]
    if not images:
        raise DataError(f"{index.path}: no picture in it has a class (a folder of its own below {index.root})")
    return LabelledCodes(
        bits=index.card.bits,
        codes=np.stack([image.code for image in images]),
        labels=np.array([image.label for image in images], dtype=np.str_),
        paths=tuple(os.fsencode(image.path) for image in images),
        failures={},
    )


def own_rows(gallery: LabelledCodes, queries: LabelledCodes) -> npt.NDArray[np.int64]:
    """Each query's own row in the gallery, int64 [queries], -1 where it isn't there.

    By the real path, so that a file is itself in whatever way its folder was named.
    """
    row_of = {os.path.realpath(path): row for row, path in enumerate(gallery.paths)}
    return np.array([row_of.get(os.path.realpath(path), -1) for path in queries.paths], np.int64)


def evaluate(
    gallery: LabelledCodes,
    queries: LabelledCodes,
    ks: Sequence[int] = (1, 10, 100),
    radii: Sequence[int] = (0, 1, 2),
    rank: Rank = "hamming",
    protocol: Protocol = "deployed",
    part: Part = "seen",
) -> Evaluation:
    """Rank the gallery for each query and measure. A query that lies in the gallery is left out of its own ranking.

    rank: by what, as for `HammingIndex.search`; what is equal in it is a tie. 'weighted' and 'tiebreak' need the
    queries' logits. protocol, part: what the gallery's codes and the classes are, for the record.

    MismatchError where the two have codes of different length, or share no class. UsageError for a rank without logits.
    """
    if gallery.bits != queries.bits:
        raise MismatchError(f"the gallery has codes of {gallery.bits} bits and the queries of {queries.bits}")
    bit_keys = None
    if rank != "hamming":
        if queries.logits is None:
            raise UsageError(f"rank {rank!r} needs the queries' logits: hash them")
        bit_keys = ranked.bit_keys(ranked.quantise(queries.logits, queries.bits), rank)
    own = own_rows(gallery, queries)
    metrics = retrieval_metrics(
        queries.codes,
        gallery.codes,
        gallery.bits,
        queries.labels,
        gallery.labels,
        ks=ks,
        radii=[radius for radius in radii if radius <= gallery.bits],
        exclude_self=own if (own >= 0).any() else None,
        bit_keys=bit_keys,
    )
    return Evaluation(
        metrics=metrics,
        bits=gallery.bits,
        gallery=len(gallery.labels),
        classes=len(np.unique(gallery.labels)),
        own=int((own >= 0).sum()),
        absent=tuple(np.setdiff1d(queries.labels, gallery.labels).tolist()),
        per_class=class_scores(queries.labels, metrics.average_precision),
        rank=rank,
        protocol=protocol,
        part=part,
    )
