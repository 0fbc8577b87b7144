"""The first bytes of files that this process may have open in SQLite.

POSIX drops all locks that a process has on a file when it closes any descriptor of it, those of SQLite's connections
too. Another process that closes its connection then takes itself for the last one and deletes the log, and what is
committed to the deleted log is lost. So a descriptor that is opened here while there are connections stays open until
the last of them is closed.
"""

import os
import sqlite3
import threading
from collections import Counter
from pathlib import Path
from typing import Any

__all__ = ["CountedConnection", "read_head"]

_File = tuple[int, int]
"""Device and inode."""

_lock = threading.Lock()
_connections: Counter[_File] = Counter()
_kept: dict[_File, int] = {}


class CountedConnection(sqlite3.Connection):
    """A connection that is known here from before it opens its file until after it has closed it."""

    def __init__(self, database: str, *args: Any, file: Path, **settings: Any) -> None:
        self._file: _File | None = None
        with _lock:
            if os.path.exists(file):
                self._file = _identity(file)
                _connections[self._file] += 1
        try:
            super().__init__(database, *args, **settings)
        except BaseException:
            self._forget()
            raise

    def close(self) -> None:
        """Close it, and what is not needed any more."""
        super().close()
        self._forget()

    def _forget(self) -> None:
        with _lock:
            if self._file is None:
                return
            _connections[self._file] -= 1
            if not _connections[self._file]:
                del _connections[self._file]
                if self._file in _kept:
                    os.close(_kept.pop(self._file))
            self._file = None


def read_head(path: Path, size: int) -> bytes:
    """The first `size` bytes of a file, fewer where it has fewer. OSError as of open."""
    with _lock:
        file = _identity(path)
        if file in _kept:
            return os.pread(_kept[file], size, 0)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return os.pread(descriptor, size, 0)
        finally:
            if _connections[file]:
                _kept[file] = descriptor
            else:
                os.close(descriptor)


def _identity(path: Path) -> _File:
    status = os.stat(path)
    return status.st_dev, status.st_ino
