"""One image of an index: its row, its margins, its checksum."""

import os
import sqlite3
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes, unpack_codes
from queryopt.errors import IndexFileError, MismatchError, UsageError
from queryopt.runtime.index.connection import DAMAGED

__all__ = [
    "SELECT",
    "IndexedImage",
    "Row",
    "decode_row",
    "encode_margins",
    "file_stamp",
    "insert_row",
    "read_margins",
    "read_margins_of",
    "read_page",
    "read_range",
    "read_row",
    "update_row",
]

_COLUMNS = "id, path, size, mtime_ns, code, margins, label, stale, crc"
SELECT = f"SELECT {_COLUMNS} FROM images"
"""Reads whole rows, as `decode_row` takes them."""
_PAGE = 1000
_SPARSE = 8
"""Reading a row by its id takes as long as reading about so many in a row."""
_LATEST = (1 << 63) - 1
"""SQLite's largest integer: in nanoseconds since 1970, a day of the year 2262."""


@dataclass(frozen=True, eq=False)
class IndexedImage:
    """An image of an index.

    path: absolute, as str (by os.fsdecode, so bytes that are no UTF-8 come as surrogates).
    relative: to the root, as the file system's bytes.
    size, mtime_ns: of the file when it was hashed; the size in bytes.
    code: uint8 [ceil(bits / 8)].
    margins: int8 [bits], see `encode_margins`.
    label: its class by the index's rule (see LabelRule), None directly in the root.
    stale: the file could not be read any more at the last update; the code is that of before.
    """

    id: int
    path: str
    relative: bytes
    size: int
    mtime_ns: int
    code: npt.NDArray[np.uint8]
    margins: npt.NDArray[np.int8]
    label: str | None
    stale: bool


@dataclass(frozen=True)
class Row:
    """An image as it is stored, without id and checksum. path is relative to the root."""

    path: bytes
    size: int
    mtime_ns: int
    code: bytes
    margins: bytes
    label: bytes | None
    stale: bool = False

    def values(self, id: int) -> tuple[Any, ...]:
        """The row's columns after the id, the checksum last."""
        values = (self.path, self.size, self.mtime_ns, self.code, self.margins, self.label, int(self.stale))
        return (*values, _crc(id, *values))

    @classmethod
    def of(cls, image: IndexedImage, path: bytes) -> "Row":
        """The image's row, under another path."""
        label = None if image.label is None else os.fsencode(image.label)
        return cls(path, image.size, image.mtime_ns, image.code.tobytes(), image.margins.tobytes(), label, image.stale)


def encode_margins(
    codes: npt.NDArray[np.uint8], logits: npt.ArrayLike, bits: int, logit_scale: float
) -> npt.NDArray[np.int8]:
    """How sure each bit is: int8 [n, bits], sign = the bit, magnitude = clip(ceil(127 |logit| / logit_scale), 1, 127).

    The magnitude is never 0, so margins alone give back the bits. The sign is that of the code, which a model of low
    precision may round to the other side of a logit next to zero; where a larger logit contradicts its bit, the two
    don't belong together: MismatchError.
    """
    array = np.asarray(logits)
    signs = unpack_codes(codes, bits).astype(np.bool_)
    if array.shape != signs.shape or not np.issubdtype(array.dtype, np.floating):
        raise UsageError(
            f"logits are {array.dtype} {list(array.shape)}: {len(signs)} codes need float {list(signs.shape)}"
        )
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array).all(axis=1)))
        raise UsageError(f"the logits of row {row} are not finite: the model is damaged, or its precision overflows")
    magnitude = np.clip(np.ceil(np.abs(array.astype(np.float64)) * (127 / logit_scale)), 1, 127).astype(np.int8)
    wrong = ((array >= 0) != signs) & (magnitude > 1)
    if wrong.any():
        row, bit = np.argwhere(wrong)[0]
        raise MismatchError(
            f"row {row}: bit {bit} of the code is {int(signs[row, bit])}, but its logit is {array[row, bit]:g}: codes "
            "and logits don't belong together, or the bits are packed in another order"
        )
    margins: npt.NDArray[np.int8] = np.where(signs, magnitude, -magnitude)
    return margins


def file_stamp(status: os.stat_result) -> tuple[int, int]:
    """Size and time of change of a file, as a row holds them to tell whether it changed.

    File systems take times of centuries that a row can't hold: the nearest that it can stands for these.
    """
    return status.st_size, min(max(status.st_mtime_ns, -_LATEST), _LATEST)


