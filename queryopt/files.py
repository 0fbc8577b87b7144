"""Result files that are there whole, or as they were."""

import errno
import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from queryopt.errors import UsageError

__all__ = ["leftovers", "replacing", "sync_folder", "temporary_beside"]

_WRONG_PLACE = frozenset(
    {errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS}
)
"""Errors that another path would mend; a full disk is none of them."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to write bytes that take `path`'s place when the block ends.

    Until then, and if the block raises or the process is killed, `path` is what it was before. The bytes are on disk
    when the name appears. What is not a regular file (a pipe, /dev/null) is written straight to; a link is followed.
    UsageError where the folder is not there or can't be written, OSError where writing fails (a full disk).
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        if target.is_dir():
            raise UsageError(f"{os.fspath(path)}: a folder of that name is there: give a file to write to")
        with open(target, "wb") as file:
            yield file
        return
    temporary = temporary_beside(target)
    try:
        # Made by open, not by mkstemp: the file has the rights that any new file has.
        output = open(temporary, "xb")  # noqa: SIM115
    except OSError as error:
        if error.errno not in _WRONG_PLACE:
            raise
        raise UsageError(f"{os.fspath(path)}: can't be written: {error.strerror}") from None
    try:
        with output as file:
            with suppress(OSError):
                os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(target.parent)


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
