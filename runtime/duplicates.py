"""Copies of one picture in an index: resized, compressed again, slightly cropped.

The index says which pictures may be copies, by codes and margins; the files say which are. Of each file a *look* is
taken: 12 x 12 mean colours of a frame that lies around what the picture shows, not around its borders, so that a copy
without a strip of its border, or with less of it, has nearly the same. Two pictures are copies where the most different
of these colours differ by little: a mean over all, or a hash of the coarsest frequencies, doesn't see which suit a
playing card has. docs/duplicates.md says what that finds.
"""

import math
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from queryopt.cores import usable_cores
from queryopt.errors import ImageError, InputError
from queryopt.progress import Progress, no_progress
from queryopt.runtime.index import HashIndex, IndexedImage

__all__ = ["Copy", "Duplicates", "Look", "are_copies", "find_duplicates", "look_at"]

_NEAREST = 256
"""Pictures of the nearest codes (the nearest margins among equal ones), of which those with the nearest margins are
candidates …"""
_CANDIDATES = 10
"""… so many of them. Copies of copies are found through each other."""
_MARGINS = 0.8
"""Margins of candidates differ by at most so many times their own size, as root mean squares."""
_CHUNK = 512
"""Pictures that are searched for, or pairs that are compared, at once."""

_SIDE = 128
"""Pixels of the longer side, from which a look is taken."""
_CELLS = 12
_SPREAD = 2.2
"""The frame's half sides, in standard deviations of what it lies around."""
_FAINT = 30
"""What differs from the border's colour by less, over the three channels, is the border's noise."""
_PLAIN = 0.75
"""The share of a border from which it has one colour."""
_COLOUR = 12.0
"""Grey levels by which the most different cell of copies differs, as the mean of its channels."""
_SHAPE, _SHIFT, _STRETCH = 0.13, 0.06, 0.2
"""By how much copies differ in aspect ratio (its logarithm), in where the frame's middle is (as a share of the sides),
and in the frame's size (logarithm): what cutting off 5 % of both sides changes, and a little more."""


