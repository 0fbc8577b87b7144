"""How well models retrieve: labelled pictures hashed as in use, and ranked.

Codes come from the model on both sides: this measures what a user gets, not what a network scored in training. Beside
it, for a run, the paper's protocol: the queries' codes are the model's, but the gallery's are those that the run solved
from labels. `hash_pictures` makes the codes of either, `EvaluationCodes.evaluate` every figure of them; qo-eval,
qo-report and the studies of qo-bench all go this way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from queryopt.bench.quality.descriptors import Describer
from queryopt.bench.quality.labelled_codes import (
    LabelledCodes,
    SolvedGallery,
    describe_files,
    hash_labelled,
    index_codes,
    own_rows,
)
from queryopt.bench.quality.pictures import EvaluationPictures, check_shared
from queryopt.bench.quality.rankings import Baseline, Figure, Part, Ranking, behind_colours, measure_baselines
from queryopt.bit_quality import code_warnings
from queryopt.errors import MismatchError, UsageError
from queryopt.metrics import RetrievalMetrics, retrieval_metrics
from queryopt.progress import Progress
from queryopt.runtime.search import Rank, ranked
from queryopt.runtime.search.ranked import RANKS
from queryopt.text import counted, display_path
from queryopt.train.data import LabelledImages

if TYPE_CHECKING:
    from queryopt.runtime import Hasher, HashIndex

__all__ = [
    "PROTOCOLS",
    "Evaluation",
    "EvaluationCodes",
    "EvaluationOptions",
    "EvaluationReport",
    "Figure",
    "ModelEvaluation",
    "Part",
    "Protocol",
    "evaluate",
    "evaluate_model",
    "hash_pictures",
]

Protocol: TypeAlias = Literal["deployed", "paper"]
"""Where the gallery's codes come from: the model, or the labels of a run's training pictures."""

PROTOCOLS: tuple[Protocol, ...] = ("deployed", "paper")


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured. ks, radii: see retrieval_metrics. protocol, rank: one, or each of them side by side. baselines:
    whether pictures are ranked without codes, too; None: unless they are many.

    Codes without margins, as those that a run solved, are ranked by 'id' in place of 'margin'.
    """

    ks: tuple[int, ...] = (1, 10, 100)
    radii: tuple[int, ...] = (0, 1, 2)
    protocol: Protocol | Literal["both"] = "deployed"
    rank: Rank | Literal["all"] = "margin"
    baselines: bool | None = None

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        return PROTOCOLS if self.protocol == "both" else (self.protocol,)

    @property
    def ranks(self) -> tuple[Rank, ...]:
        return RANKS if self.rank == "all" else (self.rank,)


@dataclass(frozen=True, eq=False)
class Evaluation(Ranking):
    """A ranking by a model's codes. rank: what the gallery was ranked by; 'id' is the mean over all orders of what is
    equally far. protocol: where its codes come from."""

    metrics: RetrievalMetrics
    bits: int
    rank: Rank
    protocol: Protocol

    def to_dict(self) -> dict[str, Any]:
        return {"protocol": self.protocol, "rank": self.rank} | super().to_dict() | {"bits": self.bits}

    def _own_figures(self) -> list[Figure]:
        m = self.metrics
        within = {radius: f"within {counted(radius, 'bit', 'bits')}" for radius in m.recall_at_radius}
        at_radii = [
            figure
            for r, text in within.items()
            for figure in (
                Figure(f"recall_at_radius_{r}", f"recall {text}", m.recall_at_radius[r]),
                Figure(f"precision_at_radius_{r}", f"precision {text}", m.precision_at_radius[r]),
            )
        ]
        return [*at_radii, Figure("bits", "bits", self.bits)]


@dataclass(frozen=True, eq=False)
class EvaluationCodes:
    """The codes that an evaluation compares.

    galleries: by protocol; where there are both, they are of the same pictures.
    unseen: gallery and queries of the classes that a run held out, both of the model.
    """

    galleries: Mapping[Protocol, LabelledCodes]
    queries: LabelledCodes
    unseen: tuple[LabelledCodes, LabelledCodes] | None = None

    def failures(self) -> dict[bytes, str]:
        """Pictures that could not be read, with the reason."""
        parts = (*self.galleries.values(), self.queries, *(self.unseen or ()))
        return {path: reason for part in parts for path, reason in part.failures.items()}

    def baselines(self, ks: tuple[int, ...]) -> tuple[Baseline, ...]:
        """Rankings of the same pictures without codes, by the descriptors that were made."""
        described = [gallery for gallery in self.galleries.values() if gallery.descriptors]
        seen = measure_baselines(described[0], self.queries, ks, "seen") if described else ()
        return (*seen, *(measure_baselines(*self.unseen, ks, "unseen") if self.unseen else ()))

    def warnings(self, baselines: tuple[Baseline, ...], deployed: Evaluation) -> tuple[str, ...]:
        """What is wrong with the codes of the gallery, and whether they find less than colours do."""
        gallery = next(iter(self.galleries.values()))
        said = code_warnings(gallery.codes, gallery.bits, lambda: gallery.labels)
        behind = behind_colours(deployed.metrics, baselines)
        return (*said, behind) if behind else said

    def evaluate(self, options: EvaluationOptions) -> tuple[Evaluation, ...]:
        """The seen classes by every protocol and rank, then the unseen ones by every rank."""
        measure = partial(evaluate, ks=options.ks, radii=options.radii)

        def ranks_for(gallery: LabelledCodes) -> list[Rank]:
            ranks: list[Rank] = [
                "id" if rank == "margin" and gallery.margins is None else rank for rank in options.ranks
            ]
            return list(dict.fromkeys(ranks))

        seen = [
            measure(gallery, self.queries, rank=rank, protocol=protocol)
            for protocol, gallery in self.galleries.items()
            for rank in ranks_for(gallery)
        ]
        if self.unseen is None:
            return tuple(seen)
        gallery, queries = self.unseen
        return (*seen, *(measure(gallery, queries, rank=rank, part="unseen") for rank in ranks_for(gallery)))


