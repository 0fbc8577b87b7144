"""The parity gate: do two forms of one network give the same codes?

A form is the trained network in PyTorch, or a model.onnx or model.plan in any backend, at any precision. All see
exactly the same uint8 pixels of real pictures. What is counted is flipped bits, with the exact upper confidence bound
that so many bits allow; logit differences, the overlap of search results and, where labels are known, the change of the
tie-aware mean average precision say how near the rest is.
"""

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.bit_quality import code_warnings
from queryopt.codes import unpack_codes
from queryopt.errors import DataError, MismatchError, ParityError, UsageError
from queryopt.export.pictures import PicturePath, parity_views, spread, view_batches
from queryopt.metrics import retrieval_metrics
from queryopt.progress import Progress, no_progress
from queryopt.runtime import HammingIndex
from queryopt.runtime.backends.base import Backend, BackendOutput, PipelinedBackend
from queryopt.text import counted, display_path

if TYPE_CHECKING:
    from queryopt.train.checkpoint import Checkpoint
    from queryopt.train.hash_network import HashNetwork

__all__ = [
    "MAX_FLIP_RATES",
    "MAX_MAP_DROPS",
    "MIN_BITS",
    "MIN_QUERIES",
    "NEAR_ZERO",
    "MapChange",
    "ParityReport",
    "ParitySide",
    "check_parity",
    "compare_sides",
    "flip_rate_upper_bound",
    "max_flip_rate_of",
    "max_map_drop_of",
    "open_side",
    "top_k_overlap",
]

MAX_FLIP_RATES = {"fp32": 1e-3, "fp16": 1e-3, "bf16": 5e-3, "int8": 1e-2}
"""The gate's limits by precision: shares of flipped bits."""
MAX_MAP_DROPS = {"int8": 0.5}
"""Points of mean average precision that a model may lose, by precision; others have no limit of their own."""
MIN_BITS = 20_000
"""Bits compared at least. With none flipped, the rate is then below 1.5e-4 with 95 % confidence."""
MIN_QUERIES = 30
"""Labelled pictures from which on a change of the mean average precision is judged, not only reported."""
NEAR_ZERO = 1e-4
"""A logit nearer to zero than this may change its sign by rounding alone."""
_OVERLAP_QUERIES = 1_000
_ONE_SIDED_95 = 1.6448536269514722


@dataclass(frozen=True)
class MapChange:
    """Mean average precision (0 to 1, exact over ties) of the two sides on the same labelled pictures.

    The test crop of each picture searches those of all others.

    reference, model: the two values.
    queries: pictures with another one of their class, which the means are taken over.
    classes: of the labelled pictures.
    points: 100 x (model - reference).
    points_upper_95: one-sided upper bound of that, from the queries' own changes, which are counted as independent;
        None below MIN_QUERIES queries.
    """

    reference: float
    model: float
    queries: int
    classes: int
    points: float
    points_upper_95: float | None


