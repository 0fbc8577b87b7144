"""How fast codes are evaluated, at the size of NABirds, beside a loop over the queries that sorts the gallery for each.

The loop is how published code for hashing does it (this method's too): per query a product of one-hot labels, a product
of codes, an argsort of the distances, and one average precision out of whatever order the ties came in. It is timed on
a sample of the queries, which all cost the same.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.machine import describe_machine, load_average
from queryopt.bench.speed.timing import Timing, timed
from queryopt.codes import check_bits, pack_codes, unpack_codes
from queryopt.errors import UsageError
from queryopt.metrics import class_scores, retrieval_metrics
from queryopt.train.bit_quality import bit_quality, drop_losses

__all__ = ["CodeSet", "EvaluationSpeed", "SpeedRound", "make_code_sets", "measure_evaluation", "one_by_one"]

_Floats = npt.NDArray[np.float64]

_FLIP = 0.15
"""Share of a class's bits that a picture's code has otherwise."""
_KS = (1, 10, 100, 1000)


@dataclass(frozen=True, eq=False)
class CodeSet:
    """Made codes. codes: uint8 [n, ceil(bits / 8)]; labels: int64 [n]."""

    codes: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class SpeedRound:
    """One round. deployed, paper: all metrics of all queries, against either gallery. bits: every bit's
    quality and what is lost without it. loop: the published way for the sample; lean_loop: with labels compared as
    integers, which spares it the product of one-hot labels.
    """

    deployed: Timing
    paper: Timing
    bits: Timing
    loop: Timing
    lean_loop: Timing


@dataclass(frozen=True)
class EvaluationSpeed:
    """A measurement. sample: queries that the loops did. drop_queries: those that bits' losses were measured over.

    map, map_pessimistic, map_optimistic: of the sample's queries, against the network codes, by `retrieval_metrics`.
    loop_map: the same by the loop, with one order of the ties.
    """

    queries: int
    gallery: int
    bits: int
    classes: int
    sample: int
    drop_queries: int
    map: float
    map_pessimistic: float
    map_optimistic: float
    loop_map: float
    rounds: tuple[SpeedRound, ...]
    machine: str
    load: tuple[float, float] | None

    @property
    def everything(self) -> float:
        """Seconds of both protocols with all metrics and of the bits' quality, the median."""
        return statistics.median(r.deployed.wall + r.paper.wall + r.bits.wall for r in self.rounds)

    @property
    def deployed(self) -> float:
        """Seconds of one protocol with all metrics, the median."""
        return statistics.median(r.deployed.wall for r in self.rounds)

    @property
    def loop(self) -> float:
        """Seconds that the loop would take for all queries, the median."""
        return statistics.median(r.loop.wall for r in self.rounds) * self.queries / self.sample

    @property
    def ratio(self) -> float:
        """How many times as long the loop takes as one protocol with all metrics: the median of the rounds' own."""
        return statistics.median(r.loop.wall / r.deployed.wall for r in self.rounds) * self.queries / self.sample

    @property
    def lean_ratio(self) -> float:
        """The same of the lean loop."""
        return statistics.median(r.lean_loop.wall / r.deployed.wall for r in self.rounds) * self.queries / self.sample

    @property
    def cpu_ratio(self) -> float:
        """The ratio, of CPU seconds."""
        return statistics.median(r.loop.cpu / r.deployed.cpu for r in self.rounds) * self.queries / self.sample

    @property
    def lean_cpu_ratio(self) -> float:
        """The same of the lean loop."""
        return statistics.median(r.lean_loop.cpu / r.deployed.cpu for r in self.rounds) * self.queries / self.sample

    def to_dict(self) -> dict[str, Any]:
        """All fields and the medians, ready for JSON."""
        names = ("everything", "deployed", "loop", "ratio", "lean_ratio", "cpu_ratio", "lean_cpu_ratio")
        return asdict(self) | {name: getattr(self, name) for name in names}


