"""What each bit of a code does: how evenly it splits pictures, what it repeats, what is lost without it. numpy only."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_bits, codes_to_uint64, unpack_codes
from queryopt.errors import MismatchError, UsageError
from queryopt.metrics import retrieval_metrics
from queryopt.text import counted, listed

__all__ = ["BitQuality", "DropLosses", "bit_quality", "code_warnings", "drop_losses"]

_CHUNK = 1 << 16
"""Codes that are unpacked at once; sums over so many are exact in float32."""

LEAST_PICTURES = 50
"""Fewer may share a bit, or a code, by chance: nothing is said of them."""
NEARLY_CONSTANT = 0.02
"""A bit that is 1 for a smaller share of the pictures than this, or 0, is nearly constant."""
ALIKE = 0.9
"""Two bits of a larger correlation than this, without its sign, say the same."""
FEW = 4
"""Different codes are few where there are not a `FEW`th as many as pictures, or as codes of so many bits."""
OF_OTHERS = 1 / 3
"""Pictures of one class may share a code: few codes are warned of where a larger share than this of all pairs with
equal codes is of two classes."""

_MORE = "more bits (qo-train --bits) or a trunk that knows pictures (--preset pictures) would"

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BitQuality:
    """Statistics of the codes of `items` pictures."""

    items: int
    ones: _Floats
    """[bits]: share of pictures whose bit is 1; 0.5 is balanced."""
    entropy: _Floats
    """[bits]: entropy of each bit, in bits, 0 (constant) to 1 (balanced)."""
    correlation: _Floats
    """[bits, bits]: Pearson correlation of every two bits, -1..1; 0 where one of them is constant, the diagonal too."""
    distinct: int
    """Different codes."""
    code_entropy: float
    """Entropy of the whole code, in bits, as the pictures' codes are distributed; at most log2(items) and bits."""

    def most_correlated(self, bit: int) -> tuple[int, float] | None:
        """The other bit that follows or opposes this one most, and their correlation; None where it is alone."""
        others = np.abs(self.correlation[bit])
        others[bit] = -1
        if len(others) == 1:
            return None
        other = int(others.argmax())
        return other, float(self.correlation[bit, other])


@dataclass(frozen=True, eq=False)
class DropLosses:
    """What ranking without a bit costs. queries: those that it was measured over. map: theirs, with all bits."""

    queries: int
    map: float
    loss: _Floats
    """[bits]: mAP with all bits less mAP without this one; negative where the bit does harm."""
    standard_error: _Floats
    """[bits]: of the loss as an estimate for queries like these, from the spread over the queries; 0 for one query."""


def bit_quality(codes: npt.ArrayLike, bits: int) -> BitQuality:
    """Statistics of codes: packed uint8 [n, ceil(bits / 8)] or uint64 [n], n >= 1. UsageError for none."""
    values = codes_to_uint64(codes, bits)
    items = len(values)
    if not items:
        raise UsageError("there are no codes to look at")
    together = np.zeros((bits, bits))  # pictures in which both bits are 1
    for start in range(0, items, _CHUNK):
        part = unpack_codes(values[start : start + _CHUNK], bits).astype(np.float32)  # [chunk, bits]
        together += part.T @ part
    ones = np.diag(together) / items
    covariance = together / items - np.outer(ones, ones)
    spread = np.sqrt(ones * (1 - ones))
    product = np.outer(spread, spread)
    correlation = np.divide(covariance, product, out=np.zeros_like(covariance), where=product > 0)
    counts = np.unique(values, return_counts=True)[1]
    return BitQuality(
        items=items,
        ones=ones,
        entropy=_entropy(ones) + _entropy(1 - ones),
        correlation=np.clip(correlation, -1, 1),
        distinct=len(counts),
        code_entropy=float(_entropy(counts / items).sum()),
    )


def code_warnings(
    codes: npt.ArrayLike, bits: int, labels: Callable[[], npt.ArrayLike | None] | None = None
) -> tuple[str, ...]:
    """What makes codes find less than codes of so many bits can, in sentences for people; nothing for sound ones.

    Bits that are nearly constant, pairs of bits that say the same, and few different codes, unless it is classes that
    share them. codes: as of bit_quality. labels: gives the pictures' classes, [n], or None where they are not known;
    called where there are few different codes. Nothing is said of fewer than LEAST_PICTURES.
    """
    bits = check_bits(bits)
    values = codes_to_uint64(codes, bits)
    if len(values) < LEAST_PICTURES:
        return ()
    quality = bit_quality(values, bits)
    if quality.distinct == 1:
        return (f"all {len(values):,} pictures have one and the same code: the model tells nothing apart",)
    constant = np.minimum(quality.ones, 1 - quality.ones) < NEARLY_CONSTANT
    said = [_constant_bits(constant), _alike(quality.correlation, constant), _few_codes(values, bits, quality, labels)]
    return tuple(sentence for sentence in said if sentence)


