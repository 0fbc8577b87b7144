"""The index file with its transactions: what is in it, one change at a time."""

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from queryopt.card import ModelCard
from queryopt.errors import IndexFileError, MismatchError, UsageError
from queryopt.runtime.index import connection as sqlite
from queryopt.runtime.index.blocks import BLOCK_IDS, Block, read_blocks, write_block
from queryopt.runtime.index.connection import DAMAGED, Access
from queryopt.runtime.index.meta import Meta, State, read_meta, read_state, write_meta, write_state
from queryopt.runtime.index.rows import (
    SELECT,
    IndexedImage,
    Row,
    decode_row,
    insert_row,
    read_page,
    read_row,
    update_row,
)
from queryopt.runtime.index.schema import check_tables, create_tables, migrate

__all__ = ["CHOOSE", "Changes", "Store"]

CHOOSE = "give that model with --model, or another index with --index"
"""What to do about a model that is not the index's, where both are chosen."""


class Store:
    """An open index file. Its methods may be called from several threads, but not after a fork."""

    def __init__(self, path: Path, connection: sqlite3.Connection, access: Access) -> None:
        self.path = path
        self.access = access
        self.lock = threading.RLock()
        self._connection = connection
        self._identity = sqlite.identity(path)
        self._meta = read_meta(connection, path)

    @classmethod
    def create(cls, path: Path, meta: Meta) -> None:
        """Make an empty index file. Raises UsageError where there is a file already."""
        with sqlite.publish(path) as temporary, sqlite.explained(path):
            connection = sqlite.open_uri(temporary, "mode=rwc", timeout=0)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                with sqlite.transaction(connection):
                    create_tables(connection)
                    write_meta(connection, path, meta)
                    write_state(connection, State())
            finally:
                connection.close()

    @classmethod
    def open(cls, path: Path, readonly: bool, timeout: float) -> "Store":
        """Open an index file, and bring it to the present version."""
        connection, access = sqlite.connect(path, readonly, timeout)
        with sqlite.explained(path, connection):
            migrate(connection, str(path), writable=access is Access.WRITE)
            check_tables(connection, str(path))
            return cls(path, connection, access)

    def close(self) -> None:
        """Close the file; the last one to do so folds the log into it."""
        with self.lock:
            self._connection.close()

    @property
    def replaced(self) -> bool:
        """Whether another file, or none, lies at the path by now: what is open is the one that lay there before."""
        return sqlite.identity(self.path) != self._identity

    @property
    def meta(self) -> Meta:
        """The index's own facts, as of when they were last read or written."""
        return self._meta

    @property
    def card(self) -> ModelCard:
        return self._meta.card

    @property
    def bits(self) -> int:
        return self._meta.card.bits

    @property
    def source(self) -> str:
        """The file's name in messages."""
        return str(self.path)

    @contextmanager
    def read(self, snapshot: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection, for reading; with `snapshot`, all of the block sees one state of the index."""
        with self.lock, sqlite.explained(self.path):
            if snapshot and not self._connection.in_transaction:
                with sqlite.transaction(self._connection, write=False):
                    yield self._connection
            else:
                yield self._connection

    def require_write(self) -> None:
        """Raise UsageError where nothing can be changed."""
        if self.access is not Access.WRITE:
            raise UsageError(
                f"{self.path}: the index was opened to {self.access.value}: open it where and so that it can be written"
            )

    @contextmanager
    def change(self) -> Iterator["Changes"]:
        """One write transaction. When the block ends, all of it is committed and on disk; if it raises, nothing is."""
        self.require_write()
        with self.lock, sqlite.explained(self.path), sqlite.transaction(self._connection):
            changes = Changes(self._connection, self.path, self.bits)
            yield changes
            changes.finish()

    def set_meta(
        self,
        root: Path | None = None,
        model_path: Path | None = None,
        precision: str | None = None,
        label_depth: int | None = None,
    ) -> None:
        """Change facts of the index (those given), if they differ."""

        def changed(meta: Meta) -> Meta:
            known = precision is None or precision in meta.precisions
            return replace(
                meta,
                card=replace(meta.card, label_depth=label_depth or meta.card.label_depth),
                root=root or meta.root,
                model_path=model_path or meta.model_path,
                precisions=meta.precisions if known else (*meta.precisions, str(precision)),
            )

        with self.lock, sqlite.explained(self.path):
            self._meta = read_meta(self._connection, self.path)
            if changed(self._meta) == self._meta:
                return
            with self.change():
                # Once more: another process may have changed other facts while this one waited for its turn.
                new = changed(read_meta(self._connection, self.path))
                write_meta(self._connection, self.path, new)
            self._meta = new

    def backup(self, target: Path) -> None:
        """Copy the index as it is now, while others may write to it. UsageError where there is a file already."""
        with sqlite.publish(target) as temporary, self.lock, sqlite.explained(target):
            copy = sqlite.open_uri(temporary, "mode=rwc", timeout=0)
            try:
                self._connection.backup(copy)
                # A root or model inside the index's folder is stored relative to it, and the copy lies elsewhere.
                with sqlite.transaction(copy):
                    write_meta(copy, target, self._meta)
            finally:
                copy.close()

    def state(self) -> State:
        with self.read(snapshot=True) as connection:
            return read_state(connection, self.path)

    def image(self, id: int) -> IndexedImage | None:
        """One image; None where there is none of this id. IndexFileError where there should be one."""
        with self.read(snapshot=True) as connection:
            row = read_row(connection, id)
            if row is None:
                self._check_gone(connection, id)
        return None if row is None else self.decode(row)

    def _check_gone(self, connection: sqlite3.Connection, id: int) -> None:
        number, slot = divmod(id, BLOCK_IDS)
        for block in read_blocks(connection, self.source, self.bits, [number]):
            if block.live[slot]:
                raise IndexFileError(f"{self.path}: the row of image {id} is missing: {DAMAGED}")

    def has(self, id: int) -> bool:
        with self.read() as connection:
            return connection.execute("SELECT 1 FROM images WHERE id = ?", (id,)).fetchone() is not None

    def find(self, relative: bytes) -> int | None:
        """The id of the image with this path relative to the root."""
        with self.read() as connection:
            row = connection.execute("SELECT id FROM images WHERE path = ?", (relative,)).fetchone()
        return None if row is None else int(row[0])

    def labels(self, ids: Iterable[int]) -> dict[int, str | None]:
        """The labels of those images that are there."""
        found: dict[int, str | None] = {}
        with self.read(snapshot=True) as connection:
            for id in ids:
                for (label,) in connection.execute("SELECT label FROM images WHERE id = ?", (id,)):
                    found[id] = None if label is None else os.fsdecode(label)
        return found

    def find_below(self, folder: bytes) -> list[bytes]:
        """The paths of the images below a folder, both relative to the root, sorted."""
        low, high = folder + b"/", folder + b"0"  # "0" comes after "/"
        sql = "SELECT path FROM images WHERE path > ? AND path < ? ORDER BY path"
        with self.read() as connection:
            return [path for (path,) in connection.execute(sql, (low, high))]

    def images(self) -> Iterator[IndexedImage]:
        """All images in id order. What is committed meanwhile at later ids is seen."""
        after = 0
        while True:
            with self.read() as connection:
                page = read_page(connection, after, self.source)
            if not page:
                return
            yield from map(self.decode, page)
            after = page[-1][0]

    def decode(self, row: tuple[object, ...]) -> IndexedImage:
        """A row of the images table as an image."""
        return decode_row(row, self.source, self._meta.root, self.bits)

    def check_card(self, card: ModelCard, what: str, remedy: str = CHOOSE) -> None:
        """Raise MismatchError, ending in `remedy`, unless codes made with `card` belong here. Precision and backend may
        differ.
        """
        model = f", {self._meta.model_path}" if self._meta.model_path else ""
        if card.bits != self.bits:
            raise MismatchError(
                f"{what} makes codes of {card.bits} bits, and {self.path} holds those of another model ({self.bits} "
                f"bits{model}): {remedy}"
            )
        if card.fingerprint != self.card.fingerprint:
            raise MismatchError(
                f"{what} is another model (fingerprint {card.fingerprint[:12]}) than that of {self.path} "
                f"({self.card.fingerprint[:12]}{model}), and their codes "
                f"can't be compared: {remedy}"
            )


class Changes:
    """What one transaction changes: rows and blocks together."""

    def __init__(self, connection: sqlite3.Connection, path: Path, bits: int) -> None:
        self._connection = connection
        self._path = path
        self._bits = bits
        self._state = read_state(connection, path)
        self._blocks: dict[int, Block] = {}
        self.last_id, self.images = self._state.last_id, self._state.images

    def put(self, rows: Iterable[Row]) -> list[int]:
        """Add images, or replace those whose path is there already under the same id. Returns their ids."""
        ids = []
        for row in rows:
            known = self._connection.execute("SELECT id FROM images WHERE path = ?", (row.path,)).fetchone()
            if known is None:
                id = self.last_id = self.last_id + 1
                insert_row(self._connection, id, row)
                self.images += 1
            else:
                id = known[0]
                update_row(self._connection, id, row)
            block = self._block(id)
            block.live[id % BLOCK_IDS] = True
            block.codes[id % BLOCK_IDS] = np.frombuffer(row.code, np.uint8)
            ids.append(id)
        return ids

    def mark_stale(self, path: bytes) -> bool:
        """Mark the image of this path as not readable any more, its code kept. Whether there is such an image."""
        known = self._connection.execute(f"{SELECT} WHERE path = ?", (path,)).fetchone()
        if known is None:
            return False
        image = decode_row(known, str(self._path), Path(), self._bits)
        if not image.stale:
            update_row(self._connection, image.id, replace(Row.of(image, path), stale=True))
        return True

    def relabel(self, path: bytes, label: bytes | None) -> None:
        """Give the image of this path another label."""
        known = self._connection.execute(f"{SELECT} WHERE path = ?", (path,)).fetchone()
        if known is not None:
            image = decode_row(known, str(self._path), Path(), self._bits)
            update_row(self._connection, image.id, replace(Row.of(image, path), label=label))

    def remove(self, ids: Iterable[int]) -> int:
        """Remove images; ids that are not there are passed over. Returns how many were."""
        removed = 0
        for id in ids:
            if self._connection.execute("DELETE FROM images WHERE id = ?", (id,)).rowcount:
                block = self._block(id)
                block.live[id % BLOCK_IDS] = False
                block.codes[id % BLOCK_IDS] = 0
                removed += 1
        self.images -= removed
        return removed

    def rebuild_block(self, block: Block) -> None:
        """Put a block in place of the stored one, whatever that is like."""
        self._blocks[block.number] = block

    def finish(self) -> None:
        """Write blocks and counters, last in the transaction."""
        state = self._state.next(self.last_id, self.images)
        for number in sorted(self._blocks):
            write_block(self._connection, self._blocks[number], state.revision)
        write_state(self._connection, state)

    def _block(self, id: int) -> Block:
        number = id // BLOCK_IDS
        if number not in self._blocks:
            stored: Sequence[Block] = list(read_blocks(self._connection, str(self._path), self._bits, [number]))
            self._blocks[number] = stored[0].writable() if stored else Block.empty(number, self._bits)
        return self._blocks[number]