@dataclass(frozen=True)
class ParityReport:
    """How a model's codes compare with the reference's.

    bits_compared: views x bits.
    flipped: bits that differ.
    flipped_sure: of those, the ones with |logit| >= near_zero_epsilon in the reference, which rounding in float32
        doesn't explain.
    flip_rate: flipped / bits_compared.
    flip_rate_upper_95: the exact one-sided Clopper-Pearson bound; views of one picture are counted as independent.
    near_zero: share of the reference's logits with |logit| < near_zero_epsilon.
    max_logit_difference: the largest |logit - logit|.
    top10_overlap: mean share of each view's ten nearest others, in (distance, id) order, that both sides name.
    distinct_codes: of the reference, over all views; where it is 1, agreement says little.
    pictures, views: distinct pictures, and views of them (test crop, then flips and crops) that were compared.
    backend, reference: what ran the model, and what the reference.
    failures: pictures that could not be read, with the reason.
    precision, reference_precision: of the graphs.
    map: None without labels of two classes.
    warnings: what is wrong with the reference's codes of the pictures, one view of each (`code_warnings`).
    """

    bits_compared: int
    flipped: int
    flipped_sure: int
    flip_rate: float
    flip_rate_upper_95: float
    near_zero: float
    near_zero_epsilon: float
    max_logit_difference: float
    top10_overlap: float
    distinct_codes: int
    pictures: int
    views: int
    backend: str
    failures: Mapping[str, str] = field(default_factory=dict)
    precision: str = "fp32"
    reference: str = "torch"
    reference_precision: str = "fp32"
    map: MapChange | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the model card: with the number of failures only, as a card holds no paths, and without what
        is said of the pictures' codes.
        """
        values = asdict(self)
        values["failures"] = len(self.failures)
        del values["warnings"]
        return values

    def limits(self, max_flip_rate: float | None = None, max_map_drop: float | None = None) -> dict[str, float | None]:
        """What to give to `require`: these, and where they are None those of the lower of the two precisions."""
        precisions = (self.precision, self.reference_precision)
        return {
            "max_flip_rate": max_flip_rate_of(*precisions) if max_flip_rate is None else max_flip_rate,
            "max_map_drop": max_map_drop_of(*precisions) if max_map_drop is None else max_map_drop,
        }

    def require(self, max_flip_rate: float | None = None, max_map_drop: float | None = None) -> None:
        """Raise ParityError where a logit is not finite, more bits differ than may, or mean average precision is lost.

        max_flip_rate: a share; None is the limit of the two precisions. max_map_drop: in points; None is no limit. It
        is exceeded only where the data say so with 95 % confidence: few labelled pictures refuse nothing.
        """
        limit = max_flip_rate_of(self.precision, self.reference_precision) if max_flip_rate is None else max_flip_rate
        if not math.isfinite(self.max_logit_difference):
            raise ParityError(
                f"logits are not finite on {self.backend} or on {self.reference} "
                f"({counted(self.views, 'view', 'views')} of {counted(self.pictures, 'picture', 'pictures')})"
            )
        if self.flip_rate > limit:
            raise ParityError(
                f"{self.flipped:,} of {self.bits_compared:,} bits differ between {self.reference} and the model on "
                f"{self.backend}: {self.flip_rate:.2e} is above the limit {limit:.2e} (95 % upper bound "
                f"{self.flip_rate_upper_95:.2e}, largest logit difference {self.max_logit_difference:.2e}, "
                f"{100 * self.near_zero:.2f} % of logits within {self.near_zero_epsilon:g} of zero; "
                f"{self.flipped_sure:,} of the flipped bits are not). "
                "A network trained to surer codes flips less; --max-flip-rate moves the limit"
            )
        change = self.map
        if max_map_drop is None or change is None or change.points_upper_95 is None:
            return
        if change.points_upper_95 < -max_map_drop:
            raise ParityError(
                f"the model on {self.backend} loses {-change.points:.2f} points of mean average precision "
                f"({100 * change.reference:.2f} on {self.reference}, {100 * change.model:.2f} on it, "
                f"{counted(change.queries, 'labelled picture', 'labelled pictures')}), and with 95 % confidence more "
                f"than the limit of {max_map_drop:g}: --max-map-drop moves it"
            )


@dataclass(frozen=True)
class ParitySide:
    """What is compared: a backend with the name by which messages call it."""

    name: str
    backend: Backend


_Model: TypeAlias = "HashNetwork | Checkpoint | Backend | str | os.PathLike[str]"


def max_flip_rate_of(*precisions: str) -> float:
    """The gate's limit for models of these precisions beside each other: that of the lowest of them."""
    return max(MAX_FLIP_RATES[precision] for precision in precisions)


def max_map_drop_of(*precisions: str) -> float | None:
    """The same in points of mean average precision; None is no limit."""
    return max((MAX_MAP_DROPS[precision] for precision in precisions if precision in MAX_MAP_DROPS), default=None)


