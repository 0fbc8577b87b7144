"""What lies in an index.db, its version, and how an older one becomes a newer one.

The file is a SQLite database with this application_id and, as user_version, the version of its schema. Values are
integers and BLOBs throughout: paths and labels are the file system's bytes, which need not be UTF-8. Every row of every
table carries a CRC32 of its values, since SQLite keeps no checksum of its pages.

To change the schema: raise SCHEMA_VERSION, change TABLES, and add to MIGRATIONS the step that turns the version before
into the new one. After the last step the tables must read as in TABLES to the letter (make a table anew and copy its
rows; ALTER TABLE leaves another text), because `check_tables` compares the text.
"""

import sqlite3
from collections.abc import Callable, Mapping
from functools import cache

from queryopt.errors import IndexFileError
from queryopt.runtime.index.connection import APPLICATION_ID, REBUILD, transaction

__all__ = ["MIGRATIONS", "SCHEMA_VERSION", "TABLES", "check_tables", "create_tables", "migrate", "stored_version"]

SCHEMA_VERSION = 1

TABLES: Mapping[str, str] = {
    # Keys and values: see `meta.py`.
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    # One row an image. AUTOINCREMENT: an id is never given twice, also after its image was removed.
    "images": (
        "CREATE TABLE images (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB NOT NULL UNIQUE, size INTEGER NOT NULL, "
        "mtime_ns INTEGER NOT NULL, code BLOB NOT NULL, margins BLOB NOT NULL, label BLOB, stale INTEGER NOT NULL, "
        "crc INTEGER NOT NULL)"
    ),
    # The codes of the images once more, packed for a quick start: see `blocks.py`. The short columns come first, so
    # that reading them does not read the codes.
    "blocks": (
        "CREATE TABLE blocks (number INTEGER PRIMARY KEY, revision INTEGER NOT NULL, crc INTEGER NOT NULL, "
        "live BLOB NOT NULL, codes BLOB NOT NULL)"
    ),
}

Step = Callable[[sqlite3.Connection], None]

MIGRATIONS: Mapping[int, Step] = {}
"""From a version to the next one. A step runs inside the transaction that holds all of them."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Make an empty index of the present version in an empty database."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for statement in TABLES.values():
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def stored_version(connection: sqlite3.Connection) -> int:
    """The version of the schema in the file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(
    connection: sqlite3.Connection,
    source: str,
    steps: Mapping[int, Step] = MIGRATIONS,
    target: int = SCHEMA_VERSION,
    writable: bool = True,
) -> list[int]:
    """Bring an older index to version `target`: all steps in one transaction, so that it is old or new, never between.

    Returns the versions that were left behind. Raises IndexFileError where the file is newer, of a version without a
    step, or older in a place where nothing can be written.
    """
    if _check_version(stored_version(connection), source, steps, target):
        return []
    if not writable:
        raise IndexFileError(
            f"{source}: schema version {stored_version(connection)} must be brought to version {target} before it can "
            "be used, and it was opened for reading alone: open it once for writing, or copy it first"
        )
    done: list[int] = []
    with transaction(connection):
        # Another process may have migrated it while this one waited.
        while not _check_version(version := stored_version(connection), source, steps, target):
            steps[version](connection)
            connection.execute(f"PRAGMA user_version = {version + 1}")
            done.append(version)
    return done


def check_tables(connection: sqlite3.Connection, source: str) -> None:
    """Raise IndexFileError unless the tables are those of the present version, and there is nothing else."""
    expected, present = _expected_schema(), _schema(connection)
    for entry in sorted(expected ^ present):
        raise IndexFileError(
            f"{source}: the definition of {entry[1]!r} is not as version {SCHEMA_VERSION} of an index has it: the file "
            f"is damaged or was changed by another program: {REBUILD}"
        )


def _schema(connection: sqlite3.Connection) -> set[tuple[str, ...]]:
    """All that is defined in a database, but for the statistics that ANALYZE leaves."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    entries = {tuple(_text(value) for value in row) for row in rows}
    return {entry for entry in entries if not entry[1].startswith("sqlite_stat")}


@cache
def _expected_schema() -> set[tuple[str, ...]]:
    connection = sqlite3.connect(":memory:")
    try:
        create_tables(connection)
        return _schema(connection)
    finally:
        connection.close()


def _check_version(version: int, source: str, steps: Mapping[int, Step], target: int) -> bool:
    """Whether the version is `target`; IndexFileError where it never will be."""
    if version == target:
        return True
    if version > target:
        raise IndexFileError(
            f"{source}: schema version {version}, but this queryopt reads up to {target}: upgrade queryopt (or, if no "
            "newer one wrote it, the file is damaged)"
        )
    missing = [v for v in range(version, target) if v not in steps]
    if missing:
        raise IndexFileError(f"{source}: schema version {version} is unknown to this queryopt: the file is damaged")
    return False


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