@dataclass(frozen=True, eq=False)
class Look:
    """How a picture looks. width, height: of the file. middle, spread: [2] each, of the frame, as shares of the sides.
    cells: uint8 [12, 12, 3].
    """

    width: int
    height: int
    middle: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]
    cells: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Copy:
    """A picture of a group. bits, difference: from the first of its group, see `Duplicates`; 0 for that itself."""

    image: IndexedImage
    width: int
    height: int
    bits: int
    difference: float


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Groups of copies, those with the most pictures first, equal ones by their first pictures' ids.

    groups: two pictures or more each; first that with the most pixels (then bytes, then the smallest id), then the
    others in id order. Pictures are in one group where copies lead from one to the other; `bits` and `difference` are
    from the first: of the codes, and of the most different of the 144 colours of both looks, from 0 to 255.
    pairs: candidates; compared: of these, so far. problems: {path relative to the root: why it was not looked at}.
    stopped: the time was over.
    """

    groups: tuple[tuple[Copy, ...], ...]
    images: int
    pairs: int
    compared: int
    problems: dict[bytes, str]
    stopped: bool = False

    @property
    def complete(self) -> bool:
        """Whether all candidates were compared."""
        return self.compared >= self.pairs and not self.stopped

    @property
    def pictures(self) -> int:
        """Pictures that are in groups."""
        return sum(len(group) for group in self.groups)


def find_duplicates(
    index: HashIndex,
    threads: int | None = None,
    progress: Progress | None = None,
    seconds: float | None = None,
) -> Iterator[Duplicates]:
    """Search an index for copies; yields what was found so far about once a second, the last time the whole of it.

    threads: files that are read at once. seconds: after that many, what was found is yielded as stopped; the likeliest
    pairs are compared first. Nothing is changed. InputError where the folder of the pictures is not there.
    """
    if len(index) and not index.root.is_dir():
        raise InputError(
            f"{index.root}, the folder of the pictures, is not there: if it lies elsewhere now, run qo-index root "
            f"{shlex.quote(str(index.path))} FOLDER"
        )
    shown = started = time.monotonic()
    limit = math.inf if seconds is None else seconds
    pairs, every = _candidates(index, progress or no_progress, started + limit / 2)
    known = _Looks(index)
    with (
        ThreadPoolExecutor(threads or usable_cores()) as pool,
        (progress or no_progress)("look", len({*pairs.ravel().tolist()})) as advance,
    ):
        for at in range(0, len(pairs), _CHUNK):
            before = len(known.looks) + len(known.problems)
            known.compare(pairs[at : at + _CHUNK], pool)
            advance(len(known.looks) + len(known.problems) - before)
            now, done = time.monotonic(), min(at + _CHUNK, len(pairs))
            if now > started + limit and done < len(pairs):
                yield replace(known.found(len(pairs), done), stopped=True)
                return
            if now > shown + 1:
                yield known.found(len(pairs), done)
                shown = time.monotonic()
    yield replace(known.found(len(pairs), len(pairs)), stopped=not every)


def _candidates(index: HashIndex, progress: Progress, until: float) -> tuple[npt.NDArray[np.int64], bool]:
    """Pairs of ids, int64 [n, 2], the smaller first: those whose margins are the most alike first. And whether all
    pictures were searched for before `until`.
    """
    ids, codes = index.codes()
    parts = list(index.margins())
    known = np.concatenate([part for part, _ in parts]) if parts else np.empty(0, np.int64)
    margins = np.concatenate([part for _, part in parts]) if parts else np.empty((0, index.bits), np.int8)
    # Read one after the other: another process may have changed the index in between.
    ids, of_codes, of_margins = np.intersect1d(ids, known, assume_unique=True, return_indices=True)
    codes, margins = codes[of_codes], margins[of_margins]
    lengths = np.linalg.norm(margins.astype(np.float32), axis=1)
    found: list[npt.NDArray[np.float64]] = []
    with progress("compare codes", len(ids)) as advance:
        for at in range(0, len(ids), _CHUNK):
            part = slice(at, min(at + _CHUNK, len(ids)))
            near = index.search(codes[part], min(_NEAREST, len(ids)), margins=margins[part]).ids
            rows = np.searchsorted(ids, near).clip(max=len(ids) - 1)  # [queries, nearest]
            differ = margins[part, None].astype(np.float32) - margins[rows]
            apart = np.sqrt(np.einsum("qnb,qnb->qn", differ, differ) / (lengths[part, None] * lengths[rows]))
            apart[(ids[rows] != near) | (near == ids[part, None])] = np.inf
            best = np.argsort(apart, axis=1, kind="stable")[:, :_CANDIDATES]
            apart = np.take_along_axis(apart, best, 1)
            queries, kept = np.nonzero(apart <= _MARGINS)
            pair = np.sort(
                np.stack([ids[part][queries], np.take_along_axis(near, best, 1)[queries, kept]], axis=1), axis=1
            )
            found.append(np.column_stack([apart[queries, kept], pair]))
            advance(part.stop - at)
            if time.monotonic() > until:
                break
    every = np.concatenate(found) if found else np.empty((0, 3))
    every = np.unique(every, axis=0)  # by how far margins are apart, then by ids
    return every[:, 1:].astype(np.int64), not len(ids) or part.stop == len(ids)


class _Looks:
    """What is known of the pictures that were looked at, and which of them are copies."""

    def __init__(self, index: HashIndex) -> None:
        self._index = index
        self._images: dict[int, IndexedImage] = {}
        self.looks: dict[int, Look] = {}
        self.problems: dict[int, tuple[bytes, str]] = {}
        self._leads: dict[int, int] = {}

    def compare(self, pairs: npt.NDArray[np.int64], pool: ThreadPoolExecutor) -> None:
        """Look at the pictures of these pairs, and note which are copies."""
        new = [id for id in dict.fromkeys(pairs.ravel().tolist()) if id not in self.looks and id not in self.problems]
        rows = {id: self._index[id] for id in new if id in self._index}
        for id, look in zip(rows, pool.map(_look_or_reason, rows.values()), strict=True):
            if isinstance(look, Look):
                self.looks[id] = look
            else:
                self.problems[id] = rows[id].relative, look
        for one, other in pairs.tolist():
            if not (one in self.looks and other in self.looks and are_copies(self.looks[one], self.looks[other])):
                continue
            if self._keep(one) and self._keep(other):
                first, second = sorted((self._lead(one), self._lead(other)))
                self._leads[second] = first

    def _keep(self, id: int) -> bool:
        """Keep the row of a copy, which is a small part of what is looked at. False where it was removed meanwhile."""
        if id not in self._images and id in self._index:
            self._images[id] = self._index[id]
        return id in self._images

    def _lead(self, id: int) -> int:
        """The smallest id of the group that a picture is in."""
        while (above := self._leads.get(id, id)) != id:
            self._leads[id] = id = self._leads.get(above, above)
        return id

    def found(self, pairs: int, compared: int) -> Duplicates:
        groups: dict[int, list[int]] = {}
        for id in sorted({*self._leads, *self._leads.values()}):
            groups.setdefault(self._lead(id), []).append(id)
        made = sorted(
            (self._group(group) for group in groups.values()), key=lambda group: (-len(group), group[0].image.id)
        )
        return Duplicates(tuple(made), len(self._index), pairs, compared, dict(self.problems.values()))

    def _group(self, ids: Sequence[int]) -> tuple[Copy, ...]:
        def worth(id: int) -> tuple[int, int, int]:
            return self.looks[id].width * self.looks[id].height, self._images[id].size, -id

        best = max(ids, key=worth)
        code, look = self._images[best].code, self.looks[best]
        return tuple(
            Copy(
                self._images[id],
                self.looks[id].width,
                self.looks[id].height,
                int(np.bitwise_count(code ^ self._images[id].code).sum()),
                _difference(look, self.looks[id]),
            )
            for id in (best, *(id for id in ids if id != best))
        )


def _look_or_reason(image: IndexedImage) -> Look | str:
    try:
        now = os.stat(image.path)
        if (now.st_size, now.st_mtime_ns) != (image.size, image.mtime_ns):
            return "changed since it was hashed: qo-infer brings the index up to date"
        return look_at(os.fsencode(image.path))
    except FileNotFoundError:
        return "not there any more"
    except (OSError, ImageError) as error:
        return str(error)


def look_at(path: bytes) -> Look:
    """A picture file's look. ImageError where it can't be read."""
    from PIL import Image

    from queryopt.images import open_rgb, picture_size

    size = picture_size(path)
    image = open_rgb(path, at_least=2 * _SIDE)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    middle, spread, background = _shown(np.asarray(image, np.float32))
    # What of the frame lies outside of the picture has the border's colour.
    low, high = middle - _SPREAD * spread, middle + _SPREAD * spread
    room = int(max(0.0, -low.min(), *(high - image.size))) + 2
    large = Image.new("RGB", (image.width + 2 * room, image.height + 2 * room), background)
    large.paste(image, (room, room))
    # First 4 x 4 to a cell, with a filter that takes parts of pixels: a mean of whole ones jumps where the frame moves.
    fine = large.resize((4 * _CELLS, 4 * _CELLS), Image.Resampling.BILINEAR, box=(*(low + room), *(high + room)))
    return Look(*size, middle / image.size, spread / image.size, np.asarray(fine.reduce(4)))


def _shown(
    pixels: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], tuple[int, int, int]]:
    """Where in [height, width, 3] lies what differs from the border's colour: its middle and standard deviation,
    [x, y] in pixels each; and that colour. Of a picture of one colour: the middle, and all of it.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background = np.median(border, axis=0)
    if np.mean(np.abs(border - background).sum(axis=1) < 2 * _FAINT) < _PLAIN:
        # Of a border of several colours, the next copy's median may be another one.
        background = np.full(3, 255, np.float32)
    weight = np.maximum(np.abs(pixels - background).sum(axis=2) - _FAINT, 0)
    colour = tuple(int(value) for value in background)
    height, width = weight.shape
    if not weight.any():
        half = np.array([width, height]) / 2
        return half, half / _SPREAD, colour  # type: ignore[return-value]
    middle, spread = np.empty(2), np.empty(2)
    for axis, shares in enumerate((weight.sum(axis=0), weight.sum(axis=1))):
        shares = shares / shares.sum()
        at = np.arange(len(shares)) + 0.5
        middle[axis] = shares @ at
        spread[axis] = max(0.5, float(np.sqrt(shares @ (at - middle[axis]) ** 2)))
    return middle, spread, colour  # type: ignore[return-value]


def are_copies(one: Look, other: Look) -> bool:
    """Whether two looks are those of copies of one picture."""
    shape = abs(np.log(one.width * other.height / (one.height * other.width)))
    shift = np.abs(one.middle - other.middle).max()
    stretch = np.abs(np.log(one.spread / other.spread)).max()
    return bool(shape < _SHAPE and shift < _SHIFT and stretch < _STRETCH) and _difference(one, other) <= _COLOUR


def _difference(one: Look, other: Look) -> float:
    return float(np.abs(one.cells.astype(np.int16) - other.cells).mean(axis=2).max())
