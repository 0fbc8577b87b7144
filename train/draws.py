"""Every random draw of training: made from (seed, outer, inner, sample), never from a generator's state.

So a run that goes on from last.pt, another number of threads or another order of decoding draws the same.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError

__all__ = ["DEFAULT_SEED", "Stream", "epoch_batches", "epoch_order", "iteration_samples", "sample_rng"]

DEFAULT_SEED = 42
"""Where none is given: a run's, and so that of whoever reads its data again."""


class Stream(IntEnum):
    """What is drawn: two purposes never share a draw. A seed means something by these numbers, so none ever changes.

    The test part of a folder without one has a stream a class, a hash of the class's name: see data.py.
    """

    VIEWS = 0
    """Crop and mirror of a training picture."""
    SAMPLES = 2
    """The pictures of an outer iteration."""
    ORDER = 3
    """Their order in an inner epoch."""
    CODES = 4
    """The noise that the gallery's codes start as."""
    GALLERY = 5
    """The training pictures that validation searches, where there are very many."""
    KEPT_VIEWS = 6
    """Which of the kept views of a picture a pass takes."""
    VALIDATION = 16
    """The pictures set aside to choose the checkpoint."""
    BIRD_CLASSES = 17
    BIRD_PICTURES = 18
    OPEN_SET = 19
    """Which classes are held out; a class has a draw of its own, from a hash of its name."""


def sample_rng(seed: int, outer: int, inner: int, sample: int, stream: int = Stream.VIEWS) -> np.random.Generator:
    """A fresh generator for one sample of one epoch; what has no epoch or no sample puts 0 there.

    Philox is counter-based: its key is (seed, stream) and its counter starts at (0, outer, inner, sample), so two
    different tuples never share a draw (each has 2**64 blocks of its own). All five are 0..2**64 - 1, else UsageError.
    """
    words = (seed, stream, outer, inner, sample)
    if not all(0 <= word < 2**64 for word in words):
        raise UsageError(
            f"seed {seed}, outer {outer}, inner {inner}, sample {sample}, stream {stream}: each must be 0 to 2**64 - 1"
        )
    key = np.array([seed, stream], np.uint64)
    counter = np.array([0, outer, inner, sample], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def iteration_samples(seed: int, outer: int, images: int, samples: int) -> npt.NDArray[np.int64]:
    """The pictures of an outer iteration: int64 [samples] of 0..images - 1, without replacement."""
    return sample_rng(seed, outer, 0, 0, Stream.SAMPLES).choice(images, samples, replace=False)


def epoch_order(seed: int, outer: int, inner: int, samples: int) -> npt.NDArray[np.int64]:
    """In which order an inner epoch takes the iteration's pictures: 0..samples - 1, permuted, int64 [samples]."""
    return sample_rng(seed, outer, inner, 0, Stream.ORDER).permutation(samples)


def epoch_batches(samples: int, batch: int) -> list[range]:
    """An epoch's batches, as positions in its order.

    A last one of a single picture, a poor sample for BatchNorm, joins the one before.
    """
    starts = list(range(0, samples, batch))
    if len(starts) > 1 and samples - starts[-1] == 1:
        starts.pop()
    return [range(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]
