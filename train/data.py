"""Labelled pictures on disk: which files there are, of which class, and in which part of the data.

Nothing is decoded here; see pictures.py for that.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from queryopt.errors import DataError, UsageError
from queryopt.images import find_images
from queryopt.kinds import near
from queryopt.labels import LabelRule, data_parts
from queryopt.text import counted, display_path, listed_paths
from queryopt.train.draws import DEFAULT_SEED, Stream, sample_rng
from queryopt.train.folder_survey import FolderSurvey, survey_folder

__all__ = ["DataSplits", "LabelledImages", "check_folder", "load_image_folder", "load_unlabelled", "split_validation"]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Pictures with a class each.

    root: the folder that `paths` are relative to.
    paths: one str a picture, as os.fsdecode gives it (names that are not UTF-8 hold surrogates).
    labels: int64 [n], positions in `classes`.
    classes: the classes' names. A part of a data set keeps the names of the whole, so labels agree between parts and a
        class may have no picture here.
    """

    root: Path
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse labels that don't belong to the paths or the classes."""
        if self.labels.shape != (len(self.paths),) or self.labels.dtype != np.int64:
            raise DataError(
                f"{display_path(self.root)}: {len(self.paths)} pictures, but labels are "
                f"{self.labels.dtype} {list(self.labels.shape)}: one int64 a picture is needed"
            )
        if len(self.labels) and (self.labels.min() < 0 or self.labels.max() >= len(self.classes)):
            raise DataError(
                f"{display_path(self.root)}: labels reach from {self.labels.min()} to {self.labels.max()}, "
                f"but there are {len(self.classes)} classes (0 to {len(self.classes) - 1})"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.root / self.paths[index]

    def counts(self) -> npt.NDArray[np.int64]:
        """How many pictures each class has: int64 [classes]."""
        return np.bincount(self.labels, minlength=len(self.classes)).astype(np.int64)

    def digest(self) -> str:
        """SHA-256 of the pictures' names, their order and their classes: equal wherever the same pictures lie."""
        digest = hashlib.sha256()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            digest.update(f"{label} ".encode() + os.fsencode(path) + b"\0")
        digest.update("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def subset(self, indices: npt.NDArray[np.int64] | Sequence[int]) -> "LabelledImages":
        """The pictures at these positions, in this order; the classes stay."""
        chosen = np.asarray(indices, np.int64)
        return LabelledImages(
            self.root, tuple(self.paths[i] for i in chosen.tolist()), self.labels[chosen], self.classes
        )

    def of_classes(self, kept: npt.NDArray[np.bool_]) -> "LabelledImages":
        """The pictures of the classes where `kept`, bool [classes], is true, and no other classes."""
        rows = self.subset(np.flatnonzero(kept[self.labels]))
        names = tuple(name for name, keep in zip(self.classes, kept.tolist(), strict=True) if keep)
        return LabelledImages(rows.root, rows.paths, (np.cumsum(kept) - 1)[rows.labels].astype(np.int64), names)

    def joined(self, other: "LabelledImages") -> "LabelledImages":
        """These pictures and then those of another part of the data set, which has none of these classes."""
        labels = np.concatenate([self.labels, other.labels + len(self.classes)])
        return LabelledImages(self.root, self.paths + other.paths, labels, self.classes + other.classes)


@dataclass(frozen=True)
class DataSplits:
    """A data set: what is trained on (and is the gallery), and what is asked (the queries; may be empty).

    lone: pictures that are the only ones of their classes, which can't be both learnt and asked for: they are in
    neither part, and in a gallery nobody looks for them. survey: of the folder that it was read from, where it was one.
    """

    train: LabelledImages
    test: LabelledImages
    lone: LabelledImages | None = None
    survey: FolderSurvey | None = None

    def summary(self) -> str:
        """`16 classes of 9 to 216 pictures (first folder below photos/)`."""
        counts = self.train.counts() + self.test.counts()
        if len(counts) == 1:
            return f"{counted(int(counts[0]), 'picture', 'pictures')}, without labels"
        low, high = int(counts.min()), int(counts.max())
        sizes = (
            f"{low:,} to {counted(high, 'picture', 'pictures')}" if low < high else counted(low, "picture", "pictures")
        )
        where = "" if self.survey is None else f" ({self.survey.rule} below {display_path(self.survey.root)}/)"
        return f"{len(counts):,} classes of {sizes}{where}"


def load_image_folder(
    root: str | os.PathLike[str], *, seed: int = DEFAULT_SEED, test_fraction: float = 0.2, label_depth: int = 1
) -> DataSplits:
    """Read a folder of class sub-folders.

    Either `<root>/train/<class>/…` with, if there is one, `<root>/test/<class>/…` (or val, valid, validation), or
    `<root>/<class>/…`, of which `test_fraction` of each class (at least one picture, never all) becomes the test part,
    drawn from `seed` and the class's name: adding a class doesn't move the others' pictures. 0 leaves it empty.
    A class of one picture can't be divided so: it is in neither part, but in `lone`.
    label_depth: how many folders name a class, see LabelRule; pictures may lie deeper. Classes and pictures are sorted
    bytewise; what find_images passes over is no part of the data. An empty class is no class.

    Raises DataError, naming what is meant, where: there is no such folder or no picture in it; there are fewer than two
    classes; test/ has a class that train/ lacks.
    """
    if not 0 <= test_fraction < 1:
        raise UsageError(f"test fraction is {test_fraction}: it is a share of each class, 0 <= fraction < 1")
    folder = Path(root)
    check_folder(folder)
    parts = _parts(folder)
    survey = survey_folder(folder, LabelRule(label_depth, frozenset(map(os.fsencode, parts))))
    if not parts:
        return _split_classes(_read_classes(survey, ""), seed, test_fraction, survey)
    train = _read_classes(survey, "train/")
    empty = LabelledImages(folder, (), np.zeros(0, np.int64), train.classes)
    return DataSplits(train, _read_test(train, survey, parts[1]) if len(parts) > 1 else empty, survey=survey)


def load_unlabelled(root: str | os.PathLike[str]) -> DataSplits:
    """All pictures of a folder and its sub-folders, as one class without a name; none is kept for tests.

    DataError where there is none.
    """
    folder = Path(root)
    check_folder(folder)
    paths = tuple(os.fsdecode(path) for path in find_images(folder))
    if not paths:
        raise DataError(f"{display_path(folder)}: no pictures in it")
    images = LabelledImages(folder, paths, np.zeros(len(paths), np.int64), ("",))
    return DataSplits(images, images.subset([]))


def check_folder(folder: Path, names: Sequence[str] = ()) -> None:
    """DataError where this is no folder. names: what else may have been meant."""
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else f"no such folder{near(folder, names)}"
        raise DataError(f"{display_path(folder)}: {what}; a data set is a folder of class sub-folders")


def split_validation(images: LabelledImages, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Set aside round(fraction * n) pictures for choosing a checkpoint: (train, validation), both in the given order.

    Every class gives its share (as whole pictures; the left-over ones are drawn among the classes) and keeps at least
    one training picture, so fewer may be set aside where classes are tiny. The draw depends on `seed` alone. Of
    pictures without labels none is set aside: there would be nothing to measure on it.
    """
    if not 0 <= fraction < 1:
        raise UsageError(
            f"validation fraction is {fraction}: it is a share of the training pictures, 0 <= fraction < 1"
        )
    if len(images.classes) < 2:
        fraction = 0.0
    rng = sample_rng(seed, 0, 0, 0, Stream.VALIDATION)
    counts = images.counts()
    shares = counts * fraction
    takes = np.minimum(np.floor(shares).astype(np.int64), np.maximum(counts - 1, 0))
    # The largest remainders get the pictures that rounding down left over; ties are drawn.
    order = np.lexsort((rng.random(len(counts)), takes - shares))
    left = round(fraction * len(images)) - int(takes.sum())
    open_classes = [c for c in order if takes[c] < counts[c] - 1]
    takes[open_classes[: max(left, 0)]] += 1
    held_back = np.zeros(len(images), bool)
    for label, take in enumerate(takes.tolist()):
        held_back[rng.permutation(np.flatnonzero(images.labels == label))[:take]] = True
    return images.subset(np.flatnonzero(~held_back)), images.subset(np.flatnonzero(held_back))


def _parts(folder: Path) -> tuple[str, ...]:
    """The folders train/ and, before any other of its kind, that of the test part; none for `<root>/<class>/…`."""
    try:
        parts, others = data_parts(folder)
    except OSError as error:
        raise DataError(f"{display_path(folder)}: {error.strerror or error}; the data set can't be read") from None
    if others:
        raise DataError(
            f"{display_path(folder)}: has train/ with sub-folders, and also {listed_paths(others)} beside it; "
            "a data set is either train/<class>/ and test/<class>/, or <class>/ alone"
        )
    return parts


def _read_test(train: LabelledImages, survey: FolderSurvey, name: str) -> LabelledImages:
    test = _read_classes(survey, f"{name}/", least=0)
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        raise DataError(
            f"{display_path(train.root)}: {name}/ has {counted(len(unknown), 'class', 'classes')} without pictures "
            f"in train/: {listed_paths(unknown)}; rename or remove them, or add their pictures to train/"
        )
    position = {name: label for label, name in enumerate(train.classes)}
    to_train = np.array([position[name] for name in test.classes], np.int64)
    return LabelledImages(train.root, test.paths, to_train[test.labels], train.classes)


def _read_classes(survey: FolderSurvey, part: str, least: int = 2) -> LabelledImages:
    """The pictures of a folder's part, class by class; part is "" or ends with a slash."""
    shown = display_path(survey.root / part)
    of_class: dict[str, list[str]] = {}
    for path, label in survey.labels.items():
        if path.startswith(part):
            of_class.setdefault(label, []).append(path)
    classes = sorted(of_class, key=os.fsencode)
    if not classes:
        raise DataError(
            f"{shown}: no pictures in sub-folders; a data set is a folder with one sub-folder a class, "
            f"for example {shown}/robin/0001.jpg (pictures without classes: --method linear --data unlabelled:{shown})"
        )
    if len(classes) < least:
        hint = f"; with --label-depth {survey.rule.depth + 1} there would be {survey.deeper:,}" if survey.nested else ""
        raise DataError(
            f"{shown}: one class only ({listed_paths(classes)}); codes need at least two classes to tell apart{hint}"
        )
    labels = np.repeat(np.arange(len(classes)), [len(of_class[name]) for name in classes]).astype(np.int64)
    return LabelledImages(
        survey.root, tuple(path for name in classes for path in of_class[name]), labels, tuple(classes)
    )


def _split_classes(images: LabelledImages, seed: int, fraction: float, survey: FolderSurvey) -> DataSplits:
    if not fraction:
        return DataSplits(images, images.subset([]), survey=survey)
    lone = images.counts() < 2
    if (~lone).sum() < 2:
        raise DataError(
            f"{display_path(images.root)}: {counted(int(lone.sum()), 'class has', 'classes have')} one picture only, "
            f"and {int((~lone).sum())} more: codes are learnt from several pictures of a class, at least two of two "
            f"classes (pictures without classes: --method linear --data unlabelled:{display_path(images.root)})"
        )
    alone, images = images.of_classes(lone), images.of_classes(~lone)
    held_back = np.zeros(len(images), bool)
    for label, name in enumerate(images.classes):
        # Class by class from its name, so that a class which is added leaves the others' split as it was.
        digest = hashlib.sha256(os.fsencode(name)).digest()
        rng = sample_rng(seed, 0, 0, 0, stream=int.from_bytes(digest[:8], "little"))
        members = np.flatnonzero(images.labels == label)
        take = min(max(1, math.floor(len(members) * fraction + 0.5)), len(members) - 1)
        held_back[rng.permutation(members)[:take]] = True
    train, test = (images.subset(np.flatnonzero(part)) for part in (~held_back, held_back))
    return DataSplits(train, test, alone if len(alone) else None, survey)
