"""Codes in closed form: one linear layer on a frozen trunk's pooled features, in NumPy and seconds. Not the paper's.

With labels: features are whitened within classes, so that what varies inside a class counts little (LDA, with the
covariance shrunk towards its mean variance); the directions in which the classes' means differ are rotated until they
fall near the corners of a cube (ITQ: Gong and Lazebnik, CVPR 2011), and each is cut at zero. Which features and how
much shrinkage is chosen by leave-one-out and cross-validation over the same pictures. Without labels: the directions of
the largest variance (PCA), whitened by half, in place of those between classes. With a code for each class at hand:
ridge regression.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_bits
from queryopt.errors import DataError, UsageError

__all__ = ["Choice", "LinearCodes", "fit_labelled", "fit_towards", "fit_unlabelled", "logit_unit"]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

SHRINKAGES = (0.1, 0.3, 0.5, 0.7)
"""Shares of the within-class covariance that are replaced by its mean variance in every direction."""
PENALTIES = (0.03, 0.1, 0.3, 1.0)
"""Of a ridge regression, relative to the mean variance of its directions."""
_MOST = 20_000
"""Pictures, at most, that a fit looks at: more would cost more than they tell."""
_MOST_TURNED = 5_000
_MOST_VALIDATED = 3_000
_FOLDS = 3
_COMPARED = 3
_DEVIATIONS = 2.0
"""Sets of features whose leave-one-out is fewer standard errors apart are compared by their codes, the best few."""
_QUERIES = 256
_STARTS = 4
_TURNS = 50
_LEAST = 1e-6
"""What is smaller, relative to the largest, is rounding."""
_TINY = 1e-12
_WHITENING = 0.5
"""How far PCA's directions are made equally wide where there are no labels: 0 as they are, 1 all alike."""
_SCALE_QUANTILE = 0.999
"""Share of logits whose magnitude is at most 1."""


@dataclass(frozen=True)
class Choice:
    """What leave-one-out chose. groups: names of features. accuracy: of the nearest class mean, None without labels."""

    groups: tuple[str, ...]
    shrinkage: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True, eq=False)
class LinearCodes:
    """Logits W f + c of features f, float64 [bits, d] and [bits]: their largest magnitudes are near 1."""

    weight: _Floats
    bias: _Floats
    choice: Choice


def fit_labelled(
    features: npt.NDArray[np.floating],
    labels: _Ints,
    bits: int,
    groups: Mapping[str, slice],
    candidates: Sequence[Sequence[str]],
    seed: int = 0,
) -> LinearCodes:
    """Fit codes to labelled pictures.

    features: finite [n, d].
    labels: int64 [n].
    groups: names of features, and their columns.
    candidates: sets of those names, of which one is chosen; the columns of the others get weight 0.
    seed: of ITQ's first rotations, and of which pictures are taken where there are more than _MOST.

    UsageError for features that are not finite, or not a row a label; DataError where the labels are all one class.
    """
    features, labels = _checked(features, labels, bits, seed)
    names, rows = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise DataError("codes that tell classes apart need pictures of two classes at least")
    chosen, shrinkage, accuracy = _choose(features, rows, len(names), bits, groups, candidates, seed)
    place = _columns(chosen, groups)
    whitened = _Whitened.of(features[:, place], rows, len(names)).shrunk(shrinkage)
    weight, cut = whitened.bits(bits, seed)
    return _codes(features, place, weight, cut, Choice(tuple(chosen), shrinkage, accuracy))


