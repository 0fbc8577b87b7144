"""Class codes read off the trunk's own features: classes that look alike get codes that are near each other.

Not the paper's. Features are whitened within classes, so that what varies inside a class counts little; the directions
between the classes' means are rotated (ITQ: Gong and Lazebnik, CVPR 2011) until they fall near the corners of a cube,
and each is cut at its median over the classes. Then the least sure bits are flipped until no two classes are too near.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt.codes import check_bits
from queryopt.errors import UsageError

__all__ = ["ImageFeatures", "least_distance", "pool_features", "visual_codes"]

Codes = npt.NDArray[np.int8]
_Floats = npt.NDArray[np.float64]

_MOST_FEATURES = 512
"""Wider features are mixed down to so many by a random projection: the whitening takes the cube of them."""
_SHRINKAGE = 0.5
"""Share of the within-class covariance that is replaced by its mean variance in every direction."""
_POWER = 1.0
"""Of the singular values: how much more than others a direction counts in which the classes differ much."""
_STARTS = 8
_ROTATIONS = 60
_EXHAUSTIVE_BITS = 14
"""Up to this length every code can be looked at."""


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What a trunk makes of pictures. values: float32 [k, features]. rows: the pictures' positions, int64 [k]; those
    that can't be read are not among them. found: how many of them were kept from an earlier run.
    """

    values: npt.NDArray[np.float32]
    rows: npt.NDArray[np.int64]
    found: int = 0


def pool_features(maps: Tensor) -> Tensor:
    """Of a trunk's maps [b, c, h, w] their mean, maximum, and means of the upper and the lower half: [b, 4 c]."""
    half = (maps.shape[2] + 1) // 2
    return torch.cat(
        [
            maps.mean(dim=(2, 3)),
            maps.amax(dim=(2, 3)),
            maps[:, :, :half].mean(dim=(2, 3)),
            maps[:, :, -half:].mean(dim=(2, 3)),
        ],
        dim=1,
    )  # [b, 4 c]


def least_distance(classes: int, bits: int) -> int:
    """The Hamming distance that `visual_codes` keeps any two classes at: 2; 1 or 0 where there are too few codes."""
    if classes <= 1 << (bits - 1):
        return 2
    return 1 if classes <= 1 << bits else 0


def visual_codes(
    features: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], classes: int, bits: int, seed: int
) -> Codes:
    """A code for each class, from its pictures' features.

    features: finite [k, features]. labels: int64 [k], of 0..classes - 1; a class without pictures gets some free
    code. Returns int8 ±1 [classes, bits]; every bit is +1 for half of the classes, before flips. There are at most
    classes - 1 directions between classes: bits beyond them cut the same directions in other ways. UsageError for
    features that are not finite or not one row a label.
    """
    check_bits(bits)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not np.isfinite(features).all():
        raise UsageError(f"visual codes: features {list(features.shape)} of {list(labels.shape)} labels: not finite")
    rng = np.random.default_rng([seed, classes, bits])
    counts = np.bincount(labels, minlength=classes)
    there = np.flatnonzero(counts)
    margins = np.zeros((classes, bits))
    if len(there) > 1:
        margins[there] = _cuts(_between(features, labels, there, rng), bits, rng)
    return _keep_apart(margins, least_distance(classes, bits))


def _between(
    features: npt.NDArray[np.floating],
    labels: npt.NDArray[np.int64],
    there: npt.NDArray[np.int64],
    rng: np.random.Generator,
) -> _Floats:
    """The classes' means in the directions that they differ in: [classes there, directions], the strongest first."""
    values = features.astype(np.float64)
    values -= values.mean(axis=0)
    values /= np.maximum(values.std(axis=0), 1e-6)
    if values.shape[1] > _MOST_FEATURES:
        values = values @ rng.standard_normal((values.shape[1], _MOST_FEATURES)) / np.sqrt(_MOST_FEATURES)
    row_of = np.zeros(labels.max() + 1, np.int64)
    row_of[there] = np.arange(len(there))
    rows = row_of[labels]
    means = np.zeros((len(there), values.shape[1]))
    np.add.at(means, rows, values)
    means /= np.bincount(rows)[:, None]
    inside = values - means[rows]
    covariance = inside.T @ inside / max(len(values) - len(there), 1)
    level = np.trace(covariance) / len(covariance)
    if level <= 1e-12:  # a picture a class, or all alike: nothing to whiten with
        covariance, level = np.eye(len(covariance)), 1.0
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * level * np.eye(len(covariance))
    variances, axes = np.linalg.eigh(covariance)
    whitened = (means - means.mean(axis=0)) @ axes / np.sqrt(variances)  # [classes there, features]
    left, singular, _ = np.linalg.svd(whitened, full_matrices=False)
    kept = singular > 1e-6 * max(singular[0], 1e-12)
    directions: _Floats = left[:, kept] * singular[kept] ** _POWER
    return directions


