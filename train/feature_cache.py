"""Features of pictures, kept on disk: through a frozen trunk a picture goes once, and not again in the next run.

A picture is known by its bytes: a changed file is another picture, a moved one is the same, and no clock is trusted.
(To read and digest a file takes a hundredth of what decoding it takes.) What makes the features, a recipe, is known by
what `Measuring` digests of it.

<folder>/features/<recipe>/<2 digits>/<62 digits>, a file a picture, named by the SHA-256 of its bytes: the SHA-256 of
what follows, and the features, float32, little-endian. A file is written beside and renamed, so processes may share the
folder; a damaged one counts as none. Beyond `limit` bytes, files that were used longest ago go first.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from queryopt.errors import ImageError
from queryopt.files import temporary_beside
from queryopt.images import read_bytes
from queryopt.text import display_path

__all__ = ["CACHE_VARIABLE", "LIMIT", "FeatureCache", "digest_files", "user_cache"]

CACHE_VARIABLE = "QUERYOPT_CACHE"
"""Environment variable that names the cache's folder."""
LIMIT = 2 << 30
"""Bytes that the kept features may take: 2 GiB, some 240,000 pictures' of EfficientNet-Lite0."""

_SPARED = 0.9
"""Share of the limit that is left where it was passed: the files are looked through now and then, not every time."""
_DIGEST_BYTES = hashlib.sha256().digest_size
_VALUE = np.dtype("<f4")

_log = logging.getLogger(__name__)

_Values = npt.NDArray[np.float32]


def user_cache() -> "FeatureCache | None":
    """The user's: in $QUERYOPT_CACHE, else $XDG_CACHE_HOME/queryopt, else ~/.cache/queryopt; None without a home."""
    if named := os.environ.get(CACHE_VARIABLE):
        return FeatureCache(Path(named).absolute())
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return FeatureCache((Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "queryopt")
    except RuntimeError:
        return None


def digest_files(paths: Sequence[Path], threads: int) -> list[bytes | None]:
    """SHA-256 of each file's bytes, None where they can't be read."""

    def digest(path: Path) -> bytes | None:
        try:
            return hashlib.sha256(read_bytes(path)).digest()
        except ImageError:
            return None

    with ThreadPoolExecutor(threads, thread_name_prefix="queryopt-digests") as pool:
        return list(pool.map(digest, paths))


class FeatureCache:
    """Features in a folder, by recipe and picture. What can't be read or written there is as if it were not kept: a
    warning at most.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        self._folder, self._limit = folder / "features", limit
        self._writable = True

    def find(self, recipe: str, picture: bytes, width: int) -> _Values | None:
        """The features of a picture, float32 [width], None where there are none.

        recipe: a name for a folder. picture: the digest of its bytes.
        """
        path = self._path(recipe, picture)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, values = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if len(values) != width * _VALUE.itemsize or hashlib.sha256(values).digest() != digest:
            _log.debug("%s: damaged: its features are computed again", display_path(path))
            return None
        with contextlib.suppress(OSError):  # a cache that can't be written is of use all the same
            os.utime(path)
        return np.frombuffer(values, _VALUE).astype(np.float32)

    def keep(self, recipe: str, pictures: Sequence[bytes | None], features: _Values) -> None:
        """Keep rows of features, float32 [k, d], of the pictures with these digests; None is one that is unknown."""
        for picture, values in zip(pictures, features, strict=True):
            if picture is None or not self._writable:
                continue
            path = self._path(recipe, picture)
            data = np.ascontiguousarray(values, _VALUE).tobytes()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with temporary_beside(path) as temporary:
                    temporary.write_bytes(hashlib.sha256(data).digest() + data)
                    os.replace(temporary, path)
            except OSError as error:
                self._writable = False
                _log.warning(
                    "%s: features can't be kept there for the next run (%s): make room, or name another folder in %s",
                    display_path(self._folder),
                    error.strerror or error,
                    CACHE_VARIABLE,
                )

    def trim(self) -> None:
        """Hold the limit: remove what was used longest ago."""
        files = sorted(self._files())
        size = sum(file[1] for file in files)
        if size <= self._limit:
            return
        for _, bytes_, path in files:
            with contextlib.suppress(OSError):  # another process was quicker
                os.unlink(path)
            size -= bytes_
            if size <= _SPARED * self._limit:
                return

    def _files(self) -> Iterator[tuple[int, int, str]]:
        """(last use in ns, bytes, path) of every file; those being written are among them."""
        for below, _, names in os.walk(self._folder):
            for name in names:
                path = os.path.join(below, name)
                with contextlib.suppress(OSError):
                    status = os.stat(path)
                    yield status.st_mtime_ns, status.st_size, path

    def _path(self, recipe: str, picture: bytes) -> Path:
        name = picture.hex()
        return self._folder / recipe / name[:2] / name[2:]
