"""How far apart the classes' codes lie, against the Welch bound (eq. 9 of the paper and its Figure 3).

K unit vectors in d < K dimensions can't all be orthogonal: the root mean square of the cosines of all pairs is at least
sqrt((K - d) / (d (K - 1))), and so the largest one, too (Welch 1974). The paper's proof bounds the root mean square, so
that is the figure that can come near to the bound; the largest one is 1 as soon as two classes share a code.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.bench.figure import new_figure
from queryopt.errors import CheckpointError, MismatchError, UsageError
from queryopt.metrics import unit_vectors
from queryopt.progress import Progress, no_progress
from queryopt.text import display_path

if TYPE_CHECKING:
    from queryopt.train.checkpoint import Checkpoint
    from queryopt.train.data import LabelledImages

__all__ = [
    "ClassCodes",
    "CodesOf",
    "Coherence",
    "WelchReport",
    "class_means",
    "coherence",
    "cosine_matrix",
    "distinct_codes",
    "network_class_codes",
    "plot_welch",
    "solved_class_codes",
    "welch_bound",
    "welch_of_run",
    "welch_report",
]

CodesOf: TypeAlias = Literal["solved", "network"]
"""Whose codes: B, which the run solved from labels for its training pictures, or the network's relaxed ones of them."""

_PICTURES = 20
_BOUND, _RMS, _LARGEST = "#5f6773", "#33608c", "#c6543c"

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Coherence:
    """Cosines between the codes of `classes` classes in `dimensions` dimensions, as absolute values.

    largest, rms: over all pairs of classes. bound: no less is possible for either (0 where dimensions >= classes).
    """

    classes: int
    dimensions: int
    largest: float
    rms: float
    bound: float


@dataclass(frozen=True, eq=False)
class ClassCodes:
    """A code for each class, relaxed: the mean over its pictures.

    values: float64 [classes, bits * branches], the deployed bits first. codes_of: whose they are.
    """

    values: _Floats
    bits: int
    branches: int
    codes_of: CodesOf


@dataclass(frozen=True)
class WelchReport:
    """A run's class codes. all_columns: over the d = bits * branches columns of training; code: over the deployed bits.

    distinct: different codes among the classes, each bit being the sign of its class's mean.
    """

    source: str
    codes_of: CodesOf
    method: str
    bits: int
    branches: int
    all_columns: Coherence
    code: Coherence
    distinct: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def welch_bound(classes: int, dimensions: int) -> float:
    """sqrt((K - d) / (d (K - 1))), 0 where K <= d. UsageError where there are no classes or no dimensions."""
    if classes < 1 or dimensions < 1:
        raise UsageError(f"{classes} classes in {dimensions} dimensions: the Welch bound needs at least one of each")
    if classes <= dimensions:
        return 0.0
    return math.sqrt((classes - dimensions) / (dimensions * (classes - 1)))


def coherence(vectors: npt.ArrayLike) -> Coherence:
    """The cosines between the rows of vectors [classes, dimensions]; a row of zeros has cosine 0 with every other.

    UsageError for fewer than two classes.
    """
    rows = np.asarray(vectors, np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise UsageError(f"codes of shape {list(rows.shape)}: cosines need at least two classes")
    classes, dimensions = rows.shape
    cosines = np.abs(cosine_matrix(rows))[np.triu_indices(classes, 1)]
    rms = float(np.sqrt(np.square(cosines).mean()))
    return Coherence(classes, dimensions, float(cosines.max()), rms, welch_bound(classes, dimensions))


def cosine_matrix(vectors: npt.ArrayLike) -> _Floats:
    """Cosines between the rows of vectors [n, dimensions]: float64 [n, n]; 0 with a row of zeros."""
    rows = np.asarray(vectors, np.float64)
    unit = unit_vectors(rows)
    cosines: _Floats = unit @ unit.T
    return cosines


def class_means(values: npt.ArrayLike, labels: npt.NDArray[np.int64] | npt.NDArray[np.str_]) -> _Floats:
    """The mean of values [n, columns] over each class that has rows, in the order of labels [n]."""
    rows = np.asarray(values, np.float64)
    _, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, position, rows)
    return sums / counts[:, None]


def distinct_codes(values: npt.ArrayLike) -> int:
    """How many different codes the signs of values [classes, bits] are, 0 counting as 1 as in the code contract."""
    return len(np.unique(np.asarray(values) >= 0, axis=0))


