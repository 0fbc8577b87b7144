"""The index's own facts: model card, root, model, and the counters of its transactions."""

import json
import os
import sqlite3
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from queryopt import __version__
from queryopt.card import ModelCard
from queryopt.errors import IndexFileError, ModelError
from queryopt.runtime.index.connection import REBUILD
from queryopt.text import parse_json

__all__ = ["Meta", "State", "read_counters", "read_meta", "read_state", "write_meta", "write_state"]


@dataclass(frozen=True)
class Meta:
    """What the codes of an index are, and of which folder.

    root and model_path are absolute. In the file, one that lies inside the index's own folder is stored relative to it,
    so that a folder which holds both can be moved; any other is stored as it is.
    """

    card: ModelCard
    root: Path
    model_path: Path | None
    precisions: tuple[str, ...]
    """Every precision that codes of this index were computed in."""
    created_by: str = f"queryopt {__version__}"


@dataclass(frozen=True)
class State:
    """revision: number of the last write transaction; last_id: the largest id ever given; images: rows now."""

    revision: int = 0
    last_id: int = 0
    images: int = 0

    def next(self, last_id: int, images: int) -> "State":
        """The state after one more transaction."""
        return replace(self, revision=self.revision + 1, last_id=last_id, images=images)


def read_meta(connection: sqlite3.Connection, path: Path) -> Meta:
    """Read the facts. Raises IndexFileError where they are damaged."""
    root, model = _get(connection, path, "root"), _get(connection, path, "model_path")
    if b"\0" in root + model:
        raise _damaged(path, "root" if b"\0" in root else "model_path")
    try:
        card = ModelCard.from_json(_get(connection, path, "card").decode(), f"{path} (model card)")
    except UnicodeDecodeError:
        raise _damaged(path, "card") from None
    except ModelError as error:
        raise IndexFileError(str(error)) from None
    precisions = _get_json(connection, path, "precisions")
    if not (isinstance(precisions, list) and all(isinstance(one, str) for one in precisions)):
        raise _damaged(path, "precisions")
    return Meta(
        card=card,
        root=_from_stored(root, path),
        model_path=_from_stored(model, path) if model else None,
        precisions=tuple(precisions),
        created_by=_get(connection, path, "created_by").decode(),
    )


def write_meta(connection: sqlite3.Connection, path: Path, meta: Meta) -> None:
    """Write the facts, for an index that lies (or will lie) at `path`; inside a transaction."""
    _put(connection, "card", meta.card.to_json().encode())
    _put(connection, "root", _to_stored(meta.root, path))
    _put(connection, "model_path", b"" if meta.model_path is None else _to_stored(meta.model_path, path))
    _put(connection, "precisions", json.dumps(meta.precisions).encode())
    _put(connection, "created_by", meta.created_by.encode())


def read_counters(connection: sqlite3.Connection, path: Path) -> State:
    """Read the counters, for a reader. Raises IndexFileError where they are damaged."""
    values = _get_json(connection, path, "state")
    known = isinstance(values, dict) and values.keys() == asdict(State()).keys()
    if not (known and all(map(_is_count, values.values()))):
        raise _damaged(path, "state")
    return State(**values)


def read_state(connection: sqlite3.Connection, path: Path) -> State:
    """As `read_counters`, for a writer: IndexFileError also where they disagree with SQLite's own counter of ids."""
    state = read_counters(connection, path)
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'images'").fetchone()
    if (row[0] if row else 0) != state.last_id:
        raise IndexFileError(f"{path}: the counter of ids is damaged, and an id could be given twice: {REBUILD}")
    return state


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Write the counters; inside a transaction."""
    _put(connection, "state", json.dumps(asdict(state)).encode())


def _get(connection: sqlite3.Connection, path: Path, key: str) -> bytes:
    row = connection.execute("SELECT value, crc FROM meta WHERE key = ?", (key,)).fetchone()
    if row is None or not isinstance(row[0], bytes) or row[1] != _crc(key, row[0]):
        raise _damaged(path, key)
    value: bytes = row[0]
    return value


def _get_json(connection: sqlite3.Connection, path: Path, key: str) -> Any:
    try:
        return parse_json(_get(connection, path, key))
    except ValueError:
        raise _damaged(path, key) from None


def _damaged(path: Path, key: str) -> IndexFileError:
    return IndexFileError(f"{path}: the entry {key!r} of the index is missing or damaged: {REBUILD}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _put(connection: sqlite3.Connection, key: str, value: bytes) -> None:
    connection.execute("REPLACE INTO meta (key, value, crc) VALUES (?, ?, ?)", (key, value, _crc(key, value)))


def _crc(key: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key.encode()))


def _to_stored(target: Path, index: Path) -> bytes:
    folder = Path(os.path.abspath(index)).parent
    return os.fsencode(target.relative_to(folder) if target.is_relative_to(folder) else target)


def _from_stored(stored: bytes, index: Path) -> Path:
    # An absolute path stays as it is.
    return Path(os.path.abspath(index)).parent / os.fsdecode(stored)
