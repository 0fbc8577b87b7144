"""Looks at a whole index: what each bit splits it into, and which pictures have equal codes, or nearly.

They take seconds: `Background` makes them in a thread of their own, shows them as far as they have come, and makes them
anew when the index has changed.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes
from queryopt.runtime.index import HashIndex
from queryopt.runtime.search import HammingIndex

__all__ = [
    "MAX_RADIUS",
    "MOST",
    "Background",
    "BitSurvey",
    "CodeGroups",
    "Surest",
    "group_codes",
    "survey",
]

MOST = 240
"""Pictures of each side of a bit that are kept."""
_ID_BITS = 44
_LAST_ID = (1 << _ID_BITS) - 1

MAX_RADIUS = 3
"""Beyond it, groups say little, and finding them takes long."""
_CHUNK = 512
"""Codes that are searched for at once: with 24 bits and radius 3 they have a few million neighbours."""

_REST = 10
"""After a run, the next one waits so many times as long as that took, and so does another look at what a run has found:
at most a tenth of a core is spent.
"""

_log = logging.getLogger("queryopt")

T = TypeVar("T")


class Background(Generic[T]):
    """The latest result of some work on an index that may change.

    work: called in a thread; yields the result so far, again and again, the last time the whole of it. It is stopped
    (its generator closed) when the server stops. name: for the log.
    """

    def __init__(self, work: Callable[[], Iterator[T]], name: str) -> None:
        self._work = work
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._result: T | None = None
        self._revision: Hashable = None
        self._rest_until = 0.0

    def get(self, revision: Hashable) -> T | None:
        """The latest result, None before there is any. Starts the work where it was done for another revision."""
        with self._lock:
            idle = self._thread is None or not self._thread.is_alive()
            if idle and revision != self._revision and time.monotonic() >= self._rest_until and not self._stop.is_set():
                first = self._result is None
                self._revision = revision
                self._thread = threading.Thread(
                    target=self._run, args=(first,), name=f"queryopt-{self._name}", daemon=True
                )
                self._thread.start()
            return self._result

    def wait(self) -> None:
        """Until what was started is done."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        self._stop.set()
        self.wait()

    def _run(self, show_parts: bool) -> None:
        started = time.monotonic()
        result: T | None = None
        parts = self._work()
        try:
            for result in parts:
                if self._stop.is_set():
                    return
                if show_parts:
                    self._result = result
            self._result = result
        except Exception as error:
            # The index may be damaged, or gone; whoever asks next starts it again.
            _log.warning("%s: %s", self._name, error)
            self._revision = None
        finally:
            parts.close()  # type: ignore[attr-defined]
            self._rest_until = time.monotonic() + _REST * (time.monotonic() - started)


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


def _surest(keys: npt.NDArray[np.int64]) -> Surest:
    return Surest(_LAST_ID - (keys & _LAST_ID), (keys >> _ID_BITS).astype(np.int16))


@dataclass(frozen=True, eq=False)
class CodeGroups:
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


def group_codes(path: Path, radius: int, seconds: float = 60) -> Iterator[CodeGroups]:
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
    result = CodeGroups(radius, (), len(ids), 0, len(unique))
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
            neighbours = near.search_radius(codes[leads], radius)
            for i in np.flatnonzero(np.diff(neighbours.offsets) > 1):
                if taken[leads[i]]:
                    continue
                some = neighbours.ids[neighbours.offsets[i] : neighbours.offsets[i + 1]]
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
