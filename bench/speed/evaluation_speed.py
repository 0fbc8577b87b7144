"""How fast codes are evaluated, at the size of NABirds, beside a loop over the queries that sorts the gallery for each.

The loop is how published code for hashing does it (this method's too): per query a product of one-hot labels, a product
of codes, an argsort of the distances, and one average precision out of whatever order the ties came in. It is timed on
a sample of the queries, which all cost the same.
"""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.machine import Head, Report, load_average, take_head
from queryopt.bench.speed.harness import Contender, Schedule, Timing, run_rounds
from queryopt.bench.tables import figures_table
from queryopt.bit_quality import bit_quality, drop_losses
from queryopt.codes import check_bits, pack_codes, unpack_codes
from queryopt.errors import UsageError
from queryopt.metrics import class_scores, retrieval_metrics
from queryopt.progress import Advance, no_advance

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["WAYS", "CodeSet", "EvaluationSize", "make_code_sets", "measure_evaluation", "one_by_one"]

_Floats = npt.NDArray[np.float64]

WAYS = {
    "deployed": "all metrics, one protocol",
    "paper": "all metrics, the other",
    "bits": "each bit's quality, and the loss without it ({drop_queries:,} queries)",
    "loop": "loop over {sample:,} queries, as published",
    "lean_loop": "loop over {sample:,} queries, labels as integers",
}
"""What is timed. lean_loop compares labels as integers, which spares it the product of one-hot labels."""
_SUMMARY = (
    "everything: {everything:.1f} s (median). The loop would take {loop:.0f} s for the mAP of one protocol: "
    "{ratio:.0f} x as long as all metrics of it here, {cpu_ratio:.0f} x the CPU time\n"
    "(with labels as integers {lean_ratio:.0f} x and {lean_cpu_ratio:.0f} x).\n"
    "mAP of the sample: {map:.4f}, and {map_pessimistic:.4f} to {map_optimistic:.4f} by the order of ties; the loop's "
    "order gave {loop_map:.4f}."
)
_OWN = ("deployed", "paper", "bits")
"""Both protocols with all metrics, and the bits' quality: everything that qo-eval does."""

_FLIP = 0.15
"""Share of a class's bits that a picture's code has otherwise."""
_KS = (1, 10, 100, 1000)
_DROP_QUERIES = 2000


@dataclass(frozen=True)
class EvaluationSize:
    """What is evaluated; by default as much as NABirds has. sample: queries that the loops do."""

    queries: int = 24_633
    gallery: int = 23_929
    bits: int = 48
    classes: int = 555
    sample: int = 200


@dataclass(frozen=True, eq=False)
class CodeSet:
    """Made codes. codes: uint8 [n, ceil(bits / 8)]; labels: int64 [n]."""

    codes: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


def make_code_sets(size: EvaluationSize, seed: int = 0) -> tuple[CodeSet, CodeSet, CodeSet]:
    """(queries, gallery, solved gallery): a random code a class, the solved gallery's; in the others 15 % of the bits
    are flipped. Every class has its share of both sides.
    """
    bits, classes = check_bits(size.bits), size.classes
    if not 2 <= classes <= min(size.queries, size.gallery):
        raise UsageError(
            f"{classes} classes of {size.queries} queries and {size.gallery} gallery items: 2 to as many as there are"
        )
    rng = np.random.default_rng(seed)
    centres = rng.random((classes, bits)) < 0.5

    def make(count: int, flip: float) -> CodeSet:
        labels = rng.permutation(np.arange(count) % classes)
        return CodeSet(pack_codes(centres[labels] ^ (rng.random((count, bits)) < flip)), labels)

    queries, network = make(size.queries, _FLIP), make(size.gallery, _FLIP)
    return queries, network, CodeSet(pack_codes(centres[network.labels]), network.labels)


def one_by_one(queries: CodeSet, gallery: CodeSet, bits: int, classes: int, *, one_hot: bool = True) -> _Floats:
    """Each query's average precision, float64 [queries], with ties as argsort leaves them: the published way.

    one_hot: find what is relevant by a product of one-hot labels (which serves pictures of several classes too), not
    by comparing integers.
    """
    signs, gallery_signs = (unpack_codes(side.codes, bits).astype(np.float32) * 2 - 1 for side in (queries, gallery))
    labels = np.eye(classes, dtype=np.float32)
    query_labels, gallery_labels = labels[queries.labels], labels[gallery.labels]  # [n, classes]
    result = np.zeros(len(signs))
    for row in range(len(signs)):
        if one_hot:
            relevant = query_labels[row] @ gallery_labels.T > 0
        else:
            relevant = gallery.labels == queries.labels[row]
        distances = 0.5 * (bits - signs[row] @ gallery_signs.T)
        ranks = np.flatnonzero(relevant[np.argsort(distances)]) + 1
        result[row] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return result