def check_parity(
    reference: "_Model",
    model: "_Model",
    pictures: Sequence[PicturePath],
    *,
    backend: str = "auto",
    reference_backend: str = "auto",
    labels: Sequence[str | None] | None = None,
    min_bits: int = MIN_BITS,
    batch: int = 32,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare the codes of two forms of one network: `queryopt.export.check_parity`.

    reference, model: each a HashNetwork (run in eval mode; its mode is put back), a loaded Checkpoint, or its run
        folder or file, for PyTorch; a model.onnx or model.plan; or an open Backend, which stays open.
    pictures: paths.
    backend, reference_backend: what runs a model file, see open_backend.
    labels: each picture's class, None where it has none; from them the change of the mean average precision.
    min_bits: where the pictures give fewer, further views of them (flips and crops, the same in every run) fill up;
        where they give more, an even spread of them is taken.
    batch: pictures in a run; engines with smaller profiles get what they take.
    threads: of what runs on the CPU.

    Raises DataError where no picture can be read, MismatchError where the two have other code lengths or come from
    different checkpoints, what open_backend and load_checkpoint raise. The report judges nothing: see
    ParityReport.require.
    """
    with contextlib.ExitStack() as stack:
        sides = [
            open_side(one, chosen, threads, stack) for one, chosen in ((reference, reference_backend), (model, backend))
        ]
        return compare_sides(
            sides[0], sides[1:], pictures, labels=labels, min_bits=min_bits, batch=batch, progress=progress
        )[0]


def open_side(
    model: "_Model", backend: str, threads: int | None, stack: contextlib.ExitStack, name: str | None = None
) -> ParitySide:
    """What check_parity makes of its arguments; `stack` closes what this opens. name: in messages."""
    from queryopt.runtime.backends import open_backend

    if isinstance(model, str | os.PathLike):
        path = Path(model)
        name = name or display_path(path)
        if path.suffix.lower() in (".onnx", ".plan"):
            opened = open_backend(path, backend, threads)
            stack.callback(opened.close)
            return ParitySide(name, opened)
        if backend != "auto":
            raise UsageError(
                f"{name}: a checkpoint runs in PyTorch, and --backend {backend} takes a model.onnx or model.plan"
            )
        from queryopt.train.checkpoint import load_checkpoint

        model = load_checkpoint(path)
    if isinstance(model, Backend):
        return ParitySide(name or model.name, model)
    from queryopt.export.torch_backend import TorchBackend
    from queryopt.train.checkpoint import Checkpoint

    network = model.network() if isinstance(model, Checkpoint) else model
    return ParitySide(name or "the network", TorchBackend(network, threads))


def compare_sides(
    reference: ParitySide,
    models: Sequence[ParitySide],
    pictures: Sequence[PicturePath],
    *,
    labels: Sequence[str | None] | None = None,
    min_bits: int = MIN_BITS,
    batch: int = 32,
    progress: Progress | None = None,
) -> tuple[ParityReport, ...]:
    """Compare any number of models with one reference, which runs once: a report each, in order. See check_parity."""
    if min_bits < 1 or batch < 1:
        raise UsageError(f"min_bits is {min_bits} and batch {batch}: both must be at least 1")
    if labels is not None and len(labels) != len(pictures):
        raise UsageError(f"{len(labels):,} labels for {len(pictures):,} pictures: one each, or none")
    for side in models:
        _check_same_network(reference, side)
    backends = [side.backend for side in (reference, *models)]
    outputs, members, failures = _run_all(backends, pictures, min_bits, batch, progress)
    first, bits = outputs[0], reference.backend.card.bits
    expected, size = unpack_codes(first.codes, bits), np.abs(first.logits)
    warnings = _code_warnings(members, first, bits, labels)
    reports = []
    for backend, output, change in zip(
        backends[1:], outputs[1:], _map_changes(members, outputs, bits, labels), strict=True
    ):
        differs = expected != unpack_codes(output.codes, bits)
        flipped = int(np.count_nonzero(differs))
        reports.append(
            ParityReport(
                bits_compared=expected.size,
                flipped=flipped,
                flipped_sure=int(np.count_nonzero(differs & (size >= NEAR_ZERO))),
                flip_rate=flipped / expected.size,
                flip_rate_upper_95=flip_rate_upper_bound(flipped, expected.size),
                near_zero=float(np.mean(size < NEAR_ZERO)),
                near_zero_epsilon=NEAR_ZERO,
                max_logit_difference=float(np.abs(output.logits - first.logits).max()),  # keeps a NaN
                top10_overlap=top_k_overlap(first.codes, output.codes, bits),
                distinct_codes=len(np.unique(first.codes, axis=0)),
                pictures=len(set(members)),
                views=len(members),
                backend=backend.name,
                failures=failures,
                precision=backend.card.precision,
                reference=reference.backend.name,
                reference_precision=reference.backend.card.precision,
                map=change,
                warnings=warnings,
            )
        )
    return tuple(reports)


def _code_warnings(
    members: Sequence[int], output: BackendOutput, bits: int, labels: Sequence[str | None] | None
) -> tuple[str, ...]:
    """What is wrong with the codes of the pictures' first views; classes count where each picture has one."""
    rows = np.unique(members, return_index=True)[1]
    classes = None if labels is None else [labels[members[row]] for row in rows]
    known = None if classes is None or None in classes else classes
    return code_warnings(output.codes[rows], bits, lambda: known)


def flip_rate_upper_bound(flipped: int, compared: int, confidence: float = 0.95) -> float:
    """The exact (Clopper-Pearson, one-sided) upper bound of a rate of which `flipped` of `compared` were seen.

    It is the p at which seeing so few has a probability of 1 - confidence: sum over i <= flipped of
    C(n, i) p^i (1 - p)^(n - i), solved by bisection (SciPy, which has it, comes with no extra that exports). 1.0 where
    nothing was compared or everything flipped.
    """
    if not 0 <= flipped <= compared or not 0 < confidence < 1:
        raise UsageError(f"{flipped} of {compared} flipped at confidence {confidence}: not a rate")
    if flipped == compared:
        return 1.0
    i = np.arange(flipped + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log(compared - i[:-1]) - np.log(i[1:]))])
    low, high = flipped / compared, 1.0
    while low < (middle := (low + high) / 2) < high:
        log_terms = log_choose + i * math.log(middle) + (compared - i) * math.log1p(-middle)
        if np.logaddexp.reduce(log_terms) > math.log1p(-confidence):
            low = middle
        else:
            high = middle
    return high


