"""The pictures of a data set as the network wants them: decoded ahead of it, in threads, and kept where memory allows.

Pillow's decoders and its resize release Python's lock, so threads decode in parallel, and what they decoded needs no
copy to another process. A result depends on (seed, outer, inner, picture) alone: never on which thread was first, on
the number of threads, or on what is in memory.
"""

import hashlib
import io
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.card import Preprocessing
from queryopt.cores import usable_cores
from queryopt.errors import DataError, ImageError
from queryopt.images import open_rgb, read_bytes, resize_crop
from queryopt.text import display_path
from queryopt.train.augment import Augmentation, train_view
from queryopt.train.data import LabelledImages
from queryopt.train.draws import sample_rng

if TYPE_CHECKING:
    from PIL.Image import Image

    from queryopt.train.config import TrainConfig

__all__ = ["CACHE_BYTES", "Batch", "PictureSource"]

CACHE_BYTES = 1 << 30
"""Memory that decoded pictures may take, of each source: 1 GiB."""

_MAX_THREADS = 16
_CHUNK = 8
"""Pictures a task: enough that handing it over costs nothing, few enough that a batch is spread over the threads."""
_CHUNKS_AHEAD = 3
"""Tasks a thread that are under way before they are asked for."""
_FINER = 1.25
"""Of a square that views are cut from: its side, relative to theirs."""
_BYTES_A_PIXEL = 4
"""Of an RGB image in Pillow's memory."""
_NAMED = 3

_Indices: TypeAlias = npt.NDArray[np.int64]
_Draw: TypeAlias = tuple[int, int, int]


class Batch(NamedTuple):
    """Pictures, and which of those that were asked for they are.

    pictures: uint8 sRGB [k, s, s, 3], k <= b, in the order asked for. kept: bool [b], False where a picture can't be
    read and has no row; k = kept.sum(), which may be 0.
    """

    pictures: npt.NDArray[np.uint8]
    kept: npt.NDArray[np.bool_]