def fit_towards(
    features: npt.NDArray[np.floating],
    labels: _Ints,
    class_codes: npt.NDArray[np.integer],
    groups: Mapping[str, slice],
    candidates: Sequence[Sequence[str]],
    seed: int = 0,
) -> LinearCodes:
    """Fit a linear layer to codes that the classes have: by least squares with a penalty (ridge regression).

    class_codes: +1 and -1, [classes, bits], row `label` of each. Leave-one-out over the pictures, of the squared error,
    chooses the features and the penalty; `Choice.accuracy` is the share of their bits that come out right so. Arguments
    and errors otherwise as of fit_labelled.
    """
    features, labels = _checked(features, labels, class_codes.shape[1], seed)
    targets = class_codes[labels].astype(np.float64)  # [n, bits]
    centre = targets.mean(axis=0)
    best: tuple[float, float, float, Sequence[str], _Floats] | None = None
    for names in candidates:
        values, spread = _standardised(features[:, _columns(names, groups)])
        variances, axes = np.linalg.eigh(values.T @ values if len(values) > values.shape[1] else values @ values.T)
        kept = variances > _LEAST * max(variances[-1], _TINY)
        variances, axes = variances[kept], axes[:, kept]
        # Directions of the pictures [n, r], whichever of the two products was taken apart.
        along = values @ axes / np.sqrt(variances) if len(values) > values.shape[1] else axes
        projected = along.T @ (targets - centre)  # [r, bits]
        for penalty in PENALTIES:
            ridge = variances + penalty * variances.sum() / len(values)
            share = variances / ridge
            influence = np.square(along) @ share + 1 / len(values)
            left = (targets - centre - along @ (share[:, None] * projected)) / np.maximum(1 - influence, _LEAST)[
                :, None
            ]
            error = float(np.square(left).mean())
            if best is None or error < best[0]:
                weight = values.T @ (along @ (projected / ridge[:, None])) / spread[:, None]
                best = error, penalty, float(((targets - left > 0) == (targets > 0)).mean()), names, weight
    assert best is not None
    _, penalty, right, chosen, weight = best
    place = _columns(chosen, groups)
    cut = features[:, place].astype(np.float64).mean(axis=0) @ weight - centre
    return _codes(features, place, weight, cut, Choice(tuple(chosen), penalty, right))


def fit_unlabelled(
    features: npt.NDArray[np.floating], bits: int, groups: Mapping[str, slice], chosen: Sequence[str], seed: int = 0
) -> LinearCodes:
    """Fit codes to pictures of which nothing is known: PCA and ITQ on the columns of the groups `chosen`.

    Columns are standardised, and the directions of the largest variance whitened by half: what most pictures differ in
    takes most of the variance, and few bits say enough of it.

    Arguments and errors otherwise as of fit_labelled. DataError where all pictures have the same features.
    """
    features, _ = _checked(features, np.zeros(len(features), np.int64), bits, seed)
    place = _columns(chosen, groups)
    values = features[:, place].astype(np.float64)
    mean, spread = values.mean(axis=0), np.maximum(values.std(axis=0), _LEAST)
    values = (values - mean) / spread
    if (features[:, place] == features[0, place]).all():
        raise DataError(
            "there are no two pictures that differ: codes without labels are fitted to what differs among pictures, of "
            "which some hundreds are better"
        )
    _, singular, axes = np.linalg.svd(values, full_matrices=False)
    kept = min(bits, int((singular > _LEAST * singular[0]).sum()))
    axes = axes[:kept].T * (singular[:kept] / singular[0]) ** -_WHITENING  # [w, k]
    turned = axes @ _rotation(values @ axes, bits, seed)
    weight = turned / spread[:, None]
    return _codes(features, place, weight, mean @ weight, Choice(tuple(chosen)))


def _choose(
    features: npt.NDArray[np.floating],
    rows: _Ints,
    classes: int,
    bits: int,
    groups: Mapping[str, slice],
    candidates: Sequence[Sequence[str]],
    seed: int,
) -> tuple[Sequence[str], float, float]:
    """Which groups of features, how much shrinkage, and the share of pictures that leave-one-out names right with it.

    Leave-one-out says which features tell the classes apart; of those that are as good but for chance, the codes of
    pictures that were not fitted, in three folds, say which retrieve best, and with how much shrinkage.
    """
    scores = []
    for candidate in candidates:
        fitted = _Whitened.of(features[:, _columns(candidate, groups)], rows, classes)
        scores.append([fitted.shrunk(shrinkage).leave_one_out(rows) for shrinkage in SHRINKAGES])
    best = max(map(max, scores))
    chance = _DEVIATIONS * np.sqrt(max(best * (1 - best), _LEAST) / len(rows))
    ranked = sorted(range(len(candidates)), key=lambda at: (-max(scores[at]), at))
    near = [at for at in ranked if max(scores[at]) >= best - chance][:_COMPARED]
    maps = {at: _cross_validated(features[:, _columns(candidates[at], groups)], rows, bits, seed) for at in near}
    at, place = max(
        ((at, place) for at in near for place in range(len(SHRINKAGES))), key=lambda one: maps[one[0]][one[1]]
    )
    return candidates[at], SHRINKAGES[place], scores[at][place]