def _cuts(means: _Floats, bits: int, rng: np.random.Generator) -> _Floats:
    """Signed distances of the classes from each bit's cut, in units of the bit's spread: [classes, bits]."""
    blocks: list[_Floats] = []
    left = bits
    while left and means.shape[1]:
        width = min(left, means.shape[1])
        # The first bits take the strongest directions, the next ones turn what is there once more.
        chosen = means[:, :width] if not blocks else means @ _rotation(means.shape[1], rng)[:, :width]
        blocks.append(_rotate(chosen, rng))
        left -= width
    if not blocks:
        return np.zeros((len(means), bits))
    turned = np.hstack(blocks)
    turned -= np.median(turned, axis=0)
    margins: _Floats = turned / np.maximum(turned.std(axis=0), 1e-12)
    return margins


def _rotate(means: _Floats, rng: np.random.Generator) -> _Floats:
    """ITQ: the rotation whose coordinates are nearest to their signs, the best of some starts."""
    best, least = means, np.inf
    for _ in range(_STARTS):
        rotation = _rotation(means.shape[1], rng)
        for _ in range(_ROTATIONS):
            left, _, right = np.linalg.svd(means.T @ np.where(means @ rotation >= 0, 1.0, -1.0))
            rotation = left @ right
        turned = means @ rotation
        error = -np.abs(turned).sum()
        if error < least:
            best, least = turned, error
    return best


def _rotation(size: int, rng: np.random.Generator) -> _Floats:
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def _keep_apart(margins: _Floats, least: int) -> Codes:
    """Signs of margins [classes, bits], of which the least sure are flipped until two rows differ in `least` bits.

    A change is taken where it lowers sum(price(distance)) over all pairs of rows, so this ends; the least sure one
    first. Where no single flip does, a row moves to the nearest code that does (short codes alone: others have room).
    """
    codes = np.where(margins >= 0, 1, -1).astype(np.int64)
    bits = codes.shape[1]
    doubt = np.abs(margins)
    price = np.zeros(bits + 2)
    price[: max(least, 1)] = 4.0 ** np.arange(max(least, 1), 0, -1)  # 0 where rows are far enough apart
    while True:
        distance = (bits - codes @ codes.T) // 2
        np.fill_diagonal(distance, bits + 1)
        now = price[distance].sum(axis=1)  # [classes]
        near = np.flatnonzero(now)
        change = _best_flip(codes, distance, price, doubt, now, near)
        if change is None and bits <= _EXHAUSTIVE_BITS:
            change = _best_move(codes, price, doubt, now, near)
        if change is None:
            return codes.astype(np.int8)
        codes[change[0]] = change[1]


def _best_flip(
    codes: npt.NDArray[np.int64],
    distance: npt.NDArray[np.int64],
    price: _Floats,
    doubt: _Floats,
    now: _Floats,
    near: npt.NDArray[np.int64],
) -> tuple[int, npt.NDArray[np.int64]] | None:
    """(row, its code with a bit flipped): the flip that lowers the price and is least sure; None where none does."""
    best: tuple[float, int, int] | None = None
    for row in near.tolist():
        others = np.flatnonzero(distance[row] <= np.flatnonzero(price)[-1] + 1)
        apart = distance[row, others, None] + codes[row] * codes[others]  # [others, bits], after a flip of the bit
        for bit in np.flatnonzero(price[apart].sum(axis=0) < now[row]).tolist():
            if best is None or doubt[row, bit] < best[0]:
                best = (float(doubt[row, bit]), row, bit)
    if best is None:
        return None
    flipped = codes[best[1]].copy()
    flipped[best[2]] *= -1
    return best[1], flipped


def _best_move(
    codes: npt.NDArray[np.int64], price: _Floats, doubt: _Floats, now: _Floats, near: npt.NDArray[np.int64]
) -> tuple[int, npt.NDArray[np.int64]] | None:
    """(row, another code): the move that lowers the price and flips the least sure bits; None where none does."""
    bits = codes.shape[1]
    every = np.where(np.arange(1 << bits)[:, None] >> np.arange(bits) & 1, 1, -1)  # [2^bits, bits]
    held = (codes > 0) @ (1 << np.arange(bits))
    taken = np.bincount(held, minlength=1 << bits).astype(np.float64)
    places = np.arange(1 << bits)
    total = price[0] * taken + price[1] * sum(taken[places ^ (1 << bit)] for bit in range(bits))  # [2^bits]
    best: tuple[float, int, int] | None = None
    for row in near.tolist():
        own = np.zeros(bits + 2)
        own[:2] = price[:2]
        others = total - own[np.bitwise_count(places ^ held[row])]  # without the row itself
        better = np.flatnonzero(others < now[row])
        if len(better):
            cost = (every[better] != codes[row]) @ doubt[row]
            place = int(cost.argmin())
            if best is None or cost[place] < best[0]:
                best = (float(cost[place]), row, int(better[place]))
    return None if best is None else (best[1], every[best[2]])
