"""Versions of the schema: older ones are migrated, newer ones refused."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from queryopt.errors import IndexFileError
from queryopt.runtime.index import HashIndex
from queryopt.runtime.index.schema import SCHEMA_VERSION, migrate, stored_version


@pytest.fixture
def old(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database of version 1 of some schema with one table."""
    connection = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    connection.execute("PRAGMA user_version = 1")
    connection.execute("CREATE TABLE things (name)")
    connection.execute("INSERT INTO things VALUES ('one')")
    yield connection
    connection.close()


def add_size(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE things ADD COLUMN size")
    connection.execute("UPDATE things SET size = 3")


def double_size(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE things SET size = size * 2")


def test_all_steps_in_order(old: sqlite3.Connection) -> None:
    assert migrate(old, "old.db", {1: add_size, 2: double_size}, target=3) == [1, 2]
    assert stored_version(old) == 3
    assert old.execute("SELECT * FROM things").fetchall() == [("one", 6)]
    assert migrate(old, "old.db", {1: add_size, 2: double_size}, target=3) == []


def test_a_step_that_fails_leaves_all_as_it_was(old: sqlite3.Connection) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        double_size(connection)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(old, "old.db", {1: add_size, 2: fail}, target=3)
    assert stored_version(old) == 1
    assert old.execute("SELECT * FROM things").fetchall() == [("one",)]


def test_two_processes_migrate_once(old: sqlite3.Connection, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    steps = {1: add_size, 2: double_size}

    def meanwhile(statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            other.set_trace_callback(None)
            migrate(old, "old.db", steps, target=3)

    other.set_trace_callback(meanwhile)  # called as the statement begins, before it has the lock
    assert migrate(other, "old.db", steps, target=3) == []
    other.close()
    assert old.execute("SELECT * FROM things").fetchall() == [("one", 6)]


def test_an_older_one_that_can_not_be_written(old: sqlite3.Connection) -> None:
    with pytest.raises(IndexFileError, match="open it once for writing"):
        migrate(old, "old.db", {1: add_size}, target=2, writable=False)
    assert stored_version(old) == 1


def test_versions_without_a_way_are_refused(old: sqlite3.Connection) -> None:
    with pytest.raises(IndexFileError, match="version 1 is unknown"):
        migrate(old, "old.db", {2: double_size}, target=3)
    with pytest.raises(IndexFileError, match="reads up to 0: upgrade queryopt"):
        migrate(old, "old.db", {}, target=0)


@pytest.mark.parametrize("readonly", [False, True])
def test_a_newer_index_is_refused(index: HashIndex, fill: Any, readonly: bool) -> None:
    fill(index, ["a"])
    index.close()
    connection = sqlite3.connect(index.path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = index.path.read_bytes()
    with pytest.raises(IndexFileError, match=f"schema version {SCHEMA_VERSION + 1}.*upgrade queryopt"):
        HashIndex.open(index.path, readonly)
    assert index.path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON images BEGIN DELETE FROM images; END",
        "CREATE VIEW v AS SELECT 1",
        "ALTER TABLE images ADD COLUMN more",
        "DROP TABLE blocks",
    ],
)
def test_tables_changed_by_others_are_refused(index: HashIndex, statement: str) -> None:
    index.close()
    connection = sqlite3.connect(index.path)
    connection.execute(statement)
    connection.close()
    with pytest.raises(IndexFileError, match="changed by another program"):
        HashIndex.open(index.path)
