"""Retrieval metrics of hash codes, and of vectors, that don't depend on how ties are broken. numpy only.

Hamming distances are small integers, so a ranking is a sequence of groups of equal distance, and an average precision
computed after an argsort is one draw among very many: on synthetic codes of 12 bits (200 classes) the draws reach from
0.086 to 0.256, with 0.134 in the mean. Here every figure is the exact mean over all orders within the groups (McSherry
and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores", ECIR
2008), with the worst and the best order beside it.

All of them follow from two counts of a query: how many gallery items, and how many relevant ones, lie in each group of
tied items, in the order of the groups. For a ranking by distance these are histograms over the bits + 1 distances:
nothing is sorted, and memory does not grow with queries x gallery. For a ranking by weights, or by margins where
distances are equal, each query sorts its keys.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_bits, codes_to_uint64
from queryopt.errors import MismatchError, UsageError

__all__ = [
    "ClassScore",
    "RadiusCurve",
    "RankingMetrics",
    "RetrievalMetrics",
    "chance_average_precision",
    "class_scores",
    "retrieval_metrics",
    "unit_vectors",
    "vector_metrics",
]

_BLOCK = 1 << 18
"""Distances held at once. 2 MiB of int64: as large as a core's cache, where counting is fastest."""
_QUERIES = 1 << 14
"""Queries whose histograms are held at once: 2 x 65 x 8 bytes each, 17 MB at 64 bits."""
_COSINE_STEPS = 1 << 20
"""Cosines that differ by less than one part in so many are ties: equal vectors differ by rounding."""

_SQUARE_BITS = 23
"""A squared distance of margins is below 2^23: at most 64 x 254^2."""

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
_Real = TypeVar("_Real", np.float32, np.float64)
_KeysOf = Callable[[slice], npt.NDArray[np.int32]]
"""Of some queries, the keys that the gallery is ranked by: [queries, n], 0 <= key < 2^30."""


@dataclass(frozen=True)
class RadiusCurve:
    """Precision and recall of what lies within a radius, for every radius: [bits + 1] values each, radius 0 first.

    Means over the queries that have anything relevant, but for pooled_precision.
    """

    recall: tuple[float, ...]
    """Share of a query's relevant items that lie within."""
    precision: tuple[float, ...]
    """Share of relevant items among those within; 0 for a query that finds nothing there."""
    pooled_precision: tuple[float, ...]
    """Relevant items within, of all queries together, among all items within: queries that find much weigh more, those
    that find nothing weigh nothing. 0 where no query finds anything."""
    retrieved: tuple[float, ...]
    """Items within."""


@dataclass(frozen=True)
class ClassScore:
    """How well a class's queries retrieve. queries: those with anything relevant. map: mean over them."""

    label: str | int
    queries: int
    map: float


@dataclass(frozen=True)
class RankingMetrics:
    """How well rankings find pictures of the query's class: means over the queries that have any relevant item.

    All values lie in 0..1, larger is better.
    """

    map: float
    """Mean average precision, the mean over all orders of tied items."""
    map_optimistic: float
    """The same with relevant items first within every tie. High for collapsed codes too: never report it alone."""
    map_pessimistic: float
    """The same with relevant items last within every tie."""
    map_at: dict[int, float]
    """k -> mean average precision of the k nearest alone: the sum over the relevant ones stops at rank k and is divided
    by min(k, relevant items). Mean over tie orders; 1 is reached by every perfect ranking."""
    precision_at: dict[int, float]
    """k -> share of relevant items among the k nearest, mean over tie orders. Divided by k also where fewer exist."""
    queries: int
    """Queries that the means are taken over."""
    skipped_queries: int
    """Queries left out, because nothing in the gallery has their label."""
    chance: float
    """The mean average precision that a random ranking of this gallery is expected to give these queries."""
    average_precision: _Floats = field(repr=False, compare=False)
    """float64 [all queries]: each query's own (mean over tie orders), NaN where it was skipped."""

    def to_dict(self) -> dict[str, Any]:
        """All but the per-query values, ready for JSON."""
        return {name: value for name, value in vars(self).items() if name != "average_precision"}


