"""Which visual attribute each bit of a code follows, and whether that is more than chance. numpy only.

The best of many attributes agrees with any bit, so an agreement means nothing by itself: on 100 generated classes with
27 attributes, the best one has a balanced accuracy of about 0.6 with random bits. So (1) the attribute is chosen on
one set of pictures and scored on another, and (2) the same is done with random bits, many times.

A random bit here is the bit itself, dealt out to other classes: a permutation of the classes decides whose bits a
class's pictures get. It keeps what makes chance agreements likely (the bit's balance, and that pictures of a class
agree) and loses only which class has which bit. Permuting single pictures instead would call nearly every bit
significant: pictures of a class share both their code and their attributes, so there are as many independent
observations as classes, not as pictures.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from queryopt.errors import DataError, MismatchError, UsageError

__all__ = [
    "AttributeMatches",
    "BitsAndAttributes",
    "Match",
    "Tables",
    "holm",
    "match_attributes",
]

_Bools = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float64]
_Rows = npt.NDArray[np.intp]

_COLUMNS = 1 << 10
"""Random bits whose tables are counted at once."""


@dataclass(frozen=True, eq=False)
class BitsAndAttributes:
    """Pictures with their codes and attributes.

    bits: bool [n, bits]. present, known: bool [n, attributes]; where an attribute is not known, the picture doesn't
    count for it. labels: integers or strings [n], the pictures' classes.
    """

    bits: _Bools
    present: _Bools
    known: _Bools
    labels: npt.NDArray[np.generic]

    def __post_init__(self) -> None:
        """Refuse arrays that don't belong together."""
        n = len(self.bits)
        if self.bits.ndim != 2 or self.present.ndim != 2 or self.present.shape != self.known.shape:
            raise UsageError(
                f"bits {list(self.bits.shape)}, present {list(self.present.shape)}, known {list(self.known.shape)}: "
                "give [n, bits], and twice [n, attributes]"
            )
        if any(array.dtype != np.bool_ for array in (self.bits, self.present, self.known)):
            raise UsageError("bits, present and known are arrays of bool")
        if len(self.present) != n or self.labels.shape != (n,):
            raise MismatchError(f"{n} codes, {len(self.present)} rows of attributes, {len(self.labels)} labels")

    @property
    def kinds(self) -> tuple[_Bools, _Bools]:
        """Which pictures have an attribute, and which are known to be without: [n, attributes] each."""
        return self.present & self.known, ~self.present & self.known


@dataclass(frozen=True)
class Match:
    """The attribute that a bit follows best on the pictures that it is chosen on."""

    attribute: int
    """Its column."""
    positive: bool
    """Whether the bit is 1 where the attribute is present; else it is 0 there."""
    matched: float
    """The agreement on the pictures that it was chosen on: too high, as the best of many."""
    score: float
    """The agreement on the other pictures: of this attribute, in this direction."""
    null_mean: float
    """The mean score of random bits, each with its own best attribute."""
    null_high: float
    """The score that 5 % of the random bits exceed at most (their 95 % quantile)."""
    p: float
    """(1 + random bits that score as high) / (1 + random bits): a permutation test's p-value, never 0."""


@dataclass(frozen=True)
class AttributeMatches:
    """Each bit's best attribute. permutations: random bits for each bit. classes: those dealt out. candidates: columns
    of attributes that both sets of pictures have with and without.
    """

    by_information: tuple[Match, ...]
    """Chosen and scored by mutual information, in bits."""
    by_accuracy: tuple[Match, ...]
    """Chosen and scored by balanced accuracy, 0.5 for no agreement."""
    permutations: int
    classes: int
    candidates: tuple[int, ...]


