"""What a trained run of a study is worth: retrieval of seen and of unseen classes, and the codes that classes have."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from queryopt.bench.quality.evaluate import Evaluation, EvaluationOptions, evaluate, hash_pictures
from queryopt.bench.quality.labelled_codes import LabelledCodes, SolvedGallery, hash_network
from queryopt.bench.quality.pictures import DataSource
from queryopt.bench.quality.welch import class_means, coherence, distinct_codes, solved_class_codes
from queryopt.codes import pack_codes, unpack_codes
from queryopt.metrics import vector_metrics
from queryopt.progress import Progress, no_progress
from queryopt.train.checkpoint import load_checkpoint
from queryopt.train.data import LabelledImages
from queryopt.train.methods import find_method
from queryopt.train.runs import RunFolder

__all__ = ["code_limit", "measure_run", "uncut_map"]

_FIGURES = ("map", "map_pessimistic", "map_optimistic", "map_weighted", "chance", "gallery", "queries", "classes")


def measure_run(run: Path, *, threads: int | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Measure the checkpoint in a run folder, ready for JSON.

    Codes are the network's, as it is deployed; test pictures search those that the run trained on ("deployed") and the
    codes solved for them ("paper", where the method solves any); unseen classes' test pictures search these classes'
    training pictures. Of these also what limits them: the mAP if every picture had the code that most of its class have
    (short of 1 where classes meet; what lies below it is pictures that stray from their class's code), and of a ranking
    by logits that nothing cuts to bits. All mAP are means over the orders of tied pictures. DataError where there are
    no test pictures.
    """
    begun = time.perf_counter()
    checkpoint = load_checkpoint(run)
    config = checkpoint.config
    network = checkpoint.network().to("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    pictures = DataSource.of_run(run).pictures("test", progress, trained_only=True)
    assert pictures.gallery is not None
    solved = SolvedGallery.of_run(run, pictures.gallery) if find_method(config.method).solves_codes else None

    def codes_of(images: LabelledImages, what: str) -> LabelledCodes:
        return hash_network(network, images, progress or no_progress, what, threads=threads)

    codes = hash_pictures(pictures, codes_of, solved=solved)
    by_distance, by_weights = (codes.evaluate(EvaluationOptions(rank=rank)) for rank in ("id", "weighted"))
    result = {
        "unseen" if one.part == "unseen" else one.protocol: _figures(one, weighted)
        for one, weighted in zip(by_distance, by_weights, strict=True)
    }
    if solved is not None:
        result["limit"] = {"map": code_limit(codes.galleries["paper"], codes.queries)}
    if codes.unseen is not None:
        result["unseen"] |= {"map_class_codes": code_limit(*codes.unseen), "map_uncut": uncut_map(*codes.unseen)}
    result["codes"] = _class_codes(run, pictures.gallery, codes.galleries["deployed"], config.network.bits)
    result["training"] = _training(run)
    return result | {"evaluation_seconds": round(time.perf_counter() - begun, 2)}


def code_limit(solved: LabelledCodes, queries: LabelledCodes) -> float:
    """The mAP if every picture, on both sides, had its class's solved code: what shared codes leave to be had.

    solved: the gallery, as `SolvedGallery` has it, or one of network codes. A class's code is the sign of its mean.
    Queries of classes that the gallery has not are left out.
    """
    signs = np.where(unpack_codes(solved.codes, solved.bits), 1.0, -1.0)  # [n, bits]
    code_of = {label: signs[solved.labels == label].mean(axis=0) >= 0 for label in np.unique(solved.labels).tolist()}

    def ideal(pictures: LabelledCodes) -> LabelledCodes:
        rows = [row for row, label in enumerate(pictures.labels.tolist()) if label in code_of]
        codes = pack_codes(np.stack([code_of[pictures.labels[row]] for row in rows]))
        return LabelledCodes(solved.bits, codes, pictures.labels[rows], tuple(pictures.paths[row] for row in rows), {})

    return evaluate(ideal(solved), ideal(queries), protocol="paper").metrics.map


def uncut_map(gallery: LabelledCodes, queries: LabelledCodes) -> float:
    """The mAP of a ranking by the cosine of logits, which nothing has cut to bits yet.

    Both have logits. Queries of classes that the gallery has not are left out. 0 where that leaves none.
    """
    assert gallery.logits is not None
    assert queries.logits is not None
    if not np.isin(queries.labels, gallery.labels).any():
        return 0.0
    return vector_metrics(queries.logits, gallery.logits, queries.labels, gallery.labels, ks=()).map


def _figures(evaluation: Evaluation, weighted: Evaluation) -> dict[str, Any]:
    figures = {figure.name: figure.value for figure in evaluation.figures()} | {"map_weighted": weighted.metrics.map}
    return {name: figures[name] for name in _FIGURES}


def _class_codes(run: Path, trained: LabelledImages, gallery: LabelledCodes, bits: int) -> dict[str, Any]:
    """How many different codes the classes have, solved and the network's, and how far apart the solved ones are."""
    solved = solved_class_codes(run, trained)
    means = class_means(np.where(unpack_codes(gallery.codes, bits), 1.0, -1.0), gallery.labels)
    columns, code = coherence(solved.values), coherence(solved.values[:, :bits])
    return {
        "classes": len(means),
        "distinct_solved": distinct_codes(solved.values[:, :bits]),
        "distinct_network": distinct_codes(means),
        "columns": columns.dimensions,
        "welch_columns": columns.bound,
        "rms_columns": columns.rms,
        "largest_columns": columns.largest,
        "welch_code": code.bound,
        "rms_code": code.rms,
        "largest_code": code.largest,
    }


def _training(run: Path) -> dict[str, Any]:
    """The last line of the run's metrics: its loss, and how well the network follows the codes."""
    with RunFolder(run, resume=True) as folder:
        lines = folder.read_metrics()
    last: Mapping[str, Any] = next((line for line in reversed(lines) if "seconds" in line), {})
    return {key: last[key] for key in ("loss", "bit_accuracy", "codes_changed", "seconds") if key in last}
