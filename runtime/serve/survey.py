"""What each bit splits the index into: how many pictures have it, and which are most sure of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from queryopt.runtime.index import HashIndex

__all__ = ["MOST", "BitSurvey", "Surest", "survey"]

MOST = 240
"""Pictures of each side of a bit that are kept."""


@dataclass(frozen=True, eq=False)
class Surest:
    """Pictures with the largest margins of one side of a bit, the surest first, equal ones in id order.

    ids: int64 [n]. margins: int16 [n], from 1 to 127.
    """

    ids: npt.NDArray[np.int64]
    margins: npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class BitSurvey:
    """Of `images` pictures (of `total`, while it is being made): how many have each bit, and the surest of its sides.

    ones: int64 [bits].
    """

    images: int
    total: int
    ones: npt.NDArray[np.int64]
    highest: tuple[Surest, ...]
    lowest: tuple[Surest, ...]

    @property
    def complete(self) -> bool:
        """Whether all pictures were looked at."""
        return self.images >= self.total


def survey(path: Path, most: int = MOST) -> Iterator[BitSurvey]:
    """Look at the margins of all pictures of an index; yields what is known so far, the last time all of it.

    Opens the index by itself, so that nobody waits for it: a second for a million pictures, and some megabytes.
    """
    with HashIndex.open(path, readonly=True) as index:
        total, bits, images = len(index), index.bits, 0
        ones = np.zeros(bits, np.int64)
        # Each is margin << 44 | (2^44 - 1 - id): the surest of equal ones is that of the smallest id.
        best = [[np.empty(0, np.int64)] * bits for _ in range(2)]
        for ids, margins in index.margins():
            images += len(ids)
            ones += (margins > 0).sum(axis=0)
            for side, sign in enumerate((1, -1)):
                wide = margins.astype(np.int64) * sign
                # Only pictures that enter a list are looked at: into a full one, not those that equal its last.
                limits = np.array([one[-1] >> _ID_BITS if len(one) == most else 0 for one in best[side]], np.int64)
                enters = wide > limits
                for bit in np.flatnonzero(enters.any(axis=0)):
                    rows = np.flatnonzero(enters[:, bit])
                    keys = wide[rows, bit] << _ID_BITS | (_LAST_ID - ids[rows])
                    best[side][bit] = np.sort(np.concatenate([best[side][bit], keys]))[::-1][:most]
            yield BitSurvey(images, max(total, images), ones.copy(), *(tuple(map(_surest, of)) for of in best))
        yield BitSurvey(images, images, ones, *(tuple(map(_surest, of)) for of in best))


_ID_BITS = 44
_LAST_ID = (1 << _ID_BITS) - 1


def _surest(keys: npt.NDArray[np.int64]) -> Surest:
    return Surest(_LAST_ID - (keys & _LAST_ID), (keys >> _ID_BITS).astype(np.int16))