@dataclass(frozen=True)
class RetrievalMetrics(RankingMetrics):
    """The same of codes, which also have distances that mean something by themselves."""

    recall_at_radius: dict[int, float]
    """r -> share of a query's relevant items that lie at distance <= r."""
    precision_at_radius: dict[int, float]
    """r -> share of relevant items among those at distance <= r; 0 for a query that finds nothing there."""
    curve: RadiusCurve
    """Both of these at every radius."""

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"curve": {name: list(column) for name, column in asdict(self.curve).items()}}


def retrieval_metrics(
    query_codes: npt.ArrayLike,
    gallery_codes: npt.ArrayLike,
    bits: int,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike,
    *,
    ks: Sequence[int] = (1, 10, 100),
    radii: Sequence[int] = (0, 1, 2),
    exclude_self: npt.ArrayLike | None = None,
    bit_keys: npt.ArrayLike | None = None,
    margins: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    progress: Callable[[int], None] | None = None,
) -> RetrievalMetrics:
    """Rank the gallery for every query, by Hamming distance or another key, and measure the rankings. A gallery item is
    relevant to a query of the same label.

    query_codes, gallery_codes: packed uint8 [q, ceil(bits / 8)], [n, ceil(bits / 8)], or uint64 [q], [n].
    query_labels, gallery_labels: [q], [n], integers or strings (both the same kind).
    ks: the k of mAP and precision at k, each >= 1. radii: distances, each 0..bits.
    exclude_self: int [q], the gallery row that is the query itself and is left out of its ranking, -1 for none;
        `np.arange(n)` for leave-one-out over one set.
    bit_keys: integers >= 0 [q, bits], each row with a sum below 2^29: rank by ascending key, the sum of a query's bit
        keys over the bits in which an item differs from it; equal keys are ties. If None, by distance. The values at
        radii are by distance always.
    margins: of the queries and of the gallery, int8 [q, bits] and [n, bits]: rank by distance, and equal distances by
        the squared L2 distance of these (as an index does); what is equal in both is a tie. Not with bit_keys.
    progress: called with the number of queries done since the last call.

    Takes time proportional to q n (about 2 ns a pair on one core; with bit keys or margins, which are sorted, about
    15 ns) and memory proportional to q bits + n.
    Raises UsageError for wrong arguments, MismatchError where codes and labels, or the two sides, don't fit together,
    or where no query has anything relevant.
    """
    bits = check_bits(bits)
    queries, gallery = codes_to_uint64(query_codes, bits), codes_to_uint64(gallery_codes, bits)
    if not len(queries) or not len(gallery):
        raise UsageError(f"{len(queries)} queries and {len(gallery)} gallery items: there is nothing to measure")
    ks = _integers("ks", ks, 1, None)
    radii = _integers("radii", radii, 0, bits)
    query_classes, gallery_classes = _classes(query_labels, gallery_labels, len(queries), len(gallery))
    excluded = _excluded(exclude_self, len(queries), len(gallery))
    if bit_keys is not None and margins is not None:
        raise UsageError("bit_keys and margins are two orders: give one of them")
    keys: _KeysOf | None = None
    if bit_keys is not None:
        keys = _keys_by_bits(queries, gallery, _bit_keys(bit_keys, len(queries), bits))
    elif margins is not None:
        sides = (_margins(of, len(codes), bits) for of, codes in zip(margins, (queries, gallery), strict=True))
        keys = _keys_by_margins(queries, gallery, *sides)

    searched = _Gallery.of(gallery, gallery_classes, int(query_classes.max()) + 1)
    rankings = _rankings(queries, query_classes, searched, bits, ks, excluded, keys, progress)
    everything = _PerQuery.join(list(rankings))
    _check_relevant(everything, excluded)
    return _means(everything, ks, radii)


