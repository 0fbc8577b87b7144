"""What was measured of rankings, of codes or of descriptors, as figures for tables and JSON."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from queryopt.bench.quality.descriptors import DESCRIPTORS, HISTOGRAM
from queryopt.bench.quality.labelled_codes import LabelledCodes, own_rows
from queryopt.bit_quality import LEAST_PICTURES
from queryopt.metrics import ClassScore, RankingMetrics, class_scores, vector_metrics

__all__ = ["Baseline", "Figure", "Part", "Ranking", "behind_colours", "measure_baselines"]

Part: TypeAlias = Literal["seen", "unseen"]
"""The classes that a run trained on, or those that it held out (`qo-train --open-set`): each has its own gallery."""


@dataclass(frozen=True)
class Figure:
    """One number of an evaluation.

    name: as a key. label: as a row of a table. inner: belongs to the row above it.
    """

    name: str
    label: str
    value: float | int
    inner: bool = False

    @property
    def text(self) -> str:
        return f"{self.value:,}" if isinstance(self.value, int) else f"{self.value:.4f}"


@dataclass(frozen=True, eq=False)
class Ranking:
    """What was measured, and over what.

    gallery: pictures in it.
    classes: classes of the gallery.
    own: queries that lie in the gallery themselves: each is left out of its own ranking.
    absent: classes that only queries have; these are left out and counted in metrics.skipped_queries.
    per_class: of each class that queries have, the worst first.
    part: which classes they are of.
    """

    metrics: RankingMetrics
    gallery: int
    classes: int
    own: int
    absent: tuple[str, ...]
    per_class: tuple[ClassScore, ...]
    part: Part

    @staticmethod
    def over(gallery: LabelledCodes, queries: LabelledCodes, metrics: RankingMetrics, own: int) -> dict[str, Any]:
        """The fields that say what was measured over. own: queries that lie in the gallery."""
        return {
            "gallery": len(gallery.labels),
            "classes": len(np.unique(gallery.labels)),
            "own": own,
            "absent": tuple(np.setdiff1d(queries.labels, gallery.labels).tolist()),
            "per_class": class_scores(queries.labels, metrics.average_precision),
        }

    def to_dict(self) -> dict[str, Any]:
        return (
            {"part": self.part}
            | self.metrics.to_dict()
            | {
                "gallery": self.gallery,
                "classes": self.classes,
                "queries_in_gallery": self.own,
                "classes_only_in_queries": list(self.absent),
                "per_class": [asdict(score) for score in self.per_class],
            }
        )

    def figures(self) -> list[Figure]:
        """Its numbers, in the order in which tables have them."""
        m = self.metrics
        return [
            Figure("map", "mAP, mean over orders of ties", m.map),
            Figure("map_pessimistic", "worst order", m.map_pessimistic, inner=True),
            Figure("map_optimistic", "best order", m.map_optimistic, inner=True),
            Figure("chance", "a random ranking", m.chance, inner=True),
            *(Figure(f"map_at_{k}", f"mAP at {k}", value) for k, value in m.map_at.items()),
            *(Figure(f"precision_at_{k}", f"precision at {k}", value) for k, value in m.precision_at.items()),
            *self._own_figures(),
            Figure("gallery", "gallery", self.gallery),
            Figure("classes", "classes in it", self.classes),
            Figure("queries", "queries", m.queries),
            Figure("queries_in_gallery", "in the gallery themselves", self.own, inner=True),
            Figure("skipped_queries", "left out, nothing relevant", m.skipped_queries, inner=True),
        ]

    def _own_figures(self) -> list[Figure]:
        return []


@dataclass(frozen=True, eq=False)
class Baseline(Ranking):
    """The same gallery, ranked for the same queries by the cosine of descriptors. name: of `DESCRIPTORS`."""

    name: str

    @property
    def title(self) -> str:
        return DESCRIPTORS[self.name]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name} | super().to_dict()


def measure_baselines(
    gallery: LabelledCodes, queries: LabelledCodes, ks: tuple[int, ...], part: Part
) -> tuple[Baseline, ...]:
    """A ranking by each of the descriptors that both have. Precision at 1 is always measured."""
    own = own_rows(gallery, queries)
    made = []
    for name in DESCRIPTORS:
        if name not in gallery.descriptors or name not in queries.descriptors:
            continue
        metrics = vector_metrics(
            queries.descriptors[name],
            gallery.descriptors[name],
            queries.labels,
            gallery.labels,
            ks=ks if 1 in ks else (1, *ks),
            exclude_self=own,
        )
        over = Ranking.over(gallery, queries, metrics, int((own >= 0).sum()))
        made.append(Baseline(metrics=metrics, part=part, name=name, **over))
    return tuple(made)


def behind_colours(codes: RankingMetrics, baselines: tuple[Baseline, ...]) -> str:
    """That codes find less than a histogram of colours, in a sentence; "" where they don't, or it is not known.

    baselines: over the same pictures. Nothing is said of few queries.
    """
    colours = next((one.metrics for one in baselines if one.name == HISTOGRAM and one.part == "seen"), None)
    if colours is None or codes.queries < LEAST_PICTURES:
        return ""
    pairs = {"mAP": (codes.map, colours.map)}
    if 1 in codes.precision_at:
        pairs["precision at 1"] = codes.precision_at[1], colours.precision_at[1]
    if all(own >= other for own, other in pairs.values()):
        return ""
    figures = ", ".join(f"{name} {own:.3f} against {other:.3f}" for name, (own, other) in pairs.items())
    less = "less than" if all(own < other for own, other in pairs.values()) else "in part less than"
    return (
        f"the codes find {less} a histogram of 512 colours, which needs no model and no training ({figures}): don't "
        "use them for these pictures; a trunk that knows pictures (qo-train --preset pictures), more bits or more "
        "training may do better"
    )
