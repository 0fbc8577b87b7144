"""The pictures of a run: each process reads its share of every batch, and all remember what can't be read."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt.errors import DataError
from queryopt.text import display_path
from queryopt.train.config import TrainConfig
from queryopt.train.data import LabelledImages, split_validation
from queryopt.train.distributed import Processes
from queryopt.train.pictures import Batch, PictureSource

__all__ = ["Reading", "RunPictures", "SharedBatch"]

_log = logging.getLogger(__name__)

_READ_BATCH = 64

_Rows = npt.NDArray[np.int64]
_Kept = npt.NDArray[np.bool_]


class SharedBatch(NamedTuple):
    """A batch as one of the processes has it.

    pictures: this one's, uint8 [k, s, s, 3]. kept: which of the whole batch could be read, bool [b]. shares: how many
    of those each process has.
    """

    pictures: npt.NDArray[np.uint8]
    kept: _Kept
    shares: list[int]


class RunPictures:
    """images: what is trained on. validation: what was set aside of it. digest: of the names and labels of `images`.
    skipped: pictures that can't be read, by path, with the reason; DataError at the first one where the run is strict.
    """

    def __init__(self, config: TrainConfig, images: LabelledImages, processes: Processes, strict: bool) -> None:
        self.images, self.validation = split_validation(images, config.validation_fraction, config.seed)
        if config.validation_fraction and len(images.classes) > 1 and not len(self.validation):
            _log.warning("too few pictures to set some aside for validation: the last iteration will be kept")
        self.digest = self.images.digest()
        self.skipped: dict[str, str] = {}
        self._seed, self._processes, self._strict = config.seed, processes, strict
        self._epochs, self._kept_views = config.epochs, config.kept_views
        threads = processes.threads(config.threads)
        self._for_training = PictureSource.for_training(replace(config, threads=threads), self.images)
        self._for_validation = PictureSource(self.validation, config.network.preprocessing, threads=threads)

    def close(self) -> None:
        self._for_training.close()
        self._for_validation.close()

    def views(self, batches: Sequence[_Rows], outer: int, inner: int) -> Iterator[SharedBatch]:
        """Random views for training, of batches of rows of `images`."""
        own = [batch[self._processes.slice(len(batch))] for batch in batches]
        if self._kept_views:
            outer, inner = 0, (outer * self._epochs + inner) % self._kept_views
        views = self._for_training.view_batches(own, self._seed, outer, inner)
        for batch, view in zip(batches, views, strict=True):
            self._remember(view, self._for_training)
            yield SharedBatch(view.pictures, *self._kept_by_all(view.kept, len(batch)))

    def read(self, index: _Rows) -> "Reading":
        """Training pictures as they are, rows of `images`."""
        return Reading(self, self._for_training, index)

    @property
    def threads(self) -> int:
        """That decode."""
        return self._for_training.threads

    def read_validation(self) -> "Reading":
        """All validation pictures as they are."""
        return Reading(self, self._for_validation, np.arange(len(self.validation)))

    def _remember(self, batch: Batch, source: PictureSource) -> None:
        if batch.kept.all():
            return
        self.skipped |= source.failures
        if self._strict:
            path, reason = next(iter(self.skipped.items()))
            raise DataError(f"{display_path(source.images.root / path)}: {reason} (without --strict it is left out)")

    def _kept_by_all(self, kept: _Kept, items: int) -> tuple[_Kept, list[int]]:
        """Of items in a row, of which each process looked at its slice: which could be read, and how many of each's.

        kept: of this process's slice. Pictures that any of them can't read are remembered in all.
        """
        shares = self._processes.shares(items)
        every = self._processes.gather(torch.from_numpy(kept), shares).numpy()
        if not every.all():
            self.skipped = {k: v for skipped in self._processes.gather_values(self.skipped) for k, v in skipped.items()}
        return every, [int(part.sum()) for part in np.split(every, np.cumsum(shares)[:-1])]


class Reading:
    """This process's share of some pictures: batches uint8 [b, s, s, 3]. Once they were read, `gather` what all made of
    theirs.
    """

    def __init__(self, pictures: RunPictures, source: PictureSource, index: _Rows) -> None:
        self._pictures, self._source, self._count = pictures, source, len(index)
        self._own = index[pictures._processes.slice(len(index))]
        self.readable = np.zeros(len(self._own), np.bool_)
        """Of this process's share, so far."""

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        yield from (pictures for _, pictures in self.batches(np.arange(len(self._own)), _READ_BATCH))

    @property
    def files(self) -> list[Path]:
        """Of this process's share."""
        return [self._source.images.path(index) for index in self._own.tolist()]

    def batches(self, places: _Rows, size: int) -> Iterator[tuple[_Rows, npt.NDArray[np.uint8]]]:
        """The pictures at `places` of this process's share, so many at once: those that can be read, and where."""
        parts = [places[start : start + size] for start in range(0, len(places), size)]
        for part, batch in zip(parts, self._source.plain_batches([self._own[part] for part in parts]), strict=True):
            self._pictures._remember(batch, self._source)
            read = part[batch.kept]
            self.readable[read] = True
            yield read, batch.pictures

    def digests(self, places: _Rows) -> list[bytes | None]:
        """Of what was read at `places`: see PictureSource.digest."""
        return [self._source.digest(index) for index in self._own[places].tolist()]

    def gather(self, values: Tensor) -> tuple[Tensor, _Kept]:
        """The rows of all processes, one a picture that could be read, and which of them could, bool [n].

        values: a row for each picture of this process's that could be read, in their order.
        """
        kept, shares = self._pictures._kept_by_all(self.readable, self._count)
        return self._pictures._processes.gather(values, shares), kept