def vector_metrics(
    queries: npt.ArrayLike,
    gallery: npt.ArrayLike,
    query_labels: npt.ArrayLike,
    gallery_labels: npt.ArrayLike,
    *,
    ks: Sequence[int] = (1, 10, 100),
    exclude_self: npt.ArrayLike | None = None,
) -> RankingMetrics:
    """Rank the gallery for every query by the cosine of vectors, real [q, d] and [n, d], and measure the rankings.

    A vector of length 0 has the cosine 0 with every other. All else is as of `retrieval_metrics`. Takes time
    proportional to q n d, and about 15 ns a pair to sort.
    """
    queries, gallery = _unit("query", queries), _unit("gallery", gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise MismatchError(f"queries of {queries.shape[1]} numbers and a gallery of {gallery.shape[1]}")
    ks = _integers("ks", ks, 1, None)
    query_classes, gallery_classes = _classes(query_labels, gallery_labels, len(queries), len(gallery))
    excluded = _excluded(exclude_self, len(queries), len(gallery))
    harmonic = _harmonic(len(gallery))
    parts = []
    height = max(1, _BLOCK // len(gallery))
    for top in range(0, len(queries), height):
        rows = slice(top, top + height)
        keys = np.rint((1 - queries[rows] @ gallery.T) * _COSINE_STEPS).astype(np.int32)  # [rows, n]
        own = None if excluded is None else excluded[rows]
        tied = _group_ties(np.maximum(keys, 0), gallery_classes == query_classes[rows, None], own)
        nowhere = np.zeros((len(keys), 0), np.int64)
        parts.append(_measure(*tied, nowhere, nowhere, harmonic, ks))
    everything = _PerQuery.join(parts)
    _check_relevant(everything, excluded)
    return _ranking_means(everything, ks)


def unit_vectors(vectors: npt.NDArray[_Real]) -> npt.NDArray[_Real]:
    """Vectors of real numbers [..., d] at length 1, those of length 0 as they are."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: npt.NDArray[_Real] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    return unit


def class_scores(labels: npt.ArrayLike, average_precision: npt.ArrayLike) -> tuple[ClassScore, ...]:
    """Each class's mean average precision, the worst class first, equal ones by label.

    labels: [q], the queries' labels. average_precision: float [q], RetrievalMetrics.average_precision, with NaN for
    queries that are left out; a class of such queries alone has no score.
    """
    values = np.asarray(average_precision, np.float64)
    names, classes = np.unique(_labels("query", labels, len(values)), return_inverse=True)
    kept = ~np.isnan(values)
    counts = np.bincount(classes[kept], minlength=len(names))
    sums = np.bincount(classes[kept], values[kept], minlength=len(names))
    means = sums / np.maximum(counts, 1)
    order = np.lexsort((np.arange(len(names)), means))
    return tuple(ClassScore(names[i].item(), int(counts[i]), float(means[i])) for i in order if counts[i])


def chance_average_precision(relevant: int, items: int) -> float:
    """The expected average precision of a random order of `items` items, `relevant` (>= 1) of which are relevant.

    Exact. An item of rank k is relevant with probability R / N, and then the k - 1 before it hold
    (k - 1)(R - 1) / (N - 1) others in the mean: (H_N + (R - 1)(N - H_N) / (N - 1)) / N, with H_N the harmonic number.
    """
    if not 1 <= relevant <= items:
        raise UsageError(f"{relevant} relevant of {items} items: there must be at least one, and not more than all")
    return float(_chance(np.array([relevant]), np.array([items]), _harmonic(items))[0])


@dataclass(frozen=True)
class _PerQuery:
    """Each query's values; meaningless where `relevant` is 0."""

    relevant: _Ints  # [q]
    average_precision: _Floats  # [q]
    optimistic: _Floats  # [q]
    pessimistic: _Floats  # [q]
    chance: _Floats  # [q]
    map_at: _Floats  # [q, ks]
    precision_at: _Floats  # [q, ks]
    near: _Ints  # [q, bits + 1]: items within each radius
    near_relevant: _Ints  # [q, bits + 1]

    @classmethod
    def join(cls, parts: "Sequence[_PerQuery]") -> "_PerQuery":
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


@dataclass(frozen=True, eq=False)
class _Gallery:
    """What is searched. codes, classes: [n]. by_class: the codes class by class, where class c has those from
    first_of_class[c] on, per_class[c] of them; a class that only queries have is none of these. harmonic: H_0..H_n.
    """

    codes: npt.NDArray[np.uint64]
    classes: _Ints
    by_class: npt.NDArray[np.uint64]
    first_of_class: _Ints
    per_class: _Ints
    harmonic: _Floats

    @classmethod
    def of(cls, codes: npt.NDArray[np.uint64], classes: _Ints, class_count: int) -> "_Gallery":
        by_class = codes[np.argsort(classes, kind="stable")]
        per_class = np.bincount(classes, minlength=class_count).astype(np.int64)
        return cls(codes, classes, by_class, np.cumsum(per_class) - per_class, per_class, _harmonic(len(codes)))


def _rankings(
    queries: npt.NDArray[np.uint64],
    query_classes: _Ints,
    gallery: _Gallery,
    bits: int,
    ks: Sequence[int],
    excluded: _Ints | None,
    keys_of: _KeysOf | None,
    progress: Callable[[int], None] | None,
) -> "Iterator[_PerQuery]":
    """The values of all queries, some at a time."""
    for start in range(0, len(queries), _QUERIES):
        rows = slice(start, start + _QUERIES)
        codes, classes = queries[rows], query_classes[rows]
        own = None if excluded is None else excluded[rows]
        items = np.zeros((len(codes), bits + 1), np.int64)
        for count in _count_all(codes, gallery.codes, items):
            if progress is not None:
                progress(count)
        relevant = np.zeros_like(items)
        of_class = gallery.first_of_class[classes], gallery.per_class[classes]
        _count_relevant(codes, gallery.by_class, *of_class, relevant)
        if own is not None:
            _leave_out_self(codes, classes, gallery, own, items, relevant)
        if keys_of is None:
            yield _measure(items, relevant, items, relevant, gallery.harmonic, ks)
            continue
        height = max(1, _BLOCK // len(gallery.codes))
        for top in range(0, len(codes), height):
            piece = slice(top, min(top + height, len(codes)))
            keys = keys_of(slice(start + piece.start, start + piece.stop))
            own_rows = None if own is None else own[piece]
            tied = _group_ties(keys, gallery.classes == classes[piece, None], own_rows)
            yield _measure(*tied, items[piece], relevant[piece], gallery.harmonic, ks)


def _check_relevant(each: "_PerQuery", excluded: _Ints | None) -> None:
    if not (each.relevant > 0).any():
        raise MismatchError(
            f"none of the {len(each.relevant)} queries has anything relevant in the gallery: the two share no label"
            + (" once a query itself is left out" if excluded is not None else "")
        )


def _ranking_means(each: "_PerQuery", ks: Sequence[int]) -> RankingMetrics:
    """The means over the queries that have anything relevant, of which there is one at least."""
    kept = each.relevant > 0
    average_precision = each.average_precision
    average_precision[~kept] = np.nan

    def mean(values: _Floats) -> float:
        return float(values[kept].mean())

    return RankingMetrics(
        map=mean(average_precision),
        map_optimistic=mean(each.optimistic),
        map_pessimistic=mean(each.pessimistic),
        map_at={k: mean(each.map_at[:, i]) for i, k in enumerate(ks)},
        precision_at={k: mean(each.precision_at[:, i]) for i, k in enumerate(ks)},
        queries=int(kept.sum()),
        skipped_queries=int((~kept).sum()),
        chance=mean(each.chance),
        average_precision=average_precision,
    )


def _means(each: "_PerQuery", ks: Sequence[int], radii: Sequence[int]) -> RetrievalMetrics:
    """The same, and those at radii."""
    kept = each.relevant > 0
    near, near_relevant = each.near[kept], each.near_relevant[kept]
    recall = (near_relevant / each.relevant[kept, None]).mean(axis=0)
    precision = (near_relevant / np.maximum(near, 1)).mean(axis=0)
    pooled = near_relevant.sum(axis=0) / np.maximum(near.sum(axis=0), 1)
    return RetrievalMetrics(
        **vars(_ranking_means(each, ks)),
        recall_at_radius={r: float(recall[r]) for r in radii},
        precision_at_radius={r: float(precision[r]) for r in radii},
        curve=RadiusCurve(*(tuple(c.tolist()) for c in (recall, precision, pooled, near.mean(axis=0)))),
    )


def _measure(
    items: _Ints,
    relevant: _Ints,
    items_at: _Ints,
    relevant_at: _Ints,
    harmonic: _Floats,
    ks: Sequence[int],
) -> _PerQuery:
    """items, relevant: int64 [q, groups], the counts in each group of ties, in the order of the ranking; groups may be
    empty. items_at, relevant_at: int64 [q, bits + 1], those at each distance. harmonic: float64 [at least items + 1].
    """
    items_to = np.cumsum(items, axis=1)  # up to and with this distance
    relevant_to = np.cumsum(relevant, axis=1)
    before = items_to - items  # N0
    relevant_before = relevant_to - relevant  # P0
    total, found = items_to[:, -1], relevant_to[:, -1]
    each = np.maximum(found, 1)[:, None]  # keeps queries without anything relevant, which are dropped later, finite

    # Each rank of a group of n items, p of them relevant, holds a relevant one with probability p / n, and then its
    # precision is (P0 + 1 + (j - 1)(p - 1)/(n - 1)) / (N0 + j) in the mean, for the group's j-th rank. With H the
    # harmonic numbers, the sum of 1 / (N0 + j) over the first m ranks is H(N0 + m) - H(N0), and that of
    # (j - 1) / (N0 + j) is m - (N0 + 1)(H(N0 + m) - H(N0)): the mean over tie orders needs no loop over the ties.
    share = relevant / np.maximum(items, 1)
    slope = (relevant - 1) / np.maximum(items - 1, 1)

    def sum_of(ranks: _Ints) -> _Floats:
        """The mean sum of precisions at relevant items over each group's first ranks, at most all: [q, groups]."""
        span = harmonic[before + ranks] - harmonic[before]
        result: _Floats = share * ((relevant_before + 1) * span + slope * (ranks - (before + 1) * span))
        return result

    expected = sum_of(items)
    # Relevant ones first: the sum over j = 1..p of (P0 + j) / (N0 + j). Last: of (P0 + j) / (N0 + n - p + j).
    first = relevant + (relevant_before - before) * (harmonic[before + relevant] - harmonic[before])
    others = before + items - relevant
    last = relevant + (relevant_before - others) * (harmonic[items_to] - harmonic[others])

    # The differences above cancel: an absolute error of up to 1e-11 in a gallery of 1e6 items, an ulp in a small one.
    average_precision = np.minimum((expected / each).sum(axis=1), 1)
    optimistic = np.clip((first / each).sum(axis=1), average_precision, 1)
    pessimistic = np.minimum((last / each).sum(axis=1), average_precision)

    map_at, precision_at = np.empty((2, len(items), len(ks)))
    for i, k in enumerate(ks):
        # Of the group that rank k falls into, the first k - N0 ranks count: a hypergeometric mean of p / n each.
        drawn = np.clip(k - before, 0, items)
        precision_at[:, i] = (drawn * share).sum(axis=1) / k
        map_at[:, i] = np.minimum((sum_of(drawn) / np.minimum(each, k)).sum(axis=1), 1)
    return _PerQuery(
        relevant=found,
        average_precision=average_precision,
        optimistic=optimistic,
        pessimistic=pessimistic,
        chance=_chance(each[:, 0], np.maximum(total, 1), harmonic),
        map_at=map_at,
        precision_at=precision_at,
        near=np.cumsum(items_at, axis=1),
        near_relevant=np.cumsum(relevant_at, axis=1),
    )


def _chance(relevant: _Ints, items: _Ints, harmonic: _Floats) -> _Floats:
    sums = harmonic[items]
    result: _Floats = (sums + (relevant - 1) * (items - sums) / np.maximum(items - 1, 1)) / items
    return result


def _harmonic(items: int) -> _Floats:
    """Harmonic numbers H_0..H_items."""
    result = np.zeros(items + 1)
    np.cumsum(1 / np.arange(1, items + 1, dtype=np.longdouble), out=result[1:], dtype=np.longdouble)
    return result


def _count_all(queries: npt.NDArray[np.uint64], gallery: npt.NDArray[np.uint64], counts: _Ints) -> Iterator[int]:
    """Add to counts int64 [q, bits + 1] the gallery items at each distance. Yields how many queries were done."""
    width = counts.shape[1]
    columns = min(len(gallery), _BLOCK)
    height = max(1, _BLOCK // columns)
    for top in range(0, len(queries), height):
        rows = queries[top : top + height, None]
        # A row's own range of bins makes one bincount of many histograms.
        bins = np.arange(len(rows))[:, None] * width
        for left in range(0, len(gallery), columns):
            distances = np.bitwise_count(rows ^ gallery[left : left + columns])  # uint8 [rows, columns]
            counts[top : top + height] += np.bincount((distances + bins).ravel(), minlength=len(rows) * width).reshape(
                -1, width
            )
        yield len(rows)


def _count_relevant(
    queries: npt.NDArray[np.uint64], gallery: npt.NDArray[np.uint64], first: _Ints, count: _Ints, counts: _Ints
) -> None:
    """Add to counts int64 [q, bits + 1] the distances of query i to its relevant items.

    Those are gallery[first[i] : first[i] + count[i]]; first, count: [q].
    """
    width = counts.shape[1]
    ends = np.cumsum(count)
    starts = ends - count
    # All (query, relevant item) pairs lie on one line, of which a piece is taken at a time: one query may have
    # millions and the next none.
    for low in range(0, int(ends[-1]), _BLOCK):
        high = min(low + _BLOCK, int(ends[-1]))
        top, bottom = (int(i) for i in np.searchsorted(ends, [low, high - 1], side="right"))
        here = slice(top, bottom + 1)
        lengths = np.minimum(ends[here], high) - np.maximum(starts[here], low)
        row = np.repeat(np.arange(top, bottom + 1), lengths)
        item = np.arange(low, high) - starts[row] + first[row]
        distances = np.bitwise_count(queries[row] ^ gallery[item])
        pairs = np.bincount((row - top) * width + distances, minlength=(bottom + 1 - top) * width)
        counts[here] += pairs.reshape(-1, width)


def _keys_by_bits(
    queries: npt.NDArray[np.uint64], gallery: npt.NDArray[np.uint64], bit_keys: npt.NDArray[np.int32]
) -> _KeysOf:
    """The sums of a query's bit keys [q, bits] over the bits in which each item differs from it."""
    # A byte of a code indexes a table of the sums over the bits in which it differs from the query's.
    columns = [(gallery >> np.uint64(8 * i)).astype(np.uint8) for i in range((bit_keys.shape[1] + 7) // 8)]
    padded = np.zeros((len(queries), 8 * len(columns)), np.int32)
    padded[:, : bit_keys.shape[1]] = bit_keys
    values = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(np.int32)

    def keys_of(rows: slice) -> npt.NDArray[np.int32]:
        keys = np.zeros((len(queries[rows]), len(gallery)), np.int32)
        for i, column in enumerate(columns):
            sums = padded[rows, 8 * i : 8 * i + 8] @ values.T  # int32 [rows, 256]
            own = (queries[rows] >> np.uint64(8 * i)).astype(np.uint8)
            keys += np.take_along_axis(sums, column[None] ^ own[:, None], axis=1)
        return keys

    return keys_of


def _keys_by_margins(
    queries: npt.NDArray[np.uint64],
    gallery: npt.NDArray[np.uint64],
    query_margins: npt.NDArray[np.float32],
    gallery_margins: npt.NDArray[np.float32],
) -> _KeysOf:
    """Distances, and below them the squared distances of margins."""
    squared = (gallery_margins**2).sum(axis=1)

    def keys_of(rows: slice) -> npt.NDArray[np.int32]:
        own = query_margins[rows]
        # Exact: every product and sum is an integer below 2^24.
        squares = (own**2).sum(axis=1)[:, None] + squared - 2 * (own @ gallery_margins.T)
        distances = np.bitwise_count(queries[rows, None] ^ gallery).astype(np.int32)
        keys: npt.NDArray[np.int32] = distances << _SQUARE_BITS | squares.astype(np.int32)
        return keys

    return keys_of


def _group_ties(
    keys: npt.NDArray[np.int32], is_relevant: npt.NDArray[np.bool_], excluded: _Ints | None
) -> tuple[_Ints, _Ints]:
    """How many items and relevant ones have each key, in the order of keys, 0 <= key < 2^30: int64 [queries, groups].

    Keys that no relevant item has are one group with those beside them, which changes no figure: with few ties and few
    relevant items, there are far fewer groups than items. Some groups are empty.

    keys, is_relevant: [queries, n].
    """
    # The lowest bit says whether an item is relevant: one sort puts ties together, the relevant ones last.
    tagged = keys << 1 | is_relevant
    if excluded is not None:
        who = np.flatnonzero(excluded >= 0)
        tagged[who, excluded[who]] = np.iinfo(np.int32).max  # behind all
    tagged.sort(axis=1)
    row, place = np.nonzero((tagged & 1 == 1) & (tagged != np.iinfo(np.int32).max))
    value = tagged[row, place]
    last = np.ones(len(row), np.bool_)
    last[:-1] = (row[1:] != row[:-1]) | (value[1:] != value[:-1])
    row, end, value = row[last], place[last] + 1, value[last]
    per_row = np.bincount(row, minlength=len(tagged))
    parts = np.split(value - 1, np.cumsum(per_row)[:-1])
    start = np.concatenate([np.searchsorted(of_query, part) for of_query, part in zip(tagged, parts, strict=True)])
    number = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    # What lies between two groups that have relevant items, then the second of these; and what lies behind all.
    items = np.zeros((len(tagged), 2 * int(per_row.max(initial=0)) + 1), np.int64)
    relevant = np.zeros_like(items)
    relevant[row, 2 * number + 1] = np.diff(np.flatnonzero(last), prepend=-1)
    items[row, 2 * number] = start - np.where(number > 0, np.roll(end, 1), 0)
    items[row, 2 * number + 1] = end - start
    items[:, -1] = (tagged != np.iinfo(np.int32).max).sum(axis=1) - items.sum(axis=1)
    return items, relevant


def _leave_out_self(
    queries: npt.NDArray[np.uint64],
    classes: _Ints,
    gallery: _Gallery,
    excluded: _Ints,
    items: _Ints,
    relevant: _Ints,
) -> None:
    rows = np.flatnonzero(excluded >= 0)
    own = excluded[rows]
    # A query's code and its code in the gallery may differ (label-supervised gallery codes), and so may the labels.
    distances = np.bitwise_count(queries[rows] ^ gallery.codes[own])
    items[rows, distances] -= 1
    relevant[rows, distances] -= classes[rows] == gallery.classes[own]


def _classes(
    query_labels: npt.ArrayLike, gallery_labels: npt.ArrayLike, queries: int, gallery: int
) -> tuple[_Ints, _Ints]:
    """Labels as class numbers 0.. shared by both sides, int64 [q] and [n]."""
    q, g = _labels("query", query_labels, queries), _labels("gallery", gallery_labels, gallery)
    if (q.dtype.kind == "U") != (g.dtype.kind == "U"):
        raise MismatchError(
            f"query labels are {q.dtype} and gallery labels {g.dtype}: give both as integers or both as strings"
        )
    if {q.dtype, g.dtype} == {np.dtype(np.uint64), np.dtype(np.int64)}:  # numpy would compare these as floats
        q, g = q.astype(object), g.astype(object)
    numbers = np.unique(np.concatenate([q, g]), return_inverse=True)[1].astype(np.int64)
    return numbers[:queries], numbers[queries:]


def _labels(side: str, labels: npt.ArrayLike, count: int) -> npt.NDArray[Any]:
    array = np.asarray(labels)
    if array.dtype == object and array.size and all(isinstance(label, str) for label in array.flat):
        array = array.astype(np.str_)
    if array.ndim != 1 or array.dtype.kind not in "iuU":
        raise UsageError(f"{side} labels are {array.dtype} {list(array.shape)}: give integers or strings, one an item")
    if len(array) != count:
        raise MismatchError(f"{len(array)} {side} labels for {count} {side} codes: give one label a code")
    if array.dtype.kind == "u" and array.dtype != np.uint64:
        array = array.astype(np.int64)
    elif array.dtype.kind == "i":
        array = array.astype(np.int64, copy=False)
    return array


def _unit(side: str, vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Vectors of length 1, or 0, float32 [n, d]."""
    array = np.asarray(vectors)
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not len(array) or not np.isfinite(array).all():
        raise UsageError(f"{side} vectors are {array.dtype} {list(array.shape)}: give finite numbers [n, d], n >= 1")
    return unit_vectors(array.astype(np.float64)).astype(np.float32)


def _excluded(exclude_self: npt.ArrayLike | None, queries: int, gallery: int) -> _Ints | None:
    if exclude_self is None:
        return None
    array = np.asarray(exclude_self)
    if array.dtype.kind not in "iu" or array.shape != (queries,):
        raise UsageError(
            f"exclude_self is {array.dtype} {list(array.shape)}: "
            f"give the gallery row of each of the {queries} queries, -1 for none"
        )
    array = array.astype(np.int64)
    if array.min() < -1 or array.max() >= gallery:
        raise UsageError(
            f"exclude_self holds {array.min()}..{array.max()}: the gallery's rows are 0..{gallery - 1}, and -1 is none"
        )
    return array


def _bit_keys(bit_keys: npt.ArrayLike, queries: int, bits: int) -> npt.NDArray[np.int32]:
    array = np.asarray(bit_keys)
    if array.dtype.kind not in "iu" or array.shape != (queries, bits):
        raise UsageError(f"bit_keys are {array.dtype} {list(array.shape)}: give integers [{queries}, {bits}]")
    if array.min() < 0 or int(array.max()) >= 1 << 29 or int(array.sum(axis=1, dtype=np.int64).max()) >= 1 << 29:
        raise UsageError("bit_keys are negative or too large: each row is of integers >= 0 with a sum below 2^29")
    return array.astype(np.int32)


def _margins(margins: npt.ArrayLike, items: int, bits: int) -> npt.NDArray[np.float32]:
    array = np.asarray(margins)
    if array.dtype != np.int8 or array.shape != (items, bits):
        raise UsageError(f"margins are {array.dtype} {list(array.shape)}: give int8 [{items}, {bits}]")
    return array.astype(np.float32)


def _integers(name: str, values: Sequence[int], low: int, high: int | None) -> tuple[int, ...]:
    asked = f"give whole numbers {f'of at least {low}' if high is None else f'from {low} to {high}'}"
    for value in values:
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < low or (high is not None and value > high):
            raise UsageError(f"{name} holds {value!r}: {asked}")
    return tuple(dict.fromkeys(int(value) for value in values))