def match_attributes(
    choose: BitsAndAttributes,
    score: BitsAndAttributes,
    *,
    permutations: int = 999,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> AttributeMatches:
    """Choose each bit's best attribute on some pictures, score it on others, and compare with random bits.

    choose, score: with the same bits, attributes and kind of labels. permutations: random bits for each bit. seed: of
    their draws. progress: called with the number of permutations done since the last call.

    Classes that only one of the two has are dealt out among each other. With few classes there are few permutations,
    and no p is small: of K classes at best about 1 / K!.

    Raises MismatchError where the two have different columns, DataError where no attribute varies in both.
    """
    if choose.bits.shape[1] != score.bits.shape[1] or choose.present.shape[1] != score.present.shape[1]:
        raise MismatchError(
            f"{choose.bits.shape[1]} bits and {choose.present.shape[1]} attributes to choose by, "
            f"{score.bits.shape[1]} and {score.present.shape[1]} to score by"
        )
    if permutations < 1:
        raise UsageError(f"permutations is {permutations}: at least 1")
    varying = np.logical_and.reduce([kind.any(axis=0) for side in (choose, score) for kind in side.kinds])
    candidates = np.flatnonzero(varying)
    if not len(candidates):
        raise DataError("no attribute is both present and absent among the pictures of either part: nothing to match")
    deal = _Deal(choose.labels, score.labels)
    sides = [(side.bits, *(kind[:, varying] for kind in side.kinds)) for side in (choose, score)]

    def measure(rows: "list[tuple[_Rows, _Rows]]") -> tuple["_Chosen", "_Chosen"]:
        """The choices of the bits taken from these rows of the two sides: [len(rows) * bits] each."""
        tables = [
            Tables.count(np.concatenate([own[row[i]] for row in rows], axis=1), with_it, without)
            for i, (own, with_it, without) in enumerate(sides)
        ]
        return _by_information(*tables), _by_accuracy(*tables)

    every = (np.arange(len(choose.bits)), np.arange(len(score.bits)))
    observed = measure([every])
    rng = np.random.default_rng(seed)
    bits = choose.bits.shape[1]
    chunk = max(1, _COLUMNS // bits)
    null: tuple[list[_Floats], list[_Floats]] = ([], [])
    for start in range(0, permutations, chunk):
        count = min(chunk, permutations - start)
        for scores, found in zip(null, measure([deal.rows(rng) for _ in range(count)]), strict=True):
            scores.append(found.score.reshape(count, bits))
        if progress is not None:
            progress(count)
    information, accuracy = (
        _matches(found, np.concatenate(scores), candidates) for found, scores in zip(observed, null, strict=True)
    )
    return AttributeMatches(information, accuracy, permutations, deal.classes, tuple(candidates.tolist()))


def holm(p: npt.ArrayLike) -> _Floats:
    """p-values adjusted for their number (Holm 1979): [n] -> [n]. Those up to 0.05 hold together with 95 %."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


@dataclass(frozen=True, eq=False)
class Tables:
    """The 2 x 2 table of every bit and attribute: pictures with a bit of 1 and 0, with and without the attribute.

    one_with, one_without: float64 [B, A]. with_it, without: float64 [A], all pictures of either kind.
    """

    one_with: _Floats
    one_without: _Floats
    with_it: _Floats
    without: _Floats

    @classmethod
    def count(cls, bits: _Bools, with_it: _Bools, without: _Bools) -> "Tables":
        """Of bits bool [n, B], over the pictures that have an attribute and those that don't: bool [n, A] each."""
        # float32 counts exactly up to 2^24 pictures.
        columns = np.ascontiguousarray(bits.T, np.float32)
        joint = ((columns @ side.astype(np.float32)).astype(np.float64) for side in (with_it, without))
        return cls(*joint, *(side.sum(axis=0, dtype=np.float64) for side in (with_it, without)))

    def information(self) -> _Floats:
        """Mutual information of each bit and each attribute, in bits: [B, A]; 0 where nothing is known."""
        total = np.maximum(self.with_it + self.without, 1)  # [A]
        ones = self.one_with + self.one_without  # [B, A]
        result = np.zeros_like(ones)
        for joint, bit, attribute in (
            (self.one_with, ones, self.with_it),
            (self.one_without, ones, self.without),
            (self.with_it - self.one_with, total - ones, self.with_it),
            (self.without - self.one_without, total - ones, self.without),
        ):
            ratio = np.divide(joint * total, bit * attribute, out=np.ones_like(joint), where=joint > 0)
            result += joint / total * np.log2(ratio)
        return np.maximum(result, 0)  # rounding

    def accuracy(self) -> _Floats:
        """Balanced accuracy, how well a bit of 1 says that an attribute is present: the mean of the share of pictures
        with it whose bit is 1 and of those without whose bit is 0: [B, A]. Below 0.5 the opposite bit says it better;
        0.5 where only one of both kinds is known.
        """
        both = (self.with_it > 0) & (self.without > 0)
        hits = self.one_with / np.maximum(self.with_it, 1)
        rejections = 1 - self.one_without / np.maximum(self.without, 1)
        return np.where(both, (hits + rejections) / 2, 0.5)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Of each bit [B]: the attribute's position among the candidates, direction, agreement here and on the others."""

    attribute: _Rows
    positive: _Bools
    matched: _Floats
    score: _Floats


class _Deal:
    """Draws whose bits each class's pictures get: pictures of two parts, by their class."""

    def __init__(self, one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> None:
        names, numbers = np.unique(np.concatenate([one, other]), return_inverse=True)
        self.classes = len(names)
        self._parts = [_Part(part, self.classes) for part in (numbers[: len(one)], numbers[len(one) :])]
        here, there = (part.counts > 0 for part in self._parts)
        # A class gets the bits of one that has pictures wherever it has some itself.
        self._strata = [np.flatnonzero(which) for which in (here & there, here & ~there, ~here & there)]

    def rows(self, rng: np.random.Generator) -> tuple[_Rows, _Rows]:
        """For each picture of either part, the row of the same part whose bits it gets."""
        source = np.empty(self.classes, np.intp)
        for stratum in self._strata:
            source[stratum] = rng.permutation(stratum)
        offset = rng.integers(1 << 30, size=self.classes)
        first, second = (part.rows(source, offset) for part in self._parts)
        return first, second


class _Part:
    def __init__(self, classes: npt.NDArray[np.intp], count: int) -> None:
        self.counts = np.bincount(classes, minlength=count)
        self._classes = classes
        self._order = np.argsort(classes, kind="stable")
        self._first = np.cumsum(self.counts) - self.counts
        self._rank = np.empty(len(classes), np.intp)  # a picture's number within its class
        self._rank[self._order] = np.arange(len(classes)) - self._first[classes[self._order]]

    def rows(self, source: _Rows, offset: npt.NDArray[np.int64]) -> _Rows:
        """Each picture gets one of the class `source[its class]`, in turn, from an offset on."""
        chosen = source[self._classes]
        rank = (self._rank + offset[self._classes]) % self.counts[chosen]
        rows: _Rows = self._order[self._first[chosen] + rank]
        return rows


def _by_information(here: Tables, there: Tables) -> _Chosen:
    values, accuracy = here.information(), here.accuracy()
    rows, best = np.arange(len(values)), values.argmax(axis=1)
    return _Chosen(best, accuracy[rows, best] >= 0.5, values[rows, best], there.information()[rows, best])


def _by_accuracy(here: Tables, there: Tables) -> _Chosen:
    values, others = here.accuracy(), there.accuracy()
    rows, best = np.arange(len(values)), np.abs(values - 0.5).argmax(axis=1)
    positive = values[rows, best] >= 0.5
    matched, score = (np.where(positive, v[rows, best], 1 - v[rows, best]) for v in (values, others))
    return _Chosen(best, positive, matched, score)


def _matches(found: _Chosen, null: _Floats, candidates: _Rows) -> tuple[Match, ...]:
    """found: [B]. null: float64 [permutations, B]."""
    as_high = (null >= found.score - 1e-12).sum(axis=0)
    p = (1 + as_high) / (1 + len(null))
    mean, high = null.mean(axis=0), np.quantile(null, 0.95, axis=0)
    return tuple(
        Match(
            int(candidates[found.attribute[b]]),
            bool(found.positive[b]),
            float(found.matched[b]),
            float(found.score[b]),
            float(mean[b]),
            float(high[b]),
            float(p[b]),
        )
        for b in range(len(p))
    )
