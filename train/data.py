"""Labelled pictures on disk: which files there are, of which class, and in which part of the data.

Nothing is decoded here; see pictures.py for that.
"""

import hashlib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from queryopt.errors import DataError, UsageError
from queryopt.images import find_images
from queryopt.text import counted, display_path, listed
from queryopt.train.draws import Stream, sample_rng

__all__ = ["DataSplits", "LabelledImages", "check_folder", "load_image_folder", "load_unlabelled", "split_validation"]

_log = logging.getLogger(__name__)

_TEST_NAMES = ("test", "val", "valid", "validation")


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


@dataclass(frozen=True)
class DataSplits:
    """A data set: what is trained on (and is the gallery), and what is asked (the queries; may be empty)."""

    train: LabelledImages
    test: LabelledImages


def load_image_folder(root: str | os.PathLike[str], *, seed: int = 0, test_fraction: float = 0.2) -> DataSplits:
    """Read a folder of class sub-folders.

    Either `<root>/train/<class>/…` with, if there is one, `<root>/test/<class>/…` (or val, valid, validation), or
    `<root>/<class>/…`, of which `test_fraction` of each class (at least one picture, never all) becomes the test part,
    drawn from `seed` and the class's name: adding a class doesn't move the others' pictures. 0 leaves it empty.
    Pictures may lie deeper inside a class's folder. Classes and pictures are sorted bytewise; hidden files and folders
    are passed over. An empty class is named in a warning and is no class.

    Raises DataError, naming what is meant, where: there is no such folder or no picture in it; there are fewer than two
    classes; test/ has a class that train/ lacks; a class to be split has one picture only.
    """
    if not 0 <= test_fraction < 1:
        raise UsageError(f"test fraction is {test_fraction}: it is a share of each class, 0 <= fraction < 1")
    folder = Path(root)
    check_folder(folder)
    parts = _parts(folder)
    if parts is None:
        return _split_classes(_read_classes(folder, ""), seed, test_fraction)
    train = _read_classes(folder, "train/")
    empty = LabelledImages(folder, (), np.zeros(0, np.int64), train.classes)
    return DataSplits(train, _read_test(train, parts) if parts else empty)


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


def check_folder(folder: Path) -> None:
    """DataError where this is no folder."""
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{display_path(folder)}: {what}; a data set is a folder of class sub-folders")


def split_validation(images: LabelledImages, fraction: float, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Set aside round(fraction * n) pictures for choosing a checkpoint: (train, validation), both in the given order.

    Every class gives its share (as whole pictures; the left-over ones are drawn among the classes) and keeps at least
    one training picture, so fewer may be set aside where classes are tiny. The draw depends on `seed` alone.
    """
    if not 0 <= fraction < 1:
        raise UsageError(
            f"validation fraction is {fraction}: it is a share of the training pictures, 0 <= fraction < 1"
        )
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


def _parts(folder: Path) -> str | None:
    """None for `<root>/<class>/…`; else the name of the test part, "" where there is none."""
    folders = _sub_folders(folder)
    # A catalogue of vehicles may have a class "train"; the part of that name holds folders.
    if "train" not in folders or not _sub_folders(folder / "train"):
        return None
    tests = [name for name in _TEST_NAMES if name in folders]
    others = [name for name in folders if name != "train" and name not in tests]
    if others:
        raise DataError(
            f"{display_path(folder)}: has train/ with sub-folders, and also {_names(others)} beside it; "
            "a data set is either train/<class>/ and test/<class>/, or <class>/ alone"
        )
    return tests[0] if tests else ""


def _read_test(train: LabelledImages, name: str) -> LabelledImages:
    test = _read_classes(train.root, f"{name}/", least=0)
    unknown = sorted(set(test.classes) - set(train.classes))
    if unknown:
        raise DataError(
            f"{display_path(train.root)}: {name}/ has {counted(len(unknown), 'class', 'classes')} without pictures "
            f"in train/: {_names(unknown)}; rename or remove them, or add their pictures to train/"
        )
    position = {name: label for label, name in enumerate(train.classes)}
    to_train = np.array([position[name] for name in test.classes], np.int64)
    return LabelledImages(train.root, test.paths, to_train[test.labels], train.classes)


def _read_classes(root: Path, part: str, least: int = 2) -> LabelledImages:
    """All pictures of `<root>/<part><class>/…`; part is "" or ends with a slash."""
    folder = root / part
    shown = display_path(folder)
    names: list[str] = []
    paths: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    for name in _sub_folders(folder):
        paths_below = find_images(folder / name)
        if not paths_below:
            empty.append(name)
            continue
        paths += [f"{part}{name}/{os.fsdecode(path)}" for path in paths_below]
        labels += [len(names)] * len(paths_below)
        names.append(name)
    if empty:
        _log.warning(
            "%s: %s without pictures, passed over: %s", shown, counted(len(empty), "class", "classes"), _names(empty)
        )
    if not names:
        raise DataError(
            f"{shown}: no pictures in sub-folders; a data set is a folder with one sub-folder a class, "
            f"for example {shown}/robin/0001.jpg (pictures without classes: --method linear --data unlabelled:{shown})"
        )
    if len(names) < least:
        raise DataError(f"{shown}: one class only ({_names(names)}); codes need at least two classes to tell apart")
    return LabelledImages(root, tuple(paths), np.array(labels, np.int64), tuple(names))


def _split_classes(images: LabelledImages, seed: int, fraction: float) -> DataSplits:
    counts = images.counts()
    lone = [name for name, count in zip(images.classes, counts.tolist(), strict=True) if count < 2]
    if lone and fraction > 0:
        raise DataError(
            f"{display_path(images.root)}: {counted(len(lone), 'class has', 'classes have')} one picture only, "
            f"which can't be both trained on and tested: {_names(lone)}; add a second one, remove the class, "
            "or make train/ and test/ yourself"
        )
    held_back = np.zeros(len(images), bool)
    if fraction > 0:
        for label, name in enumerate(images.classes):
            # Class by class from its name, so that a class which is added leaves the others' split as it was.
            digest = hashlib.sha256(os.fsencode(name)).digest()
            rng = sample_rng(seed, 0, 0, 0, stream=int.from_bytes(digest[:8], "little"))
            members = np.flatnonzero(images.labels == label)
            take = min(max(1, math.floor(len(members) * fraction + 0.5)), len(members) - 1)
            held_back[rng.permutation(members)[:take]] = True
    return DataSplits(images.subset(np.flatnonzero(~held_back)), images.subset(np.flatnonzero(held_back)))


def _sub_folders(folder: Path) -> list[str]:
    """Names of the visible sub-folders, sorted bytewise. A link to a folder counts unless it leads back up (a loop)."""
    here = os.path.realpath(folder)

    def is_class(entry: os.DirEntry[str]) -> bool:
        try:
            if entry.name.startswith(".") or not entry.is_dir():
                return False
        except OSError:  # a link that leads to itself
            return False
        return not (entry.is_symlink() and Path(here).is_relative_to(os.path.realpath(entry.path)))

    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name for entry in entries if is_class(entry)), key=os.fsencode)
    except OSError as error:
        raise DataError(f"{display_path(folder)}: {error.strerror or error}; the data set can't be read") from None


def _names(names: Sequence[str]) -> str:
    return listed([display_path(name) for name in names])
