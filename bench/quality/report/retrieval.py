"""How well pictures find others of their class: protocols, curves, classes, balls, and examples (Figures 10 and 11)."""

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from queryopt.bench.figure import new_figure, plain
from queryopt.bench.quality.descriptors import DESCRIPTORS
from queryopt.bench.quality.evaluation_plot import draw_classes, draw_curve, draw_radius, draw_worst
from queryopt.bench.quality.report.page import LeftOutError, Section
from queryopt.bench.quality.report.study import Study, first_of_each
from queryopt.bench.quality.report.tiles import Row, Strip, Tile
from queryopt.codes import codes_to_uint64
from queryopt.text import counted, display_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["ball_confusion", "balls", "classes", "examples", "protocols"]

_NOT_SHOWN = ("map_at", "bits", "classes", "queries_in", "skipped")
"""Figures of an evaluation that the page's table leaves to qo-eval."""
_WORST = 4
_QUERIES = 2
"""Queries shown of each of the worst classes."""
_HITS = 10
_EXAMPLES = 4
_USUAL = 2
"""The radius that is usual in the field, however long the codes are."""
_NAMED_CLASSES = 40
"""More names along a matrix can't be read."""


def protocols(study: Study) -> Section:
    """Every figure of both protocols, and precision and recall."""
    evaluations = study.evaluations
    metrics = study.deployed.metrics
    alone, weighted = (evaluations[f"deployed, {rank}"].metrics for rank in ("by distance", "weighted"))
    finding = (
        f"mAP {metrics.map:.3f} as deployed, where equal distances are ordered by margins; by distance alone "
        f"{alone.map:.3f}, between {alone.map_pessimistic:.3f} and {alone.map_optimistic:.3f} over all orders of ties; "
        f"{weighted.map:.3f} where the query's logits weigh the bits"
    )
    if "paper" in evaluations:
        finding += f"; {evaluations['paper'].metrics.map:.3f} against the solved codes that the paper ranks"
    figures = [{figure.name: figure for figure in one.figures()} for one in evaluations.values()]
    rows = [
        (figure.label, *(column[name].text if name in column else "0.0000" for column in figures))
        for name, figure in figures[0].items()
        if not name.startswith(_NOT_SHOWN)
    ]
    drawn = {name: one for name, one in evaluations.items() if not name.startswith("deployed, ")}
    curve, radius = new_figure(), new_figure()
    draw_curve(curve.subplots(), drawn, legend=True)
    draw_radius(radius.subplots(), drawn)
    values = {
        "columns": ("", *evaluations),
        "rows": rows,
        "curve": study.figures.embed("precision-recall", curve),
        "radius": study.figures.embed("radius", radius),
        "said": "; ".join(f"{name}, mAP {evaluation.metrics.map:.3f}" for name, evaluation in drawn.items()),
        "iterations": None if study.solved is None else study.solved.iteration,
        "why_not_solved": study.why_not_solved,
        "unseen": study.codes.unseen is not None,
    }
    return Section("retrieval", "Retrieval", finding + ".", values)