def top_k_overlap(
    reference: npt.NDArray[np.uint8],
    codes: npt.NDArray[np.uint8],
    bits: int,
    k: int = 10,
    queries: int = _OVERLAP_QUERIES,
) -> float:
    """Mean share of each row's k nearest other rows, in (distance, id) order, that two sets of codes have in common.

    reference, codes: packed uint8 [n, ceil(bits / 8)], row i of both from the same picture. Each side searches its own
    codes with its own queries; at most `queries` rows, evenly spread, are queries. 1.0 where there are no others.
    """
    k = min(k, len(reference) - 1)
    if k < 1:
        return 1.0
    rows = spread(len(reference), queries)
    ours, theirs = (_nearest_others(side, bits, rows, k) for side in (reference, codes))
    shared = np.count_nonzero(ours[:, :, None] == theirs[:, None, :])
    return float(shared / (len(rows) * k))


def _nearest_others(
    codes: npt.NDArray[np.uint8], bits: int, rows: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.int64]:
    """The k nearest other rows of each row, int64 [rows, k]."""
    near = HammingIndex(codes, bits).search(codes[rows], k + 1).ids
    others = near != rows[:, None]
    others[others.all(axis=1), -1] = False  # so many equal codes have lower ids that a row isn't among its own nearest
    kept: npt.NDArray[np.int64] = near[others].reshape(-1, k)
    return kept


