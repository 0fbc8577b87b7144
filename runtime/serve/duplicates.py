"""Groups of pictures whose codes are equal, or nearly."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes
from queryopt.runtime.index import HashIndex
from queryopt.runtime.search import HammingIndex

__all__ = ["MAX_RADIUS", "Duplicates", "find_duplicates"]

MAX_RADIUS = 3
"""Beyond it, groups are no duplicates, and finding them takes long."""

_CHUNK = 512
"""Codes that are searched for at once: with 24 bits and radius 3 they have a few million neighbours."""


_REST = 10
"""Between two looks at what was found, so many times as long as one takes."""


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Groups of two pictures or more, the largest first, equal ones in the order of their first pictures.

    A group is a picture and those that differ from it in at most `radius` bits and are in no group of a picture before
    it: each picture is in one group at most. groups: int64 [size] each, ids in order, that of the first picture first.
    looked_at, codes: how many of the different codes have been compared with all, so far; stopped: the time was over.
    """

    radius: int
    groups: tuple[npt.NDArray[np.int64], ...]
    images: int
    looked_at: int
    codes: int
    stopped: bool = False

    @property
    def complete(self) -> bool:
        """Whether all codes were compared."""
        return self.looked_at >= self.codes

    @property
    def pictures(self) -> int:
        """Pictures that are in groups."""
        return sum(len(group) for group in self.groups)


def find_duplicates(path: Path, radius: int, seconds: float = 60) -> Iterator[Duplicates]:
    """Compare all codes of an index; yields what was found so far now and then, the last time the whole of it.

    radius: 0..MAX_RADIUS bits. seconds: after that many, what was found is yielded as stopped.
    """
    with HashIndex.open(path, readonly=True) as index:
        ids, codes = index.codes()
        bits = index.bits
    words = np.zeros((len(codes), 8), np.uint8)
    words[:, : code_bytes(bits)] = codes
    unique, first, inverse = np.unique(words.view("<u8").ravel(), return_index=True, return_inverse=True)
    # Codes are numbered by their first pictures, which lead the groups.
    order = np.argsort(first)
    number = np.empty(len(unique), np.int64)
    number[order] = np.arange(len(unique))
    code_of = number[inverse]  # [pictures]
    leader = np.arange(len(unique))
    result = Duplicates(radius, (), len(ids), 0, len(unique))
    if radius == 0 or len(unique) < 2:
        yield replace(result, groups=_groups(ids, code_of, leader), looked_at=len(unique))
        return
    codes = codes[first[order]]
    near = HammingIndex(codes, bits)
    taken = np.zeros(len(codes), np.bool_)
    started = time.monotonic()
    show_next = started + 1
    for at in range(0, len(codes), _CHUNK):
        leads = np.flatnonzero(~taken[at : at + _CHUNK]) + at
        if len(leads):
            found = near.search_radius(codes[leads], radius)
            for i in np.flatnonzero(np.diff(found.offsets) > 1):
                if taken[leads[i]]:
                    continue
                some = found.ids[found.offsets[i] : found.offsets[i + 1]]
                some = some[~taken[some] & (some >= leads[i])]
                leader[some] = leads[i]
                taken[some] = True
            taken[leads] = True
        now, done = time.monotonic(), min(at + _CHUNK, len(codes))
        if now - started > seconds and done < len(codes):
            yield replace(result, groups=_groups(ids, code_of, leader), looked_at=done, stopped=True)
            return
        if now >= show_next:
            yield replace(result, groups=_groups(ids, code_of, leader), looked_at=done)
            # Putting groups together takes a second for millions: it is to be a small part of all.
            show_next = time.monotonic() + max(1, _REST * (time.monotonic() - now))
    yield replace(result, groups=_groups(ids, code_of, leader), looked_at=len(codes))


def _groups(
    ids: npt.NDArray[np.int64], code_of: npt.NDArray[np.int64], leader: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], ...]:
    """The pictures that follow one leader, where there are two or more of them."""
    follows = leader[code_of]  # [pictures]
    counts = np.bincount(follows, minlength=len(leader)) if len(follows) else np.empty(0, np.int64)
    kept = np.flatnonzero(counts > 1)
    members = np.flatnonzero((counts > 1)[follows]) if len(follows) else np.empty(0, np.int64)
    # Within a group the leader's own code comes first: it has the first picture.
    members = members[np.lexsort((ids[members], follows[members]))]
    parts = np.split(ids[members], np.cumsum(counts[kept])[:-1]) if len(kept) else []
    return tuple(parts[i] for i in np.argsort(-counts[kept], kind="stable"))