def drop_losses(
    query_codes: npt.ArrayLike,
    gallery_codes: npt.ArrayLike,
    bits: int,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike,
    *,
    exclude_self: npt.ArrayLike | None = None,
    most_queries: int | None = 2000,
    progress: Callable[[int], None] | None = None,
) -> DropLosses:
    """Rank by Hamming distance without each bit in turn, and compare each query's average precision.

    The first five arguments and exclude_self: as for `retrieval_metrics`. most_queries: take so many of the queries at
    most, evenly spread over their labels (each ranking is done bits + 1 times); None for all. progress: called with 1
    when a ranking of all of them is done. Raises what `retrieval_metrics` does.
    """
    bits = check_bits(bits)
    queries, gallery = codes_to_uint64(query_codes, bits), codes_to_uint64(gallery_codes, bits)
    labels = np.asarray(query_labels)
    own = np.full(len(queries), -1, np.int64) if exclude_self is None else np.asarray(exclude_self)
    if len(labels) != len(queries) or len(own) != len(queries):
        raise MismatchError(f"{len(queries)} queries, but {len(labels)} labels and {len(own)} rows to leave out")
    if most_queries is not None and most_queries < 1:
        raise UsageError(f"most_queries is {most_queries}: at least 1")
    rows = _spread(labels, most_queries)

    def precisions(mask: int) -> _Floats:
        """Average precisions [rows], NaN where nothing is relevant, by the bits of the mask alone."""
        kept = np.uint64(mask)
        found = retrieval_metrics(
            queries[rows] & kept,
            gallery & kept,
            bits,
            labels[rows],
            gallery_labels,
            ks=(),
            radii=(),
            exclude_self=own[rows],
        ).average_precision
        if progress is not None:
            progress(1)
        return found

    every = (1 << bits) - 1
    whole = precisions(every)
    kept = ~np.isnan(whole)
    losses = np.stack([(whole - precisions(every & ~(1 << bit)))[kept] for bit in range(bits)])  # [bits, queries]
    count = losses.shape[1]
    error = losses.std(axis=1, ddof=1) / np.sqrt(count) if count > 1 else np.zeros(bits)
    return DropLosses(count, float(whole[kept].mean()), losses.mean(axis=1), error)


def _constant_bits(constant: npt.NDArray[np.bool_]) -> str:
    count = int(constant.sum())
    if not count:
        return ""
    where = listed([str(bit) for bit in np.flatnonzero(constant)], 8)
    return (
        f"{count} of {counted(len(constant), 'bit', 'bits')} {'is' if count == 1 else 'are'} the same for at least "
        f"{100 * (1 - NEARLY_CONSTANT):.0f} % of the pictures ({where}) and {'tells' if count == 1 else 'tell'} hardly "
        "any apart: the pictures differ from those that the model learnt from, or fewer bits would do (qo-train --bits)"
    )


def _alike(correlation: _Floats, constant: npt.NDArray[np.bool_]) -> str:
    pairs = np.argwhere(np.triu(np.abs(correlation) > ALIKE, 1) & ~constant & ~constant[:, None]).tolist()
    if not pairs:
        return ""
    where = listed([f"{one} and {other}" for one, other in pairs], 5)
    return (
        f"{counted(len(pairs), 'pair', 'pairs')} of bits {'goes' if len(pairs) == 1 else 'go'} together, equal or "
        f"opposite (correlation above {ALIKE:g}: {where}), so one bit of a pair says nothing new: fewer bits would "
        "find as much (qo-train --bits)"
    )


def _few_codes(
    values: npt.NDArray[np.uint64],
    bits: int,
    quality: BitQuality,
    labels: Callable[[], npt.ArrayLike | None] | None,
) -> str:
    pictures = len(values)
    if quality.distinct * FEW >= min(pictures, 1 << bits):
        return ""
    code_of, heaps = np.unique(values, return_inverse=True, return_counts=True)[1:]
    pairs = _pairs(heaps)  # of equal codes
    said = f"{quality.distinct:,} different codes for {pictures:,} pictures"
    share = f"in the mean {2 * pairs / pictures:,.0f} others have a picture's code"
    classes = None if labels is None else labels()
    if classes is None:
        return (
            f"{said}: {share}. Unless they are copies of it, or of its class, a search can't tell them apart but by "
            f"margins: {_MORE}"
        )
    names, class_of = np.unique(np.asarray(classes), return_inverse=True)
    alike = _pairs(np.unique(code_of * len(names) + class_of, return_counts=True)[1])
    if 1 - alike / pairs <= OF_OTHERS:
        return ""
    return (
        f"{said} of {counted(len(names), 'class', 'classes')}: {share}, {100 * (1 - alike / pairs):.0f} % of them of "
        f"other classes, and a search can't tell them apart but by margins: {_MORE}"
    )


def _pairs(counts: npt.NDArray[np.int64]) -> int:
    """Of things that are alike."""
    return int((counts * (counts - 1) // 2).sum())


def _entropy(shares: _Floats) -> _Floats:
    """-p log2 p of each."""
    result: _Floats = -shares * np.log2(np.where(shares > 0, shares, 1))
    return result + 0.0  # no -0


def _spread(labels: npt.NDArray[np.generic], most: int | None) -> npt.NDArray[np.intp]:
    """Rows, at most so many, evenly spaced in the order of labels: every class has its share, whatever their order."""
    if most is None or len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    return np.sort(order[(np.arange(most) * len(labels)) // most])