class PictureSource:
    """Pictures by their position in a data set: augmented for training, or cropped as the deployed model sees them.

    Decoded pictures stay in memory, whole, as long as they fit into `cache_bytes`; the others are decoded again each
    time. So a small set is decoded once, and a large one costs no more memory than that.

    A picture that can't be read is left out wherever it is asked for (Batch.kept says so) and named in `failures`; it
    is not tried again, so a run sees the same pictures from beginning to end. DataError where none is left.

    images: the data set. preprocessing: size and test crop. augmentation: of the training views. threads: that decode
    (None: as many as this process has cores, at most 16). Usable from one thread at a time.
    """

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        augmentation: Augmentation | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        threads: int | None = None,
    ) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.augmentation = augmentation or Augmentation()
        self.threads = threads or min(_MAX_THREADS, usable_cores())
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._cache: dict[int, Image] = {}
        self._cache_bytes = self._free = cache_bytes
        self._failures: dict[int, str] = {}
        self._digests: dict[int, bytes] = {}

    @classmethod
    def for_training(cls, config: "TrainConfig", images: LabelledImages) -> "PictureSource":
        """The source of a run's training views, as its configuration has them."""
        preprocessing = config.network.preprocessing
        augmentation = Augmentation(scale=config.crop_scale, flip=config.flip)
        return cls(images, preprocessing, augmentation, threads=config.threads)

    @property
    def failures(self) -> dict[str, str]:
        """Pictures that couldn't be read so far: path (relative to the data set) -> reason, in the data set's order."""
        with self._lock:
            return {self.images.paths[index]: reason for index, reason in sorted(self._failures.items())}

    @property
    def share_kept(self) -> float:
        """Which share of all pictures memory has room for, if they are as large as those that it holds now."""
        with self._lock:
            held = sum(map(_bytes, self._cache.values()))
            return min(1.0, self._cache_bytes * len(self._cache) / (held * len(self.images))) if held else 0.0

    def digest(self, index: int) -> bytes | None:
        """SHA-256 of the bytes that the picture at `index` was decoded from, whatever its file holds by now; None where
        that was for a view.
        """
        return self._digests.get(index)

    def views(self, indices: _Indices, seed: int, outer: int, inner: int) -> Batch:
        """One random view each of the pictures at `indices`, int64 [b]: as `train_view` draws it for this epoch."""
        return next(self.view_batches([indices], seed, outer, inner))

    def plain(self, indices: _Indices) -> Batch:
        """The test crop of the pictures at `indices`, int64 [b]."""
        return next(self.plain_batches([indices]))

    def view_batches(self, batches: Iterable[_Indices], seed: int, outer: int, inner: int) -> Iterator[Batch]:
        """`views` of one batch after another; the next ones are made while the caller works on this one."""
        return self._ahead(batches, (seed, outer, inner))

    def plain_batches(self, batches: Iterable[_Indices]) -> Iterator[Batch]:
        """`plain` of one batch after another; the next ones are made while the caller works on this one."""
        return self._ahead(batches, None)

    def close(self) -> None:
        """End the threads and forget the decoded pictures. The source can still be used: they come back."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        with self._lock:
            for image in self._cache.values():
                self._free += _bytes(image)
            self._cache.clear()

    def _ahead(self, batches: Iterable[_Indices], draw: _Draw | None) -> Iterator[Batch]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="queryopt-pictures")
        pending: deque[_Pending] = deque()
        chunks = 0
        upcoming = iter(batches)
        try:
            while True:
                # One batch is waited for; beyond it there is work for all threads.
                while not pending or chunks - len(pending[0].parts) < self.threads * _CHUNKS_AHEAD:
                    if (indices := next(upcoming, None)) is None:
                        break
                    pending.append(self._submit(self._pool, np.asarray(indices, np.int64), draw))
                    chunks += len(pending[-1].parts)
                if not pending:
                    return
                first = pending.popleft()
                chunks -= len(first.parts)
                yield self._finish(first)
        finally:
            for job in pending:
                for part in job.parts:
                    part.cancel()

    def _submit(self, pool: ThreadPoolExecutor, indices: _Indices, draw: _Draw | None) -> "_Pending":
        size = self.preprocessing.image_size
        pictures = np.empty((len(indices), size, size, 3), np.uint8)  # [b x s x s x 3]
        kept = np.zeros(len(indices), bool)
        spans = [slice(start, start + _CHUNK) for start in range(0, len(indices), _CHUNK)]
        parts = [pool.submit(self._make, indices[s], draw, pictures[s], kept[s]) for s in spans]
        return _Pending(pictures, kept, parts)

    def _finish(self, job: "_Pending") -> Batch:
        for part in job.parts:
            part.result()
        if job.kept.all():
            return Batch(job.pictures, job.kept)
        if len(self._failures) == len(self.images):
            raise self._none_left()
        return Batch(job.pictures[job.kept], job.kept)

    def _make(
        self, indices: _Indices, draw: _Draw | None, pictures: npt.NDArray[np.uint8], kept: npt.NDArray[np.bool_]
    ) -> None:
        """Fill `pictures` [c, s, s, 3] and `kept` [c] for `indices` [c]; runs in a thread."""
        for row, index in enumerate(indices.tolist()):
            image = self._image(index, digest=draw is None)
            if image is None:
                continue
            if draw is None:
                pictures[row] = resize_crop(image, self.preprocessing)
            else:
                pictures[row] = self._view(image, sample_rng(*draw, index))
            kept[row] = True

    def _view(self, image: "Image", rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """A random view: of the picture, or, where it is padded, of the square with all of it."""
        size = self.preprocessing.image_size
        if self.preprocessing.resize == "pad":
            from PIL.Image import fromarray

            square = resize_crop(image, replace(self.preprocessing, image_size=round(size * _FINER)))
            image = fromarray(square)
        return train_view(image, size, rng, self.augmentation)

    def _image(self, index: int, digest: bool) -> "Image | None":
        """The decoded picture; None where it can't be read. digest: whether to remember that of its bytes."""
        image = self._cache.get(index)
        if image is not None or index in self._failures:
            return image
        try:
            data = read_bytes(self.images.path(index))
            image = open_rgb(io.BytesIO(data))
        except ImageError as error:
            with self._lock:
                self._failures[index] = str(error)
            return None
        digests = {index: hashlib.sha256(data).digest()} if digest else {}
        with self._lock:
            self._digests |= digests
            if index not in self._cache and _bytes(image) <= self._free:
                self._cache[index] = image
                self._free -= _bytes(image)
        return image

    def _none_left(self) -> DataError:
        failures = list(self.failures.items())
        named = "; ".join(f"{display_path(path)}: {reason}" for path, reason in failures[:_NAMED])
        more = f"; and {len(failures) - _NAMED} more" if len(failures) > _NAMED else ""
        return DataError(f"{display_path(self.images.root)}: none of its pictures can be read ({named}{more})")


class _Pending(NamedTuple):
    """A batch that is being made."""

    pictures: npt.NDArray[np.uint8]
    kept: npt.NDArray[np.bool_]
    parts: list[Future[None]]


def _bytes(image: "Image") -> int:
    return image.width * image.height * _BYTES_A_PIXEL