def measure_evaluation(size: EvaluationSize, *, rounds: int = 3, progress: Advance = no_advance) -> Report:
    """Time all WAYS in turn, `rounds` times. progress: called with 1 a round."""
    if not 1 <= size.sample <= size.queries:
        raise UsageError(f"a sample of {size.sample} of {size.queries} queries: 1 to all of them")
    bits, classes = size.bits, size.classes
    every, network, solved = make_code_sets(size)
    some = CodeSet(every.codes[: size.sample], every.labels[: size.sample])
    works = {
        "deployed": lambda _: _evaluate(every, network, bits),
        "paper": lambda _: _evaluate(every, solved, bits),
        "bits": lambda _: _look_at_bits(every, network, bits),
        "loop": lambda _: one_by_one(some, network, bits, classes),
        "lean_loop": lambda _: one_by_one(some, network, bits, classes, one_hot=False),
    }
    before = load_average()
    timings = run_rounds(
        [Contender(way, work) for way, work in works.items()], Schedule(rounds), beside=lambda: progress(1)
    )
    head, by_way = take_head(before), dict(zip(works, timings, strict=True))
    # Not timed: that both measure the same thing; the loop with one order of the ties.
    whole = retrieval_metrics(some.codes, network.codes, bits, some.labels, network.labels, radii=())
    values = {
        **asdict(size),
        "drop_queries": min(size.queries, _DROP_QUERIES),
        "map": whole.map,
        "map_pessimistic": whole.map_pessimistic,
        "map_optimistic": whole.map_optimistic,
        "loop_map": float(one_by_one(some, network, bits, classes).mean()),
        **_medians(size, by_way),
    }
    return Report(head, values, list(_parts(head, values)))


def _medians(size: EvaluationSize, timings: dict[str, Timing]) -> dict[str, Any]:
    """Of the rounds: what the loop would take for all queries, and how many times as long that is as one protocol with
    all metrics.
    """
    rounds = [
        dict(zip(timings, one, strict=True))
        for one in zip(*(timing.rounds for timing in timings.values()), strict=True)
    ]
    deployed, whole = timings["deployed"], size.queries / size.sample
    ratio, lean = (deployed.ratio_by_round(timings[way]) for way in ("loop", "lean_loop"))
    return {
        "rounds": [{way: asdict(taken) for way, taken in one.items()} for one in rounds],
        "everything": statistics.median(sum(one[way].wall for way in _OWN) for one in rounds),
        "deployed": deployed.median.wall,
        "loop": timings["loop"].median.wall * whole,
        "ratio": ratio.wall * whole,
        "lean_ratio": lean.wall * whole,
        "cpu_ratio": ratio.cpu * whole,
        "lean_cpu_ratio": lean.cpu * whole,
    }


def _parts(head: Head, values: dict[str, Any]) -> "Iterator[RenderableType]":
    sizes = "{queries:,} queries, {gallery:,} gallery items, {bits} bits, {classes:,} classes\n"
    yield sizes.format_map(values) + head.text
    rounds = values["rounds"]
    table = figures_table(None, "seconds (CPU seconds)", *(f"round {number + 1}" for number in range(len(rounds))))
    for way, name in WAYS.items():
        table.add_row(name.format_map(values), *("{wall:.2f} ({cpu:.2f})".format_map(one[way]) for one in rounds))
    yield table
    yield _SUMMARY.format_map(values)


def _evaluate(queries: CodeSet, gallery: CodeSet, bits: int) -> object:
    metrics = retrieval_metrics(
        queries.codes, gallery.codes, bits, queries.labels, gallery.labels, ks=_KS, radii=range(bits + 1)
    )
    return metrics, class_scores(queries.labels, metrics.average_precision)


def _look_at_bits(queries: CodeSet, gallery: CodeSet, bits: int) -> object:
    return bit_quality(gallery.codes, bits), drop_losses(
        queries.codes, gallery.codes, bits, queries.labels, gallery.labels, most_queries=_DROP_QUERIES
    )