def decode_row(row: tuple[Any, ...], source: str, root: Path, bits: int) -> IndexedImage:
    """A whole row as an image. Raises IndexFileError that names a damaged one."""
    id, path, size, mtime_ns, code, margins, label, stale, crc = row
    typed = (
        isinstance(path, bytes)
        and isinstance(size, int)
        and isinstance(mtime_ns, int)
        and isinstance(code, bytes)
        and isinstance(margins, bytes)
        and isinstance(label, bytes | None)
        and stale in (0, 1)
    )
    if not (
        typed
        and len(code) == code_bytes(bits)
        and len(margins) == bits
        and not (bits % 8 and code[-1] >> bits % 8)
        and _stays_inside(path)
        and crc == _crc(id, path, size, mtime_ns, code, margins, label, stale)
    ):
        name = f" ({os.fsdecode(path)!r})" if isinstance(path, bytes) else ""
        raise IndexFileError(
            f"{source}: the row of image {id}{name} is damaged: remove it with qo-index remove and run qo-infer again, "
            "or restore the index from a backup"
        )
    return IndexedImage(
        id=id,
        path=os.path.join(root, os.fsdecode(path)),
        relative=path,
        size=size,
        mtime_ns=mtime_ns,
        code=np.frombuffer(code, np.uint8),
        margins=np.frombuffer(margins, np.int8),
        label=None if label is None else os.fsdecode(label),
        stale=bool(stale),
    )


def read_page(connection: sqlite3.Connection, after: int, source: str, count: int = _PAGE) -> list[tuple[Any, ...]]:
    """Up to `count` rows with ids above `after`, in id order.

    Reading in pages leaves no read transaction open between them, which would keep the log from being folded.
    IndexFileError where the ids do not ascend.
    """
    rows = connection.execute(f"{SELECT} WHERE id > ? ORDER BY id LIMIT ?", (after, count)).fetchall()
    _check_ascending([row[0] for row in rows], after, source)
    return rows


def read_margins(
    connection: sqlite3.Connection, after: int, bits: int, source: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """Ids above `after`, ascending int64 [n], and their margins, int8 [n, bits]; some thousands at a time."""
    query = "SELECT id, margins FROM images WHERE id > ? ORDER BY id LIMIT ?"
    return _join_margins(connection.execute(query, (after, 4 * _PAGE)).fetchall(), after, bits, source)


def read_margins_of(
    connection: sqlite3.Connection, ids: npt.NDArray[np.int64], bits: int, source: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """As `read_margins`, of these ids (ascending int64 [m]), those that are there, and perhaps of some between them."""
    rows: list[tuple[int, bytes]] = []
    for start in range(0, len(ids), _PAGE):
        some = ids[start : start + _PAGE].tolist()
        span = some[-1] - some[0] + 1
        if span <= _SPARSE * len(some):
            query = "SELECT id, margins FROM images WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
            rows += connection.execute(query, (some[0], some[-1], span))
        else:
            for id in some:
                rows += connection.execute("SELECT id, margins FROM images WHERE id = ? LIMIT 1", (id,))
    return _join_margins(rows, -1, bits, source)


def _join_margins(
    rows: list[tuple[int, bytes]], after: int, bits: int, source: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    _check_ascending([id for id, _ in rows], after, source)
    for id, margins in rows:
        if not isinstance(margins, bytes) or len(margins) != bits or 0 in margins:
            raise IndexFileError(f"{source}: the row of image {id} is damaged: qo-index verify names all that are")
    joined = np.frombuffer(b"".join(margins for _, margins in rows), np.int8)
    return np.array([id for id, _ in rows], np.int64), joined.reshape(len(rows), bits)


def read_range(connection: sqlite3.Connection, first: int, end: int) -> list[tuple[Any, ...]]:
    """The rows with first <= id < end, in id order."""
    return connection.execute(f"{SELECT} WHERE id >= ? AND id < ? ORDER BY id", (first, end)).fetchall()


def read_row(connection: sqlite3.Connection, id: int) -> tuple[Any, ...] | None:
    """The row of one image."""
    row: tuple[Any, ...] | None = connection.execute(f"{SELECT} WHERE id = ?", (id,)).fetchone()
    return row


def insert_row(connection: sqlite3.Connection, id: int, row: Row) -> None:
    """Add a row under a new id."""
    connection.execute(f"INSERT INTO images ({_COLUMNS}) VALUES (?{', ?' * 8})", (id, *row.values(id)))


def update_row(connection: sqlite3.Connection, id: int, row: Row) -> None:
    """Replace the row of an id."""
    settings = ", ".join(f"{name} = ?" for name in _COLUMNS.split(", ")[1:])
    connection.execute(f"UPDATE images SET {settings} WHERE id = ?", (*row.values(id), id))


def _check_ascending(ids: list[int], after: int, source: str) -> None:
    """A damaged page can send a reader back to ids that it has read, and then it would read without end."""
    if any(next <= id for id, next in pairwise([after, *ids])):
        raise IndexFileError(f"{source}: the index is damaged (ids of its rows do not ascend): {DAMAGED}")


def _stays_inside(path: bytes) -> bool:
    """Whether a relative path can't leave its folder: an index may come from anywhere."""
    return path != b"" and b"\0" not in path and not path.startswith(b"/") and b".." not in path.split(b"/")


def _crc(
    id: int, path: bytes, size: int, mtime_ns: int, code: bytes, margins: bytes, label: bytes | None, stale: int
) -> int:
    head = struct.pack("<qqqBii", id, size, mtime_ns, stale, len(path), -1 if label is None else len(label))
    return zlib.crc32(b"".join((head, path, code, margins, label or b"")))
