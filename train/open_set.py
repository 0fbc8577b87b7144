"""Classes that a run never sees: what retrieval meets in use, where the catalogue grows after training."""

import hashlib
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError
from queryopt.text import display_path
from queryopt.train.data import DataSplits
from queryopt.train.draws import Stream, sample_rng

__all__ = ["OpenSet", "check_open_set", "hold_out_classes"]


@dataclass(frozen=True)
class OpenSet:
    """A data set, divided by class.

    seen: the classes that are trained and tested on, numbered anew: those of a data set without the others. unseen: the
    others, likewise: their test pictures are the queries, and those of their training part the gallery; None where no
    class is held out.
    """

    seen: DataSplits
    unseen: DataSplits | None


def check_open_set(value: float) -> None:
    """UsageError for what is neither 0, nor a number of classes (2, 3, …), nor a share of them (0 < share < 1)."""
    real = not isinstance(value, bool) and isinstance(value, int | float)
    if not real or not (0 <= value < 1 or (value >= 2 and float(value).is_integer())):
        raise UsageError(
            f"open_set is {value!r}: how many classes to hold out, at least 2, or which share of them, below 1"
        )


def hold_out_classes(splits: DataSplits, open_set: float, seed: int) -> OpenSet:
    """Set classes aside that are never trained on.

    open_set: how many, or, below 1, which share of them (rounded); 0 for none, which leaves the data as it is. Which
    ones depends on `seed` and the classes' names: a class that is added moves at most one of the others.
    UsageError where fewer than two would be left on either side.
    """
    check_open_set(open_set)
    if not open_set:
        return OpenSet(splits, None)
    classes = splits.train.classes
    count = round(open_set * len(classes)) if open_set < 1 else int(open_set)
    if not 2 <= count <= len(classes) - 2:
        raise UsageError(
            f"{display_path(splits.train.root)}: --open-set {open_set:g} would hold out {count} of {len(classes)} "
            "classes: there have to be at least 2 of them, and 2 to train on"
        )
    draws = [_draw(seed, name) for name in classes]
    unseen = np.zeros(len(classes), np.bool_)
    unseen[np.argsort(draws, kind="stable")[:count]] = True
    return OpenSet(_of_classes(splits, ~unseen), _of_classes(splits, unseen))


def _draw(seed: int, name: str) -> float:
    word = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "little")
    return float(sample_rng(seed, word, 0, 0, Stream.OPEN_SET).random())


def _of_classes(splits: DataSplits, kept: npt.NDArray[np.bool_]) -> DataSplits:
    """The pictures of the classes where `kept`, bool [classes], is true."""
    return DataSplits(splits.train.of_classes(kept), splits.test.of_classes(kept), splits.lone, splits.survey)
