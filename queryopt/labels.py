"""Which class a picture is of, by the folders that it lies in: one rule in training, hashing, evaluation and pages."""

import os
from dataclasses import dataclass
from pathlib import Path

from queryopt.errors import UsageError
from queryopt.images import is_hidden, leads_elsewhere

__all__ = ["TEST_PARTS", "LabelRule", "data_parts", "sub_folders"]

TEST_PARTS = ("test", "val", "valid", "validation")
"""Names of the folder that may stand beside train/, the first of them that is there before the others."""

_ORDINALS = ("first", "first two", "first three", "first four", "first five")


@dataclass(frozen=True)
class LabelRule:
    """A picture's label is the names of the first `depth` folders below the root, with slashes between them. A picture
    that lies less deep has the names that there are; one directly in the root has no label.

    parts: folders directly below the root which are parts of a data set (train/, test/) and don't count.
    """

    depth: int = 1
    parts: frozenset[bytes] = frozenset()

    def __post_init__(self) -> None:
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 1:
            raise UsageError(
                f"label_depth is {self.depth!r}: how many folders below the root name a class, 1 or more (a large "
                "number, such as 99: every folder is a class)"
            )

    @classmethod
    def of_folder(cls, root: str | os.PathLike[str], depth: int = 1) -> "LabelRule":
        """The rule for the pictures below `root`, which may hold train/ and test/. OSError is no matter here."""
        try:
            parts, others = data_parts(root)
        except OSError:
            return cls(depth)
        return cls(depth, frozenset() if others else frozenset(map(os.fsencode, parts)))

    def label_of(self, relative: bytes) -> bytes | None:
        """The label of a picture by its path relative to the root; None where it has none."""
        folders = relative.split(b"/")[:-1]
        if folders and folders[0] in self.parts:
            del folders[0]
        return b"/".join(folders[: self.depth]) or None

    def name(self, relative: bytes) -> str | None:
        """The same as text, by os.fsdecode."""
        label = self.label_of(relative)
        return None if label is None else os.fsdecode(label)

    def __str__(self) -> str:
        """`first folder`, `first two folders`, to be followed by `below photos/`."""
        if self.depth > len(_ORDINALS):
            return "every folder"
        return f"{_ORDINALS[self.depth - 1]} folder{'s' if self.depth > 1 else ''}"


def data_parts(root: str | os.PathLike[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which of train/ and its test folders a root has, and what other folders are beside them; none without train/.

    A catalogue of vehicles may have a class "train": the part of that name holds folders. OSError where the root can't
    be read.
    """
    folders = sub_folders(root)
    if "train" not in folders or not sub_folders(Path(root, "train")):
        return (), ()
    parts = ("train", *(name for name in TEST_PARTS if name in folders))
    return parts, tuple(name for name in folders if name not in parts)


def sub_folders(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the folders in a folder which pictures are looked for in (see find_images), sorted bytewise. OSError
    where it can't be read.
    """
    root = [os.path.realpath(os.fsencode(folder))]

    def is_entered(entry: os.DirEntry[bytes]) -> bool:
        try:
            there = entry.is_dir() and not is_hidden(entry.name)
        except OSError:  # a link that leads to itself
            return False
        return there and (not entry.is_symlink() or leads_elsewhere(entry.path, root))

    with os.scandir(root[0]) as entries:
        return [os.fsdecode(name) for name in sorted(entry.name for entry in entries if is_entered(entry))]
