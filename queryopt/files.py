"""Result files that are there whole, or as they were."""

import errno
import glob
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    temporary = temporary_beside(target)
    try:
        # Made by open, not by mkstemp: the file has the rights that any new file has.
        output = io.BufferedWriter(_NamedFile(temporary, name))
    except OSError as error:
        if error.errno not in _WRONG_PLACE:
            raise
        raise UsageError(f"{name}: can't be written: {error.strerror}") from None
    try:
        with output as file:
            with suppress(OSError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            yield file
            file.flush()
            with _named(name):
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(target.parent)


class _NamedFile(io.FileIO):
    """A new file to write to, whose errors name it by the path that its user gave. The system's own name none."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(path, "x")
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


def temporary_beside(target: Path) -> Path:
    """A name of its own for a hidden file that is to become `target`."""
    return target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}.tmp")


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, where its file system can do that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def leftovers(path: str | os.PathLike[str]) -> list[Path]:
    """Temporary files beside `path` that writers of it left when they were killed, or write to now."""
    target = Path(os.path.realpath(path))
    return sorted(target.parent.glob(f"{glob.escape(_prefix(target))}*.tmp"))


def _prefix(target: Path) -> str:
    return f".{target.name[:100]}."
