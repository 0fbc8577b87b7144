"""What a file or folder is, by how it begins: for commands that take several kinds, and for the sentence that mends a
command line with the wrong one.
"""

import os
import struct
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from queryopt.text import did_you_mean, display_path

__all__ = ["RUN_CHECKPOINTS", "Kind", "kind_of", "kind_of_head", "mistaken", "near"]

RUN_CHECKPOINTS = ("best.safetensors", "last.pt")
"""The checkpoints of a run folder, the better one first."""

_HEAD = 100
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF", b"II*\0", b"MM\0*")
_MODEL_NAMES = (".onnx", ".plan")


class Kind(Enum):
    """What a command may be given; the value is what it is called."""

    RUN = "run folder"
    CHECKPOINT = "checkpoint"
    MODEL = "model"
    INDEX = "index"
    PICTURE = "picture"
    FOLDER = "folder"

    @property
    def called(self) -> str:
        """With its article."""
        return f"{'an' if self is Kind.INDEX else 'a'} {self.value}"


_USES = {
    Kind.RUN: "make its model with: qo-export {0}",
    Kind.CHECKPOINT: "give its run folder, or make a model of it with: qo-export {0}",
    Kind.MODEL: "hash a folder with it: qo-infer FOLDER --model {0}",
    Kind.INDEX: "search in it with: qo-search PICTURE {0}",
    Kind.PICTURE: "search with it: qo-search {0} INDEX",
    Kind.FOLDER: "make an index of its pictures with: qo-infer {0}",
}


def kind_of(path: str | os.PathLike[str]) -> Kind | None:
    """What a path is, or, where nothing is there, what its name says; None for anything else."""
    path = Path(path)
    if path.is_dir():
        return Kind.RUN if any((path / name).is_file() for name in RUN_CHECKPOINTS) else Kind.FOLDER
    by_name = {".db": Kind.INDEX, **dict.fromkeys(_MODEL_NAMES, Kind.MODEL)}.get(path.suffix.lower())
    if not path.is_file():  # nothing, or a pipe, which would be waited for
        return by_name
    try:
        with open(path, "rb") as file:
            return kind_of_head(file.read(_HEAD)) or (by_name if by_name is Kind.MODEL else None)
    except OSError:
        return None


def kind_of_head(head: bytes) -> Kind | None:
    """What a file is that begins with these bytes. A TensorRT plan begins with nothing of its own."""
    if head.startswith(b"SQLite format 3\0"):
        return Kind.INDEX
    if head.startswith(_PICTURES):
        return Kind.PICTURE
    if head.startswith(b"\x08") and b"queryopt" in head[:32]:  # an ONNX file's version, then its producer
        return Kind.MODEL
    torch = head.startswith(b"PK\x03\x04") and b"data.pkl" in head  # a zip file, whose first entry this is
    if torch or (head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 1 << 32):
        return Kind.CHECKPOINT
    return None


def mistaken(path: str | os.PathLike[str], wanted: Kind) -> str | None:
    """`photos.db: an index, not a model: search in it with: …`; None where it may well be what was wanted."""
    kind = kind_of(path)
    if kind is None or kind is wanted:
        return None
    name = display_path(path)
    return f"{name}: {kind.called}, not {wanted.called}: {_USES[kind].format(name)}"


def near(path: str | os.PathLike[str], names: Iterable[str] = ()) -> str:
    """`; did you mean photos?`, of what lies beside a path that isn't there, or of other names; else nothing."""
    path = Path(path)
    try:
        beside = [display_path(each.name) for each in path.parent.iterdir()]
    except OSError:
        beside = []
    return did_you_mean(path.name, [*beside, *names])