def solved_class_codes(run: str | os.PathLike[str], images: "LabelledImages") -> ClassCodes:
    """The class means of B, as a run's last.pt has it (of methods that solve no codes: of what is stored in its place).

    images: the pictures that the run trains on. CheckpointError where there is no last.pt; MismatchError for other
    pictures.
    """
    from queryopt.train.run_files import LAST
    from queryopt.train.runs import read_last

    path = Path(run) / LAST if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise CheckpointError(
            f"{display_path(path)}: no such file, and it alone holds the codes that the run solved: --codes network "
            "takes the network's"
        )
    state, config = read_last(path)
    if state.data != images.digest():
        raise MismatchError(
            f"{display_path(images.root)}: the training pictures are not those that the run in "
            f"{display_path(path.parent)} began with: restore them, or take the network's codes with --codes network"
        )
    signs = np.where(state.codes.numpy() >= 0, 1.0, -1.0) if state.position.outer else state.codes.numpy()
    network = config.network
    return ClassCodes(class_means(signs, images.labels), network.bits, network.branches, "solved")


def network_class_codes(
    checkpoint: "Checkpoint",
    images: "LabelledImages",
    *,
    pictures: int = _PICTURES,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ClassCodes:
    """The class means of tanh(logits), with all branches of training, over the first `pictures` of each class.

    Pictures that can't be read are left out. DataError where none of them can.
    """
    from queryopt.bench.quality.labelled_codes import network_logits

    config = checkpoint.config.network
    first = [np.flatnonzero(images.labels == label)[:pictures] for label in range(len(images.classes))]
    chosen = images.subset(np.sort(np.concatenate(first)))
    logits, rows, _ = network_logits(
        checkpoint.network(),
        chosen,
        progress or no_progress,
        "class codes",
        branches=config.branches,
        threads=threads,
    )
    return ClassCodes(class_means(np.tanh(logits), chosen.labels[rows]), config.bits, config.branches, "network")


def welch_report(source: str, method: str, codes: ClassCodes) -> WelchReport:
    """What there is to say about these class codes."""
    code = codes.values[:, : codes.bits]
    whose = codes.codes_of, method, codes.bits, codes.branches
    return WelchReport(source, *whose, coherence(codes.values), coherence(code), distinct_codes(code))


def welch_of_run(
    checkpoint: str | os.PathLike[str],
    codes_of: CodesOf | Literal["auto"] = "auto",
    data: str | None = None,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> WelchReport:
    """The class codes of a run folder or checkpoint.

    codes_of: auto: those that the run solved, where there is a last.pt, else the network's.
    data: where its training pictures lie now, None for where they were.
    """
    from queryopt.bench.quality.pictures import DataSource
    from queryopt.train.checkpoint import load_checkpoint
    from queryopt.train.run_files import LAST

    loaded = load_checkpoint(checkpoint)
    images = DataSource.of_config(loaded.config, checkpoint, data).training_pictures(progress)
    path = Path(checkpoint)
    run = path if path.is_dir() or path.name == LAST else loaded.folder
    last = run / LAST if run.is_dir() else run
    if codes_of == "solved" or (codes_of == "auto" and last.is_file()):
        codes = solved_class_codes(run, images)
    else:
        codes = network_class_codes(loaded, images, threads=threads, progress=progress)
    return welch_report(display_path(checkpoint), loaded.config.method, codes)


def plot_welch(reports: Sequence[WelchReport], file: BinaryIO) -> None:
    """Draw Figure 3 as a PNG, of at least one report: cosines over N, all columns of training on the left, the deployed
    bits on the right.
    """
    figure = new_figure(10, 4)
    axes = figure.subplots(1, 2, sharey=True)
    at = [report.branches for report in reports]
    most = max(at)
    shown = range(1, most + 1)
    for part, axis in zip(("all_columns", "code"), axes, strict=True):
        cosines = [getattr(report, part) for report in reports]
        axis.scatter(at, [one.rms for one in cosines], color=_RMS, label="root mean square", zorder=3)
        axis.scatter(at, [one.largest for one in cosines], color=_LARGEST, marker="^", label="largest", zorder=3)
        for classes, bits in sorted({(r.all_columns.classes, r.bits) for r in reports}):
            bound = [welch_bound(classes, bits * (n if part == "all_columns" else 1)) for n in shown]
            label = f"Welch bound, {classes} classes, {bits} bits" + (" x N" if part == "all_columns" else "")
            axis.plot(shown, bound, color=_BOUND, marker="." if most == 1 else None, label=label)
        axis.set(
            title="all columns of training, d = bits x N" if part == "all_columns" else "the code's own bits",
            xlabel="branches N",
            ylim=(0, 1.03),
        )
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    axes[0].set_ylabel("|cosine| between two classes' codes")
    figure.savefig(file, dpi=130, format="png")