def _check_same_network(reference: ParitySide, side: ParitySide) -> None:
    expected, card = reference.backend.card, side.backend.card
    if card.bits != expected.bits:
        raise MismatchError(f"{side.name}: its codes have {card.bits} bits, {reference.name}'s {expected.bits}")
    if card.fingerprint != expected.fingerprint:
        raise MismatchError(
            f"{side.name} comes from another checkpoint (fingerprint {card.fingerprint[:12]}…) than {reference.name} "
            f"({expected.fingerprint[:12]}…): their bits mean different things, so there is nothing to compare; "
            "give two exports of one run"
        )


def _run_all(
    backends: Sequence[Backend],
    pictures: Sequence[PicturePath],
    min_bits: int,
    batch: int,
    progress: Progress | None,
) -> tuple[list[BackendOutput], list[int], dict[str, str]]:
    """What each backend makes of the same views; the picture of each view; and what could not be read, with why."""
    card = backends[0].card
    wanted = math.ceil(min_bits / card.bits)
    failures: dict[str, str] = {}
    members: list[int] = []
    parts: list[list[BackendOutput]] = [[] for _ in backends]
    views = parity_views(pictures, card.preprocessing, wanted, failures)
    with (progress or no_progress)("parity", wanted, "views") as advance:
        for rows, pixels in view_batches(views, batch):
            members += rows
            for backend, outputs in zip(backends, parts, strict=True):
                outputs += _run(backend, pixels)
            advance(len(rows))
    if not members:
        reason = f" (the first: {': '.join(next(iter(failures.items())))})" if failures else ""
        raise DataError(
            f"no picture of {len(pictures):,} for the parity check could be read{reason}: "
            "pass others with --images FOLDER"
        )
    whole = [
        BackendOutput(np.concatenate([o.codes for o in outputs]), np.concatenate([o.logits for o in outputs]))
        for outputs in parts
    ]
    return whole, members, failures


def _run(backend: Backend, pixels: npt.NDArray[np.uint8]) -> list[BackendOutput]:
    """A batch in pieces that the backend takes: an engine's profile may end below it."""
    size = len(pixels)
    while size > 1 and isinstance(backend, PipelinedBackend):
        try:
            backend.check_batch(size)
            break
        except MismatchError:
            size = -(-size // 2)
    return [backend.run(pixels[at : at + size]) for at in range(0, len(pixels), size)]


def _map_changes(
    members: Sequence[int], outputs: Sequence[BackendOutput], bits: int, labels: Sequence[str | None] | None
) -> list[MapChange | None]:
    """Of each side but the first. members: the picture of each row of codes; its first row is the test crop."""
    unknown: list[MapChange | None] = [None] * (len(outputs) - 1)
    if labels is None:
        return unknown
    crops = np.unique(members, return_index=True)[1].tolist()
    rows = [row for row in crops if labels[members[row]] is not None]
    classes = np.array([labels[members[row]] for row in rows], np.str_)
    counts = np.unique(classes, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        return unknown
    own = np.arange(len(rows))
    first, *others = (
        retrieval_metrics(side.codes[rows], side.codes[rows], bits, classes, classes, ks=(), radii=(), exclude_self=own)
        for side in outputs
    )
    changes: list[MapChange | None] = []
    for metrics in others:
        each = 100 * (metrics.average_precision - first.average_precision)
        each = each[~np.isnan(each)]
        points, upper = float(each.mean()), None
        if len(each) >= MIN_QUERIES:
            upper = points + _ONE_SIDED_95 * float(each.std(ddof=1)) / math.sqrt(len(each))
        changes.append(MapChange(first.map, metrics.map, len(each), len(counts), points, upper))
    return changes
