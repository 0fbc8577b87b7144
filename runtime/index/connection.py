"""SQLite connections to an index: how a file is opened, and what SQLite's errors mean to a user.

Guarantees, with the settings below:
- Writers use WAL with synchronous=FULL: the log is fsynced in every commit, so what a commit has answered survives
  kill -9 and a loss of power (as far as the disk keeps its promise to fsync). NORMAL would survive the first only.
- Readers never wait for a writer, nor a writer for readers. Writers wait for each other, up to a timeout.
- The last connection to close folds the log into the file: at rest there is one file.
WAL needs shared memory: all processes that use an index at the same time must run on one machine.
"""

import logging
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from urllib.parse import quote

from queryopt.errors import IndexFileError, InputError, QueryOptError, UsageError
from queryopt.files import sync_folder, temporary_beside
from queryopt.kinds import Kind, mistaken
from queryopt.runtime.index.heads import CountedConnection, read_head

__all__ = [
    "APPLICATION_ID",
    "DAMAGED",
    "REBUILD",
    "Access",
    "check_header",
    "connect",
    "explained",
    "open_uri",
    "publish",
    "transaction",
    "wal_bytes",
]

APPLICATION_ID = 0x716F6462
"""'qodb' in ASCII, at byte 68 of an index."""

_LOG = logging.getLogger("queryopt.index")
_MAGIC = b"SQLite format 3\0"
_MAX_VALUE = 1 << 20
"""No value of an index is larger (a block is at most 32 KiB): a damaged length is refused before memory is taken."""
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
"""What a full disk is called; the second one also where a file may not grow, or the disk fails."""
_MAX_LOG = 64 << 20
"""The log is cut to this many bytes whenever it starts anew."""
REBUILD = "restore it from a backup (qo-index backup makes them), or delete it and make it again with qo-infer"
"""What to do about an index that is damaged beyond repair."""
DAMAGED = f"qo-index verify names what is damaged, and --repair mends what can be; if it can't, {REBUILD}"
"""What to do about an index of which nobody knows yet what is damaged."""


class Access(Enum):
    """What a connection may do."""

    WRITE = "read and write"
    READ = "read; sees what others commit"
    FROZEN = "read the file as it lies there; changes made by others are not seen"


def connect(path: Path, readonly: bool, timeout: float) -> tuple[sqlite3.Connection, Access]:
    """Open an existing index file. Falls back to reading alone where nothing can be written, and says so in the log.

    timeout: seconds that a writer waits for another one. Raises IndexFileError where the file is not an index.
    """
    check_header(path)
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        connection = open_uri(path, "mode=rw", timeout)
        if readonly and not _has_room(connection):
            connection.close()
            return _open_unwritable(path, timeout)
        with explained(path, connection):
            if readonly:
                # Not mode=ro: that leaves its log and shared memory behind when it closes.
                connection.execute("PRAGMA query_only = ON")
                return connection, Access.READ
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA journal_size_limit = {_MAX_LOG}")
            return connection, Access.WRITE
    connection, access = _open_unwritable(path, timeout)
    if not readonly:
        _LOG.warning("%s: no permission to write here; opened to %s", path, access.value)
    return connection, access


def check_header(path: Path) -> None:
    """Raise IndexFileError (InputError where there is no file) unless the file begins as an index does."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise IndexFileError(mistaken(path, Kind.INDEX) or f"{path}: not a regular file, so not an index")
        header = read_head(path, 100)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no index here: make it with qo-infer FOLDER --index {path}") from None
    except OSError as error:
        raise IndexFileError(f"{path}: {error.strerror}") from None
    if not header:
        raise IndexFileError(f"{path}: the file is empty (0 bytes), not an index: {REBUILD}")
    if not header.startswith(_MAGIC):
        raise IndexFileError(
            mistaken(path, Kind.INDEX)
            or f"{path}: not an index: an index is a SQLite file, and this one starts with {header[:16]!r}"
        )
    if header[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise IndexFileError(f"{path}: a SQLite file, but not an index of queryopt (or its header is damaged)")
    # With a log, the missing pages may be in there, or on their way into the file. If the log was just folded in, the
    # file is whole by now.
    if _cut_off(path) and not wal_bytes(path) and (lack := _cut_off(path)):
        raise IndexFileError(f"{path}: the index is damaged ({lack}): {REBUILD}")


@contextmanager
def explained(path: Path, close_on_error: sqlite3.Connection | None = None) -> Iterator[None]:
    """Turn SQLite's errors into ours: what is wrong with the index at `path`, and what to do."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError, QueryOptError) as error:
        if close_on_error is not None:
            close_on_error.close()
        if isinstance(error, QueryOptError):
            raise
        raise _explain(error, path) from error


