"""Result files that are there whole, or as they were."""

import errno
import fcntl
import glob
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from queryopt.errors import UsageError

__all__ = ["leftovers", "replacing", "sync_folder", "temporary_beside"]

_WRONG_PLACE = frozenset(
    {errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS}
)
"""Errors that another path would mend; a full disk is none of them."""


@contextmanager
def replacing(path: str | os.PathLike[str], over: bytes | None = None) -> Iterator[BinaryIO]:
    """Open a file to write bytes that take `path`'s place when the block ends.

    over: how a file begins that may be replaced (an empty one may always be); None lets any file be replaced.

    Until then, and if the block raises or the process is killed, `path` is what it was before. The bytes are on disk
    when the name appears. What is not a regular file (a pipe, /dev/null) is written straight to; a link is followed.
    UsageError where the folder is not there or can't be written, or what is there begins otherwise than `over`.
    OSError, with `path` as its file name, where writing fails (a full disk).
    """
    name = os.fspath(path)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        if target.is_dir():
            raise UsageError(f"{name}: a folder of that name is there: give a file to write to")
        with open(target, "wb") as file:
            yield file
        return
    if over is not None and not _begins(target, over):
        raise UsageError(
            f"{name}: the file there is none that this command wrote: move it away, or choose another name"
        )
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(temporary_beside(target))
            file = stack.enter_context(io.BufferedWriter(_NamedFile(temporary, name)))
        except OSError as error:
            if error.errno not in _WRONG_PLACE:
                raise
            raise UsageError(f"{name}: can't be written: {error.strerror}") from None
        with suppress(OSError):
            os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        yield file
        file.flush()
        with _named(name):
            os.fsync(file.fileno())
        os.replace(temporary, target)
    sync_folder(target.parent)


class _NamedFile(io.FileIO):
    """A file to write to, whose errors name it by the path that its user gave. The system's own name none."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, "w")
        self._shown = name

    def write(self, data: Any, /) -> int:
        with _named(self._shown):
            return super().write(data)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = name
        raise


def _begins(target: Path, start: bytes) -> bool:
    """Whether a file begins with these bytes, or is empty, or not there."""
    try:
        with open(target, "rb") as file:
            return file.read(len(start)) in (b"", start)
    except FileNotFoundError:
        return True


@contextmanager
def temporary_beside(target: Path, suffix: str = "tmp") -> Iterator[Path]:
    """A hidden empty file of its own that is to become `target`; removed when the block ends, if it is still there.

    Those that writers of `target` left when they were killed are removed first: a writer that lives holds its own
    locked, where the file system has locks. The file has the rights that any new file has. OSError where it can't be
    made.
    """
    for left in leftovers(target, suffix):
        _remove_unlocked(left)
    path, descriptor = _make_locked(target, suffix)
    try:
        yield path
    finally:
        with suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _make_locked(target: Path, suffix: str) -> tuple[Path, int]:
    while True:
        path = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.{suffix}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Another process may have found it before it was locked, and removed it.
        if os.path.exists(path):
            return path, descriptor
        os.close(descriptor)


def _remove_unlocked(path: Path) -> None:
    """Remove a file and the logs that SQLite has beside one, unless somebody holds it locked."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for suffix in ("-wal", "-shm", "-journal", ""):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where its file system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def leftovers(path: str | os.PathLike[str], suffix: str = "tmp") -> list[Path]:
    """Temporary files beside `path` that writers of it left when they were killed, or write to now."""
    target = Path(os.path.realpath(path))
    return sorted(target.parent.glob(f"{glob.escape(_prefix(target))}{'[0-9a-f]' * 8}.{suffix}"))


def _prefix(target: Path) -> str:
    return f".{target.name[:100]}."
