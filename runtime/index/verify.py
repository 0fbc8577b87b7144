"""Compare all that an index says twice, and check every checksum; build damaged blocks anew from sound rows."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from queryopt.codes import unpack_codes
from queryopt.errors import IndexFileError
from queryopt.progress import Progress, no_progress
from queryopt.runtime.index.blocks import BLOCK_IDS, BLOCKS, Block, describe, read_blocks
from queryopt.runtime.index.connection import REBUILD
from queryopt.runtime.index.meta import read_meta, read_state
from queryopt.runtime.index.rows import IndexedImage, read_range
from queryopt.runtime.index.store import Store

__all__ = ["VerifyReport", "verify"]


@dataclass(frozen=True)
class VerifyReport:
    """images and blocks: how many were checked. problems: one line each, naming the row or block; none: all is well.

    repaired: problems that were mended (with repair=True); they are not among problems.
    backup: the copy of the index that was made before the first of them was mended.
    """

    images: int
    blocks: int
    problems: tuple[str, ...]
    repaired: tuple[str, ...] = ()
    backup: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong (any more)."""
        return not self.problems


@dataclass
class _Part:
    """What a look at one block and its rows gave."""

    images: list[IndexedImage] = field(default_factory=list)
    rows: int = 0
    row_problems: list[str] = field(default_factory=list)
    block_problems: list[str] = field(default_factory=list)

    @property
    def mendable(self) -> bool:
        """Whether the block is damaged, and its rows are not."""
        return bool(self.block_problems) and not self.row_problems


def verify(store: Store, repair: bool, progress: Progress | None) -> VerifyReport:
    """See HashIndex.verify."""
    problems = list(_structure(store))
    # A block is built from rows, so all of these must be there.
    rows_are_whole = not problems
    repaired: list[str] = []
    backup: Path | None = None
    numbers: list[int] = []
    images = total = 0

    def list_blocks() -> None:
        nonlocal total
        with store.read(snapshot=True) as connection:
            query = f"SELECT number FROM blocks UNION SELECT DISTINCT id / {BLOCK_IDS} FROM images ORDER BY 1"
            numbers.extend(row[0] for row in connection.execute(query))
            total = connection.execute("SELECT count(*) FROM images").fetchone()[0]

    problems += _attempt(list_blocks)
    with (progress or no_progress)("verify", total) as advance:
        for number in numbers:
            with store.read(snapshot=True) as connection:
                part = _check_block(connection, store, number)
            mend = repair and rows_are_whole and part.mendable
            if mend:
                backup = backup or _back_up(store)
                part = _mend(store, number)
            images += part.rows
            problems += part.row_problems
            if mend and part.mendable:
                repaired.append(f"{store.path}: {describe(number)} was built anew from {len(part.images)} rows")
            else:
                problems += part.block_problems
            advance(part.rows)
    if repair and problems:
        problems.append(
            f"{store.path}: a block is only built anew where all of its rows are sound and none is missing: {REBUILD}"
        )
    return VerifyReport(images, len(numbers), tuple(problems), tuple(repaired), backup)


def _mend(store: Store, number: int) -> _Part:
    """Build a block anew from its rows. Returns what was wrong, looked at once more: another process may have written
    in between.
    """
    with store.change() as changes, store.read() as connection:
        part = _check_block(connection, store, number)
        if part.mendable:
            changes.rebuild_block(_build_block(part.images, number, store.bits))
    return part


def _back_up(store: Store) -> Path:
    """Copy the index, as it is, to a file of another name beside it."""
    for i in count(1):
        path = store.path.with_name(f"{store.path.name}.before-repair" + (f"-{i}" if i > 1 else ""))
        if not os.path.lexists(path):
            store.backup(path)
            return path
    raise AssertionError


def _attempt(action: Callable[[], object]) -> list[str]:
    """Run a check that raises where something is damaged; its message as a list of problems."""
    try:
        action()
    except (IndexFileError, sqlite3.DatabaseError) as error:
        return [str(error)]
    return []


def _structure(store: Store) -> Iterator[str]:
    """SQLite's own check of its pages and indices, and the index's facts and counters."""
    problems: list[str] = []

    def integrity() -> None:
        with store.read() as connection:
            rows = connection.execute("PRAGMA integrity_check(100)").fetchall()
        problems.extend(f"{store.path}: SQLite: {_text(row[0])}" for row in rows if _text(row[0]) != "ok")

    def counters() -> None:
        with store.read(snapshot=True) as connection:
            read_meta(connection, store.path)
            state = read_state(connection, store.path)
            count = connection.execute("SELECT count(*) FROM images NOT INDEXED").fetchone()[0]
        if count != state.images:
            problems.append(f"{store.path}: {count} rows of images, but the counter says {state.images}")

    problems += _attempt(integrity)
    problems += _attempt(counters)
    yield from problems


def _check_block(connection: sqlite3.Connection, store: Store, number: int) -> _Part:
    part = _Part()

    def rows() -> None:
        if not 0 <= number < BLOCKS:
            return
        for row in read_range(connection, number * BLOCK_IDS, (number + 1) * BLOCK_IDS):
            part.rows += 1
            part.row_problems += _attempt(lambda row=row: part.images.append(store.decode(row)))  # type: ignore[misc]

    part.row_problems += _attempt(rows)
    part.row_problems += [
        f"{store.path}: the margins of image {image.id} ({image.path!r}) contradict its code"
        for image in part.images
        if not np.array_equal(image.margins > 0, unpack_codes(image.code[None], store.bits)[0])
    ]
    try:
        stored = next(read_blocks(connection, store.source, store.bits, [number]), Block.empty(number, store.bits))
    except (IndexFileError, sqlite3.DatabaseError) as error:
        part.block_problems.append(str(error))
        return part
    expected = _build_block(part.images, number, store.bits)
    differs = (stored.live != expected.live) | (stored.codes != expected.codes).any(axis=1)
    ids = np.flatnonzero(differs) + number * BLOCK_IDS
    if ids.size and not part.row_problems:
        part.block_problems.append(
            f"{store.path}: {describe(number)} differs from the rows of {ids.size} images, the first of id {ids[0]}"
        )
    return part


def _build_block(images: list[IndexedImage], number: int, bits: int) -> Block:
    block = Block.empty(number, bits)
    slots = [image.id % BLOCK_IDS for image in images]
    block.live[slots] = True
    if images:
        block.codes[slots] = [image.code for image in images]
    return block


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
