"""What a trained run of a study is worth: retrieval of seen and of unseen classes, and the codes that classes have."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from queryopt.bench.quality.evaluate import DataSource, Evaluation, LabelledCodes, evaluate, paper_gallery
from queryopt.bench.quality.network_codes import hash_network
from queryopt.bench.quality.welch import coherence, distinct_codes, solved_class_codes
from queryopt.codes import pack_codes, unpack_codes
from queryopt.progress import Progress, no_progress
from queryopt.train.checkpoint import load_checkpoint
from queryopt.train.data import LabelledImages
from queryopt.train.methods import find_method
from queryopt.train.runs import RunFolder

__all__ = ["code_limit", "measure_run", "uncut_map"]

_BLOCK = 256
"""Queries that are ranked at once by real numbers."""


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
    bits = config.network.bits
    source = DataSource.of_run(run)
    trained, queries = source.images("test", progress, trained_only=True)
    parts = {"gallery": trained, "queries": queries}
    if (unseen := source.unseen_images(progress)) is not None:
        parts |= {"unseen gallery": unseen[0], "unseen queries": unseen[1]}
    total = sum(map(len, parts.values()))
    with (progress or no_progress)("evaluate", total, "images") as advance:
        codes = {name: hash_network(network, images, threads, advance) for name, images in parts.items()}
    deployed = evaluate(codes["gallery"], codes["queries"])
    result: dict[str, Any] = {"deployed": _figures(deployed, codes["gallery"], codes["queries"])}
    if find_method(config.method).solves_codes:
        solved, _ = paper_gallery(run, trained)
        result["paper"] = _figures(evaluate(solved, codes["queries"], protocol="paper"), solved, codes["queries"])
        result["limit"] = {"map": code_limit(solved, codes["queries"])}
    if unseen is not None:
        among_unseen = evaluate(codes["unseen gallery"], codes["unseen queries"])
        result["unseen"] = _figures(among_unseen, codes["unseen gallery"], codes["unseen queries"])
        result["unseen"] |= {
            "map_class_codes": code_limit(codes["unseen gallery"], codes["unseen queries"]),
            "map_uncut": uncut_map(codes["unseen gallery"], codes["unseen queries"]),
        }
    result["codes"] = _class_codes(run, trained, codes["gallery"], bits)
    result["training"] = _training(run)
    return result | {"evaluation_seconds": round(time.perf_counter() - begun, 2)}


def code_limit(solved: LabelledCodes, queries: LabelledCodes) -> float:
    """The mAP if every picture, on both sides, had its class's solved code: what shared codes leave to be had.

    solved: the gallery, as `paper_gallery` gives it, or one of network codes. A class's code is the sign of its mean.
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
    places = _unit(gallery.logits)  # [n, bits]
    rows = np.flatnonzero(np.isin(queries.labels, gallery.labels))
    total = 0.0
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        order = np.argsort(-_unit(queries.logits[block]) @ places.T, axis=1, kind="stable")  # [b, n]
        relevant = gallery.labels[order] == queries.labels[block, None]
        precision = np.cumsum(relevant, axis=1) / np.arange(1, len(places) + 1)
        total += float(((precision * relevant).sum(axis=1) / relevant.sum(axis=1)).sum())
    return total / max(len(rows), 1)


def _unit(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(logits, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = logits / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


def _figures(evaluation: Evaluation, gallery: LabelledCodes, queries: LabelledCodes) -> dict[str, Any]:
    metrics = evaluation.metrics
    weighted = evaluate(gallery, queries, rank="weighted").metrics.map
    return {
        "map": metrics.map,
        "map_pessimistic": metrics.map_pessimistic,
        "map_optimistic": metrics.map_optimistic,
        "map_weighted": weighted,
        "chance": metrics.chance,
        "gallery": evaluation.gallery,
        "queries": metrics.queries,
        "classes": evaluation.classes,
    }


def _class_codes(run: Path, trained: LabelledImages, gallery: LabelledCodes, bits: int) -> dict[str, Any]:
    """How many different codes the classes have, solved and the network's, and how far apart the solved ones are."""
    solved = solved_class_codes(run, trained)
    _, labels = np.unique(gallery.labels, return_inverse=True)
    signs = np.where(unpack_codes(gallery.codes, bits), 1.0, -1.0)
    means = np.stack([signs[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
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