@dataclass(frozen=True, eq=False)
class ModelEvaluation:
    """What came of a model.

    outer_iterations: after how many of its run it was exported, known with solved codes.
    baselines: the same rankings without codes.
    warnings: what is wrong with its codes, in sentences.
    """

    model: str
    fingerprint: str
    codes: EvaluationCodes
    evaluations: tuple[Evaluation, ...]
    outer_iterations: int | None = None
    baselines: tuple[Baseline, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def map(self) -> float:
        """That of the first protocol and rank."""
        return self.evaluations[0].metrics.map


@dataclass(frozen=True, eq=False)
class EvaluationReport:
    """Models side by side; the first is the one that the others are compared with.

    about: what they were measured on, by the keys of its JSON.
    solved: the gallery of the paper's protocol, None without it.
    required_ratio: how many times the mAP of each other model the first one's has to be.
    left_out: descriptors that are not measured beside the codes, with the reason.
    """

    models: tuple[ModelEvaluation, ...]
    about: Mapping[str, Any]
    solved: SolvedGallery | None = None
    required_ratio: float | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def baselines(self) -> dict[str, Baseline]:
        """Those of the first model, by their columns' names."""
        of_first = self.models[0].baselines
        apart = any(one.part == "unseen" for one in of_first)
        return {one.title + (f", {one.part}" if apart else ""): one for one in of_first}

    @property
    def warnings(self) -> dict[str, None]:
        """Of all models, each sentence once; with the model's name where there are several."""
        several = len(self.models) > 1
        return {
            (f"{display_path(model.model)}: " if several else "") + said: None
            for model in self.models
            for said in model.warnings
        }

    @property
    def ratios(self) -> dict[str, float]:
        """The mAP of the first model over that of each other one."""
        first, *others = self.models
        return {other.model: first.map / other.map for other in others}

    @property
    def passed(self) -> bool:
        return self.required_ratio is None or all(ratio >= self.required_ratio for ratio in self.ratios.values())

    @property
    def failures(self) -> dict[bytes, str]:
        """Pictures that could not be read, with the reason."""
        return {path: reason for model in self.models for path, reason in model.codes.failures().items()}

    def titled(self) -> dict[str, Evaluation]:
        """Each evaluation by its column's name: the model's, and what tells it from the others or from the usual."""
        every = [(model, evaluation) for model in self.models for evaluation in model.evaluations]
        parts, protocols, ranks = ({getattr(e, name) for _, e in every} for name in ("part", "protocol", "rank"))
        return {
            display_path(model.model)
            + (f", {one.part}" if "unseen" in parts else "")
            + (f", {one.protocol}" if protocols != {"deployed"} else "")
            + (f", {one.rank}" if ranks != {"margin"} else ""): one
            for model, one in every
        }

    def to_dict(self) -> dict[str, Any]:
        after = None
        if self.solved is not None:
            model_after = self.models[0].outer_iterations
            after = {"outer_iterations": self.solved.iteration, "model_outer_iterations": model_after}
        return {
            **self.about,
            "solved_codes": after,
            "models": [
                {"model": model.model, "fingerprint": model.fingerprint} | evaluation.to_dict()
                for model in self.models
                for evaluation in model.evaluations
            ],
            "baselines": [baseline.to_dict() for baseline in self.models[0].baselines],
            "baselines_left_out": dict(self.left_out),
            "warnings": list(self.warnings),
            "ratios": self.ratios,
            "required_ratio": self.required_ratio,
            "passed": self.passed,
            "failed": {display_path(path): reason for path, reason in self.failures.items()},
        }


def evaluate_model(
    name: str,
    hasher: "Hasher",
    pictures: EvaluationPictures,
    options: EvaluationOptions,
    progress: Progress,
    *,
    solved: SolvedGallery | None = None,
    index: "HashIndex | None" = None,
    describer: Describer | None = None,
    baselines: tuple[Baseline, ...] = (),
) -> ModelEvaluation:
    """Hash the pictures with an exported model and measure every protocol and rank that is asked for.

    name: of the model, as it was given.
    solved: for the paper's protocol.
    index: search in it instead of in pictures.
    describer: describes the pictures, for rankings without codes.
    baselines: of the same pictures, where they were measured with another model.

    MismatchError where the index is of another model, or the model of another run than the solved codes.
    """
    card = hasher.card
    outer_iterations = None if solved is None else solved.model_iteration(name, card.fingerprint)
    gallery = None
    if index is not None:
        index.check_card(card, display_path(name))
        gallery = index_codes(index)
        check_shared(pictures.queries, gallery.labels.tolist(), index.path)

    def codes_of(images: LabelledImages, what: str) -> LabelledCodes:
        return hash_labelled(hasher, images, progress, what, describer)

    if describer is not None:
        describer.expect(card.preprocessing)
    if gallery is not None and describer is not None:
        gallery = describe_files(gallery, card.preprocessing, describer, progress, "gallery")
    codes = hash_pictures(pictures, codes_of, solved=solved, gallery=gallery, protocols=options.protocols)
    evaluations = codes.evaluate(options)
    baselines = baselines or codes.baselines(options.ks)
    warnings = codes.warnings(baselines, evaluations[0])
    return ModelEvaluation(name, card.fingerprint, codes, evaluations, outer_iterations, baselines, warnings)


def hash_pictures(
    pictures: EvaluationPictures,
    codes_of: Callable[[LabelledImages, str], LabelledCodes],
    *,
    solved: SolvedGallery | None = None,
    gallery: LabelledCodes | None = None,
    protocols: Sequence[Protocol] = PROTOCOLS,
) -> EvaluationCodes:
    """The codes of what is measured on.

    codes_of: hashes pictures, of which it gets a name for people too.
    solved: the gallery of the paper's protocol, None where there is none.
    gallery: of the other, where it needs no hashing.
    """
    galleries: dict[Protocol, LabelledCodes] = {}
    if "deployed" in protocols:
        if gallery is None:
            gallery = codes_of(pictures.searched, "gallery")
        galleries["deployed"] = gallery
    if solved is not None:
        galleries["paper"] = solved.codes
    if len(galleries) == 2:  # side by side, both search the same pictures
        shared = set(galleries["deployed"].paths) & set(galleries["paper"].paths)
        galleries = {protocol: codes.only(shared) for protocol, codes in galleries.items()}
    queries = codes_of(pictures.queries, "queries")
    if pictures.unseen is None:
        return EvaluationCodes(galleries, queries)
    unseen_gallery, unseen_queries = pictures.unseen
    unseen = codes_of(unseen_gallery, "unseen gallery"), codes_of(unseen_queries, "unseen queries")
    return EvaluationCodes(galleries, queries, unseen)


def evaluate(
    gallery: LabelledCodes,
    queries: LabelledCodes,
    ks: Sequence[int] = (1, 10, 100),
    radii: Sequence[int] = (0, 1, 2),
    rank: Rank = "margin",
    protocol: Protocol = "deployed",
    part: Part = "seen",
) -> Evaluation:
    """Rank the gallery for each query and measure. A query that lies in the gallery is left out of its own ranking.

    rank: by what, as for `HashIndex.search`; what is equal in it but for ids is a tie. 'weighted' and 'tiebreak' need
        the queries' logits, 'margin' the margins of both; without them it is 'id', as the record says.
    protocol, part: what the gallery's codes and the classes are, for the record.

    MismatchError where the two have codes of different length, or share no class. UsageError for a rank without logits.
    """
    if gallery.bits != queries.bits:
        raise MismatchError(f"the gallery has codes of {gallery.bits} bits and the queries of {queries.bits}")
    bit_keys = margins = None
    if rank == "margin" and gallery.margins is not None and queries.margins is not None:
        margins = queries.margins, gallery.margins
    elif rank in ("id", "margin"):
        rank = "id"
    else:
        if queries.logits is None:
            raise UsageError(f"rank {rank!r} needs the queries' logits: hash them")
        bit_keys = ranked.bit_keys(ranked.quantise(queries.logits, queries.bits), rank)
    own = own_rows(gallery, queries)
    metrics = retrieval_metrics(
        queries.codes,
        gallery.codes,
        gallery.bits,
        queries.labels,
        gallery.labels,
        ks=ks,
        radii=[radius for radius in radii if radius <= gallery.bits],
        exclude_self=own if (own >= 0).any() else None,
        bit_keys=bit_keys,
        margins=margins,
    )
    over = Ranking.over(gallery, queries, metrics, int((own >= 0).sum()))
    return Evaluation(metrics=metrics, bits=gallery.bits, rank=rank, protocol=protocol, part=part, **over)