def _cross_validated(features: npt.NDArray[np.floating], rows: _Ints, bits: int, seed: int) -> _Floats:
    """For each of SHRINKAGES, the mean average precision of pictures left out of the fit among those in it, in three
    folds, with ties of the codes in the order of the logits' distance.
    """
    rng = np.random.default_rng([seed, _FOLDS])
    order = rng.permutation(len(rows))[:_MOST_VALIDATED]
    # Class by class, so that a class has pictures in each fold where there are enough.
    order = order[np.argsort(rows[order], kind="stable")]
    folds = np.arange(len(order)) % _FOLDS
    maps = np.zeros(len(SHRINKAGES))
    for fold in range(_FOLDS):
        fitted, asked = order[folds != fold], order[folds == fold]
        names, labels = np.unique(rows[fitted], return_inverse=True)
        if len(names) < 2:
            continue
        whitened = _Whitened.of(features[fitted], labels, len(names))
        for place, shrinkage in enumerate(SHRINKAGES):
            weight, cut = whitened.shrunk(shrinkage).bits(bits, seed)
            gallery, queries = (features[part] @ weight - cut for part in (fitted, asked))
            maps[place] += _average_precision(queries, gallery, rows[asked], rows[fitted]) / _FOLDS
    return maps


def _average_precision(queries: _Floats, gallery: _Floats, asked: _Ints, labels: _Ints) -> float:
    """Mean average precision by (Hamming distance, distance of logits): [q, bits] and [g, bits]."""
    precisions = []
    scale = np.square(np.abs(gallery).max() + np.abs(queries).max()) * gallery.shape[1] + _TINY
    for start in range(0, len(queries), _QUERIES):
        part = queries[start : start + _QUERIES]
        hamming = (gallery.shape[1] - np.sign(part + _TINY) @ np.sign(gallery + _TINY).T) / 2
        apart = np.square(part).sum(axis=1)[:, None] - 2 * part @ gallery.T + np.square(gallery).sum(axis=1)
        ranking = np.argsort(hamming + apart / (2 * scale), axis=1, kind="stable")
        right = labels[ranking] == asked[start : start + _QUERIES, None]
        hits = np.cumsum(right, axis=1)
        there = hits[:, -1] > 0
        precision = (right * hits / np.arange(1, len(gallery) + 1)).sum(axis=1)[there] / hits[there, -1]
        precisions.append(precision)
    every = np.concatenate(precisions)
    return float(every.mean()) if len(every) else 0.0


@dataclass(frozen=True, eq=False)
class _Whitened:
    """Features and their covariance within classes, as its axes, and how they whiten with some shrinkage.

    mean, spread: of the features, [w]. basis: [w, r], where the pictures lie. values: standardised features of all
    pictures in that basis turned to the axes, [n, r]; means: of each class, [c, r]. variances: within classes along the
    axes, [r]; level: their mean over all w directions. scale: what whitens each axis, [r].
    """

    mean: _Floats
    spread: _Floats
    basis: _Floats
    values: _Floats
    means: _Floats
    variances: _Floats
    level: float
    shrinkage: float = 0.0

    @classmethod
    def of(cls, features: npt.NDArray[np.floating], rows: _Ints, classes: int) -> "_Whitened":
        """features: [n, w]. rows: the class of each, of which every one has a picture."""
        values = features.astype(np.float64)
        mean, spread = values.mean(axis=0), np.maximum(values.std(axis=0), _LEAST)
        values = (values - mean) / spread
        width = values.shape[1]
        basis = np.eye(width)
        if len(values) < width:  # all there is lies in the space of the pictures: a smaller problem, and the same
            energy, axes = np.linalg.eigh(values @ values.T)
            kept = energy > _LEAST**2 * max(energy[-1], _TINY)
            basis = values.T @ (axes[:, kept] / np.sqrt(energy[kept]))
            values = values @ basis
        sums = np.zeros((classes, values.shape[1]))
        np.add.at(sums, rows, values)
        means = sums / np.bincount(rows, minlength=classes)[:, None]
        inside = values - means[rows]
        variances, axes = np.linalg.eigh(inside.T @ inside / max(len(values) - classes, 1))
        variances = np.maximum(variances, 0)
        level = float(variances.sum() / width)
        if level <= _TINY:  # a picture a class, or all alike: nothing to whiten with
            variances, level = np.ones_like(variances), 1.0
        return cls(mean, spread, basis @ axes, values @ axes, means @ axes, variances, level)

    def shrunk(self, shrinkage: float) -> "_Whitened":
        return replace(self, shrinkage=shrinkage)

    @property
    def scale(self) -> _Floats:
        scale: _Floats = ((1 - self.shrinkage) * self.variances + self.shrinkage * self.level) ** -0.5
        return scale

    def bits(self, bits: int, seed: int) -> tuple[_Floats, _Floats]:
        """(weight [w, bits], cut [bits]): logits are f @ weight - cut."""
        scale = self.scale
        means = self.means * scale
        centre = means.mean(axis=0)
        _, singular, axes = np.linalg.svd(means - centre, full_matrices=False)
        axes = axes[: min(bits, int((singular > _LEAST * max(singular[0], _TINY)).sum()))].T  # [r, k]
        turned = axes @ _rotation((means - centre) @ axes, bits, seed)  # [r, bits]
        weight = self.basis @ (scale[:, None] * turned) / self.spread[:, None]
        return weight, self.mean @ weight + centre @ turned

    def leave_one_out(self, rows: _Ints) -> float:
        """The share of pictures that are nearest to the mean of their own class, each as if it had not been there.

        Its class's mean moves away from it, and the covariance loses its part (Sherman-Morrison). Only the shrinkage's
        level and the degrees of freedom stay as they are. Pictures that are alone in their class are left out.
        """
        values, means = self.values * self.scale, self.means * self.scale
        count, sizes = len(rows), np.bincount(rows).astype(np.float64)
        own = sizes[rows]
        inside = values - means[rows]
        move = own / np.maximum(own - 1, 1)  # how much farther away one's own mean is without oneself
        distance = (
            np.square(values).sum(axis=1)[:, None] - 2 * values @ means.T + np.square(means).sum(axis=1)
        )  # [n, c]
        along = (inside * values).sum(axis=1)[:, None] - inside @ means.T  # [n, c]
        index = np.arange(count)
        distance[index, rows] *= np.square(move)
        along[index, rows] *= move
        part = (1 - self.shrinkage) * move / max(count - len(sizes), 1)
        left = np.maximum(1 - part * np.square(inside).sum(axis=1), _LEAST)
        distance += (part / left)[:, None] * np.square(along)
        others = own > 1
        return float((distance[others].argmin(axis=1) == rows[others]).mean()) if others.any() else 0.0