def make_code_sets(queries: int, gallery: int, bits: int, classes: int, seed: int) -> tuple[CodeSet, CodeSet, CodeSet]:
    """(queries, gallery, solved gallery): a random code a class, the solved gallery's; in the others 15 % of the bits
    are flipped. Every class has its share of both sides.
    """
    bits = check_bits(bits)
    if not 2 <= classes <= min(queries, gallery):
        raise UsageError(
            f"{classes} classes of {queries} queries and {gallery} gallery items: 2 to as many as there are"
        )
    rng = np.random.default_rng(seed)
    centres = rng.random((classes, bits)) < 0.5

    def make(count: int, flip: float) -> CodeSet:
        labels = rng.permutation(np.arange(count) % classes)
        return CodeSet(pack_codes(centres[labels] ^ (rng.random((count, bits)) < flip)), labels)

    asked, found = make(queries, _FLIP), make(gallery, _FLIP)
    return asked, found, CodeSet(pack_codes(centres[found.labels]), found.labels)


def one_by_one(queries: CodeSet, gallery: CodeSet, bits: int, classes: int, *, one_hot: bool = True) -> _Floats:
    """Each query's average precision, float64 [queries], with ties as argsort leaves them: the published way.

    one_hot: find what is relevant by a product of one-hot labels (which serves pictures of several classes too), not
    by comparing integers.
    """
    asked, there = (unpack_codes(side.codes, bits).astype(np.float32) * 2 - 1 for side in (queries, gallery))
    labels = np.eye(classes, dtype=np.float32)
    asked_labels, labels_there = labels[queries.labels], labels[gallery.labels]  # [n, classes]
    result = np.zeros(len(asked))
    for row in range(len(asked)):
        if one_hot:
            relevant = asked_labels[row] @ labels_there.T > 0
        else:
            relevant = gallery.labels == queries.labels[row]
        distances = 0.5 * (bits - asked[row] @ there.T)
        ranks = np.flatnonzero(relevant[np.argsort(distances)]) + 1
        result[row] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return result


def measure_evaluation(
    *,
    queries: int = 24_633,
    gallery: int = 23_929,
    bits: int = 48,
    classes: int = 555,
    sample: int = 200,
    rounds: int = 3,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> EvaluationSpeed:
    """Time both ways in turn, `rounds` times. The default size is that of NABirds. progress: called with 1 a round."""
    if not 1 <= sample <= queries:
        raise UsageError(f"a sample of {sample} of {queries} queries: 1 to all of them")
    asked, network, solved = make_code_sets(queries, gallery, bits, classes, seed)
    chosen = CodeSet(asked.codes[:sample], asked.labels[:sample])
    load = load_average()
    measured: list[SpeedRound] = []
    for _ in range(rounds):
        deployed = timed(lambda: _evaluate(asked, network, bits))
        loop = timed(lambda: one_by_one(chosen, network, bits, classes))
        paper = timed(lambda: _evaluate(asked, solved, bits))
        lean = timed(lambda: one_by_one(chosen, network, bits, classes, one_hot=False))
        each_bit = timed(lambda: _look_at_bits(asked, network, bits))
        measured.append(SpeedRound(deployed, paper, each_bit, loop, lean))
        if progress is not None:
            progress(1)
    # Not timed: that both measure the same thing.
    whole = retrieval_metrics(chosen.codes, network.codes, bits, chosen.labels, network.labels, radii=())
    after = load_average()
    return EvaluationSpeed(
        queries=queries,
        gallery=gallery,
        bits=bits,
        classes=classes,
        sample=sample,
        drop_queries=min(queries, 2000),
        map=whole.map,
        map_pessimistic=whole.map_pessimistic,
        map_optimistic=whole.map_optimistic,
        loop_map=float(one_by_one(chosen, network, bits, classes).mean()),
        rounds=tuple(measured),
        machine=describe_machine(),
        load=None if load is None or after is None else (load, after),
    )


def _evaluate(queries: CodeSet, gallery: CodeSet, bits: int) -> object:
    found = retrieval_metrics(
        queries.codes, gallery.codes, bits, queries.labels, gallery.labels, ks=_KS, radii=range(bits + 1)
    )
    return found, class_scores(queries.labels, found.average_precision)


def _look_at_bits(queries: CodeSet, gallery: CodeSet, bits: int) -> object:
    return bit_quality(gallery.codes, bits), drop_losses(
        queries.codes, gallery.codes, bits, queries.labels, gallery.labels, most_queries=2000
    )