def without_codes(study: Study) -> Section:
    """What codes have to beat: the same rankings by colours, and by the trunk's floats."""
    seen = [one for one in study.baselines if one.part == "seen"]
    left_out = {DESCRIPTORS[name]: why for name, why in study.without_baselines.items()}
    if not seen:
        raise LeftOutError("; ".join(dict.fromkeys(left_out.values())))
    rankings = {
        f"{study.bits}-bit codes": study.deployed.metrics,
        f"{study.bits}-bit codes, weighted": study.evaluations["deployed, weighted"].metrics,
        **{one.title: one.metrics for one in seen},
    }
    names = ("mAP", "precision at 1", "precision at 10")
    figures = {name: (m.map, m.precision_at[1], m.precision_at[10]) for name, m in rankings.items()}
    drawn = new_figure(6.4, 3.0)
    axes = drawn.subplots()
    height = 0.8 / len(figures)
    for n, (name, shares) in enumerate(figures.items()):
        bars = axes.barh([i + n * height for i in range(len(names))], shares, height, color=f"C{n}", label=name)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks([i + 0.4 - height / 2 for i in range(len(names))], names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    said = "; ".join(f"{name}, mAP {shares[0]:.3f}" for name, shares in figures.items())
    first = ", ".join(f"{100 * shares[1]:.1f} % by {name}" for name, shares in figures.items() if "weigh" not in name)
    values = {
        "figure": study.figures.embed("without-codes", drawn),
        "said": said,
        "columns": ("", *names),
        "rows": [(name, *(f"{share:.4f}" for share in shares)) for name, shares in figures.items()],
        "left_out": left_out,
    }
    finding = f"The first hit is of the query's class: {first}."
    return Section("without-codes", "Beside rankings without codes", finding, values)


def classes(study: Study) -> Section:
    """Each class's mAP, and pictures of the worst ones with what they found instead."""
    deployed = study.deployed
    scores = deployed.per_class
    worst, best = scores[0], scores[-1]
    below = sum(score.map < 0.5 for score in scores)
    finding = (
        f"From {worst.map:.2f} ({display_path(str(worst.label))}) to {best.map:.2f} "
        f"({display_path(str(best.label))}); {below} of {len(scores)} classes {'lies' if below == 1 else 'lie'} below "
        "0.5."
    )
    ordered, named = new_figure(), new_figure()
    draw_classes(ordered.subplots(), {"deployed": deployed})
    draw_worst(named.subplots(), {"deployed": deployed})
    rows = []
    precision = deployed.metrics.average_precision
    for score in scores[:_WORST]:
        name = str(score.label)
        own = np.flatnonzero((study.queries.labels == name) & ~np.isnan(precision))
        # Its worst, its middle and its best query.
        order = own[np.argsort(precision[own], kind="stable")]
        chosen = [int(order[i * (len(order) - 1) // max(1, _QUERIES - 1)]) for i in range(min(_QUERIES, len(order)))]
        strips = [Strip(_query_and_hits(study, row, _HITS)) for row in dict.fromkeys(chosen)]
        about = (f"mAP {score.map:.3f} over {counted(score.queries, 'query', 'queries')}",)
        rows.append(Row(display_path(name), about, strips))
    values = {
        "ordered": study.figures.embed("classes", ordered),
        "named": study.figures.embed("worst-classes", named),
        "worst": worst.map,
        "best": best.map,
        "tiles": study.tiles.embed("worst-found", rows),
    }
    return Section("classes", "Classes", finding, values)


def balls(study: Study) -> Section:
    """Which classes lie in a query's Hamming ball, of the radius at which precision and recall are balanced best."""
    curve = study.deployed.metrics.curve
    scores = [2 * p * r / (p + r) if p + r else 0.0 for p, r in zip(curve.precision, curve.recall, strict=True)]
    radius = scores.index(max(scores))
    within = counted(radius, "bit", "bits")
    names, counts = ball_confusion(study, radius)
    within_all = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, within_all, out=np.zeros_like(counts), where=within_all > 0)
    right = float(np.trace(counts) / counts.sum()) if counts.sum() else 0.0
    others = shares - np.diag(np.diag(shares))
    pairs = sorted(
        ((float(others[i, j]), i, j) for i, j in zip(*np.nonzero(others), strict=True)), key=lambda p: (-p[0], p[1:])
    )
    finding = (
        f"Of all that lies within {within} of a query, {100 * right:.1f} % is of its class"
        if counts.sum()
        else f"Nothing lies within {within} of any query"
    )
    usual = min(_USUAL, study.bits)
    if usual != radius:
        finding += f" ({100 * curve.pooled_precision[usual]:.1f} % within {counted(usual, 'bit', 'bits')})"
    if pairs:
        share, i, j = pairs[0]
        finding += (
            f"; most often taken for another class: {display_path(names[i])}, in whose balls {100 * share:.0f} % is "
            f"{display_path(names[j])}"
        )
    values = {
        "figure": study.figures.embed("confusion", _confusion(names, shares)),
        "classes": len(names),
        "within": within,
        "right": right,
        "f1": scores[radius],
        "usual": _USUAL,
        "empty": int((within_all[:, 0] == 0).sum()),
        "rows": [(names[i], names[j], f"{100 * share:.1f} %", f"{int(counts[i, j]):,}") for share, i, j in pairs[:8]],
    }
    return Section("balls", "Confusion by Hamming ball", finding + ".", values)


def _confusion(names: list[str], shares: npt.NDArray[np.float64]) -> "Figure":
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    side = min(9.0, 3.6 + 0.09 * len(names))
    figure = new_figure(side, side * 0.9)
    axes = figure.subplots()
    # From light to dark, without the palest: what is nothing is left out of the matrix.
    shades = ListedColormap(colormaps["plasma_r"](np.linspace(0.15, 0.95, 256)))
    image = axes.imshow(np.ma.masked_equal(shares, 0), cmap=shades, vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="class of what is found", ylabel="class of the query")
    if len(names) <= _NAMED_CLASSES:
        ticks = [plain(name, 26) for name in names]
        size = 8 if len(names) <= 12 else 5.5
        axes.set_xticks(range(len(names)), ticks, fontsize=size, rotation=90)
        axes.set_yticks(range(len(names)), ticks, fontsize=size)
    figure.colorbar(image, ax=axes, fraction=0.04, label="share of what lies within")
    return figure


def ball_confusion(study: Study, radius: int) -> tuple[list[str], npt.NDArray[np.float64]]:
    """How often pictures of each class lie within the radius of queries of each class.

    Returns the names of the classes and counts float64 [classes of queries, classes of the gallery], both in their
    order. A query itself doesn't count.
    """
    names, classes = np.unique(np.concatenate([study.queries.labels, study.gallery.labels]), return_inverse=True)
    query_classes, gallery_classes = classes[: len(study.queries.labels)], classes[len(study.queries.labels) :]
    counts = np.zeros((len(names), len(names)))
    gallery = codes_to_uint64(study.gallery.codes, study.bits)
    for row, code in enumerate(codes_to_uint64(study.queries.codes, study.bits)):
        near = np.bitwise_count(gallery ^ code) <= radius
        if study.own[row] >= 0:
            near[study.own[row]] = False
        counts[query_classes[row]] += np.bincount(gallery_classes[near], minlength=len(names))
    return names.tolist(), counts


def examples(study: Study) -> Section:
    """Retrievals as they come, and those that fail worst."""
    precision = study.deployed.metrics.average_precision
    rows = np.flatnonzero(~np.isnan(precision))
    rng = np.random.default_rng(study.seed)
    drawn = first_of_each(study.queries.labels, rng.permutation(rows), _EXAMPLES)
    failed = first_of_each(study.queries.labels, rows[np.argsort(precision[rows], kind="stable")], _EXAMPLES)
    first = _first_right(study, rows)
    finding = f"{100 * first:.1f} % of the queries find a picture of their class first, in the order of the gallery."

    def shown(chosen: list[int]) -> list[Row]:
        return [
            Row(
                display_path(str(study.queries.labels[row])),
                (f"average precision {precision[row]:.3f}",),
                [Strip(_query_and_hits(study, row, _HITS))],
            )
            for row in chosen
        ]

    values = {
        "drawn": study.tiles.embed("retrievals", shown(drawn)),
        "failed": study.tiles.embed("failed-retrievals", shown(failed)),
    }
    return Section("examples", "Retrieved pictures (Figures 10, 11)", finding, values)


def _first_right(study: Study, rows: npt.NDArray[np.intp]) -> float:
    hits = study.search(rows, 1)
    labels = study.gallery.labels[hits.ids[:, 0]]
    return float((labels == study.queries.labels[rows]).mean())


def _query_and_hits(study: Study, row: int, hits: int) -> list[Tile]:
    """A query and its first hits."""
    label, path = str(study.queries.labels[row]), study.queries.paths[row]
    name = os.fsdecode(os.path.basename(path))
    tiles = [Tile(path, "query", f"Query {name} of the class {label}", "asked-for")]
    nearest = study.search(np.array([row]), hits)
    for rank, (id, distance) in enumerate(zip(nearest.ids[0].tolist(), nearest.distances[0].tolist(), strict=True), 1):
        if id < 0:
            continue
        other = str(study.gallery.labels[id])
        same = other == label
        caption = f"{distance}" if same else f"{distance} {other}"
        alt = f"Hit {rank} at distance {distance}, of {'the same class' if same else f'the class {other}'}"
        tiles.append(Tile(study.gallery.paths[id], caption, alt, "right" if same else "wrong"))
    return tiles