def _rotation(values: _Floats, bits: int, seed: int) -> _Floats:
    """ITQ: k orthogonal directions turned to `bits` whose values are nearest to their signs, [k, bits], the best of
    some starts. Where there are more bits than directions, these are the columns of a tight frame.
    """
    rng = np.random.default_rng([seed, bits])
    if len(values) > _MOST_TURNED:
        values = values[np.sort(rng.choice(len(values), _MOST_TURNED, replace=False))]
    size = values.shape[1]
    best, most = np.zeros((size, bits)), -1.0
    for _ in range(_STARTS if size else 0):
        rotation = np.linalg.qr(rng.standard_normal((max(size, bits), min(size, bits))))[0]
        rotation = rotation if size >= bits else rotation.T
        for _ in range(_TURNS):
            left, _, right = np.linalg.svd(values.T @ np.where(values @ rotation >= 0, 1.0, -1.0), full_matrices=False)
            rotation = left @ right
        if (sure := float(np.abs(values @ rotation).sum())) > most:
            best, most = rotation, sure
    return best


def _codes(
    features: npt.NDArray[np.floating], place: _Ints, weight: _Floats, cut: _Floats, choice: Choice
) -> LinearCodes:
    """features [n, d] of which the columns `place` [w] count, weight [w, bits]: the layer, to scale."""
    whole = np.zeros((weight.shape[1], features.shape[1]))
    whole[:, place] = weight.T
    logits = features @ whole.T - cut
    unit = logit_unit(logits)
    return LinearCodes(whole / unit, -cut / unit, choice)


def logit_unit(logits: npt.NDArray[np.floating]) -> float:
    """What logits are divided by: nearly all are within 1 then."""
    return max(float(np.quantile(np.abs(logits), _SCALE_QUANTILE)), _TINY)


def _standardised(features: npt.NDArray[np.floating]) -> tuple[_Floats, _Floats]:
    """Features [n, w] of mean 0 and deviation 1, and the deviation that they had, [w]."""
    values = features.astype(np.float64)
    mean, spread = values.mean(axis=0), np.maximum(values.std(axis=0), _LEAST)
    return (values - mean) / spread, spread


def _columns(names: Sequence[str], groups: Mapping[str, slice]) -> _Ints:
    return np.concatenate([np.arange(groups[name].start, groups[name].stop) for name in names])


def _checked(
    features: npt.NDArray[np.floating], labels: _Ints, bits: int, seed: int
) -> tuple[npt.NDArray[np.floating], _Ints]:
    check_bits(bits)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(features) or not np.isfinite(features).all():
        raise UsageError(
            f"features {list(features.shape)} of {list(labels.shape)} labels: not finite, or not a row each"
        )
    if len(features) > _MOST:
        rows = np.sort(np.random.default_rng(seed).choice(len(features), _MOST, replace=False))
        return features[rows], labels[rows]
    return features, labels