@contextmanager
def transaction(connection: sqlite3.Connection, write: bool = True) -> Iterator[None]:
    """All of the block, or nothing of it. A write transaction begins by waiting for its turn among writers."""
    connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have rolled it back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Make a file elsewhere in the folder, then give it its name: it is there whole, or not at all.

    Yields the temporary path; connections to it are closed in the block. Raises UsageError where `path` exists already,
    then or later; it is never overwritten.
    """
    taken = UsageError(f"{path}: there is a file of this name already: choose another name, or delete it first")
    if os.path.lexists(path):
        raise taken
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent} to write it to")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: can't be written: no permission to write to the folder {path.parent}")
    with temporary_beside(path) as temporary:
        try:
            yield temporary
            if wal_bytes(temporary):
                # Closing folds the log into the file, and says nothing where the disk has no room for that.
                raise IndexFileError(
                    f"{path}: was not written: the disk is full: make room and run the same command again"
                )
            _move(temporary, path, taken)
        finally:
            for suffix in ("-wal", "-shm", "-journal"):
                Path(f"{temporary}{suffix}").unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def wal_bytes(path: Path) -> int:
    """Size of the log beside the index: commits that are not yet folded into it. 0 at rest."""
    try:
        return os.stat(f"{path}-wal").st_size
    except OSError:
        return 0


def _move(temporary: Path, path: Path, taken: QueryOptError) -> None:
    try:
        # A hard link, unlike a rename, never replaces a file that came in between.
        os.link(temporary, path)
    except FileExistsError:
        raise taken from None
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise taken from None
        os.rename(temporary, path)
    sync_folder(path.parent)


def open_uri(path: Path, mode: str, timeout: float) -> sqlite3.Connection:
    """A connection with SQLite's URI parameters `mode`, in autocommit, without the checks of `connect`."""
    uri = f"file://{quote(os.fsencode(os.path.abspath(path)))}?{mode}"
    with explained(path):
        connection = CountedConnection(
            uri, timeout=timeout, isolation_level=None, check_same_thread=False, uri=True, file=path
        )
    with explained(path, connection):
        connection.text_factory = bytes
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE)
        # The file may come from anywhere: its schema runs no functions, and its cells are checked as they are read.
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _has_room(connection: sqlite3.Connection) -> bool:
    """Whether the disk has room for the shared memory that also a reader of a WAL database needs."""
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        return _primary(error) not in _NO_ROOM
    except (sqlite3.DatabaseError, UnicodeDecodeError):  # SQLite quotes what lies in the file
        pass  # met again, and explained, by whoever reads next
    return True


def _open_unwritable(path: Path, timeout: float) -> tuple[sqlite3.Connection, Access]:
    connection = open_uri(path, "mode=ro", timeout)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return connection, Access.READ
    except sqlite3.OperationalError as error:
        connection.close()
        if _primary(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, *_NO_ROOM):
            raise _explain(error, path) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        connection.close()
        raise _explain(error, path) from error
    # WAL wants shared memory beside the file, which can't be made here. At rest the file alone is whole.
    if wal_bytes(path):
        raise IndexFileError(
            f"{path}: there are commits in {path.name}-wal that are not yet in the file, and nothing can be written "
            "here: open the index once where it can be written (qo-index info does), or copy both files to such a place"
        )
    return open_uri(path, "immutable=1&mode=ro", timeout), Access.FROZEN


def _primary(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _explain(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> Exception:
    if isinstance(error, UnicodeDecodeError):
        # The sqlite3 module meets it in SQLite's message about a damaged schema.
        return IndexFileError(f"{path}: the index is damaged (text in it is not UTF-8): {REBUILD}")
    code = _primary(error)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return IndexFileError(
            f"{path}: another process is writing to the index and did not finish in time: try again when it is done; "
            "all that was committed before is kept"
        )
    if code in _NO_ROOM:
        return IndexFileError(
            f"{path}: can't write or read ({error}): the disk is full, a size limit is reached or the disk fails; "
            "all that was committed before is kept: make room and run the same command again"
        )
    # Our statements break no constraint of sound tables.
    damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT)
    if damaged or "unsupported file format" in str(error):
        return IndexFileError(f"{path}: the index is damaged ({_cut_off(path) or error}): {REBUILD}")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return IndexFileError(f"{path}: {error}: check the permissions of the file and of its folder")
    if code == sqlite3.SQLITE_TOOBIG:
        return IndexFileError(f"{path}: a value is larger than {_MAX_VALUE} bytes, and none in an index is: {REBUILD}")
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return UsageError(f"{path}: the index was closed: open it again")
    return error


def _cut_off(path: Path) -> str | None:
    """How the file falls short of the size in its header; None where it doesn't."""
    try:
        header = read_head(path, 100)
        size = os.stat(path).st_size
    except OSError:
        return None
    page = int.from_bytes(header[16:18], "big")
    promised = int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)
    return f"cut off: {size} bytes, and its header promises {promised}" if size < promised else None
