"""How alike the queries and their features are (Figure 8), and how features of classes lie (Figure 13)."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.figure import new_figure, plain
from queryopt.bench.quality.report.page import LeftOutError, Section
from queryopt.bench.quality.report.study import Study, spread
from queryopt.bench.quality.welch import cosine_matrix
from queryopt.metrics import unit_vectors
from queryopt.text import install_extra

__all__ = ["feature_map", "query_similarity", "separation"]

_CLASSES = 3
_Floats = npt.NDArray[np.float32]


def query_similarity(study: Study) -> Section:
    """Cosines between the queries, and between the attribute features of three classes."""
    if study.run is None:
        raise LeftOutError("an exported model alone: queries are folded into its weights; give the run folder")
    queries = getattr(study.run.network, "queries", None)
    look = study.sample_look
    if queries is None or look is None or look.attributes is None:
        raise LeftOutError(f"the method {study.model.method} has no queries, and its bits share one feature")
    labels = study.queries.labels[study.sample]
    own = cosine_matrix(queries.detach().cpu().numpy())
    names = spread(sorted(set(labels.tolist())), _CLASSES)
    matrices = {"(a) the learnt queries": own}
    for letter, name in zip("bcd", names, strict=False):
        of_class = look.attributes[labels == name]  # [n, bits, dim]
        mean = np.mean([cosine_matrix(one) for one in of_class], axis=0)
        matrices[f"({letter}) features, {plain(name, 24)}"] = mean
    pairs = np.triu_indices(study.bits, 1)
    off = {title: float(np.abs(matrix[pairs]).mean()) if study.bits > 1 else 0.0 for title, matrix in matrices.items()}
    figure = new_figure(3.1 * len(matrices) + 0.8, 3.4)
    grid = figure.subplots(1, len(matrices), squeeze=False)[0]
    image: Any = None
    for axes, (title, matrix) in zip(grid, matrices.items(), strict=True):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        axes.set_title(title, fontsize=8.5)
        axes.set_xlabel(f"off the diagonal: {off[title]:.2f}", fontsize=8)
    figure.colorbar(image, ax=grid.tolist(), fraction=0.03, label="cosine")
    equal, unequal = _by_value(look.attributes, study.query_bits[study.sample])
    finding = (
        f"Two queries have a cosine of {off['(a) the learnt queries']:.2f} in the mean, without sign; the attribute "
        f"features of two bits of a picture have {equal:+.2f} where both bits are equal, and {unequal:+.2f} where not."
    )
    values = {"figure": study.figures.embed("similarity", figure)}
    return Section("similarity", "Similarity of queries and features (Figure 8)", finding, values)


def _by_value(attributes: _Floats, bits: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """The mean cosine of two bits' features of a picture: where the bits are equal, and where they are not.

    attributes: [n, bits, dim]. bits: [n, bits].
    """
    pairs = np.triu_indices(bits.shape[1], 1)
    cosines = np.stack([cosine_matrix(one)[pairs] for one in attributes])  # [n, pairs]
    same = bits[:, pairs[0]] == bits[:, pairs[1]]
    return (
        float(cosines[same].mean()) if same.any() else 0.0,
        float(cosines[~same].mean()) if not same.all() else 0.0,
    )


def feature_map(study: Study) -> Section:
    """The features of test pictures in the plane, of both runs where there are two."""
    if study.run is None:
        raise LeftOutError("an exported model alone gives no features: give the run folder")
    if find_spec("sklearn") is None:
        raise LeftOutError(f"t-SNE needs scikit-learn, which is not installed: {install_extra('report')}")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    labels = study.queries.labels[study.sample]
    if len(labels) < 5:
        raise LeftOutError(f"{len(labels)} pictures are too few for a map")
    looks = {
        title: study.sample_look if run is study.run else run.look(study.pixels(study.sample, run))
        for title, run in study.runs.items()
    }
    names = sorted(set(labels.tolist()))
    figure = new_figure(5.4 * len(looks), 5.0)
    grid = figure.subplots(1, len(looks), squeeze=False)[0]
    rows = []
    for axes, (title, look) in zip(grid, looks.items(), strict=True):
        assert look is not None
        assert look.features is not None
        perplexity = min(30.0, (len(labels) - 1) / 3)
        method: Any = TSNE(perplexity=perplexity, init="pca", random_state=study.seed, n_jobs=1)
        # Thousands of columns first become 50, as is usual: distances hardly change, and it is many times quicker.
        parts = min(50, *look.features.shape)
        # On one thread: sums in another order would make another map.
        with threadpool_limits(1):
            reduced = PCA(parts, svd_solver="full").fit_transform(look.features.astype(np.float64))
            plane = method.fit_transform(reduced)
        _scatter(axes, plane, labels, names)
        axes.set_title(plain(title))
        within, between, nearest = separation(look.features, labels)
        rows.append(
            (title, f"{within:.3f}", f"{between:.3f}", f"{between / within:.2f}" if within else "", f"{nearest:.3f}")
        )
    finding = f"Features of {len(labels)} test pictures of {len(names)} classes: " + "; ".join(
        f"in {title}, {100 * float(nearest):.0f} % have a picture of their own class nearest"
        for title, *_, nearest in rows
    )
    values = {
        "figure": study.figures.embed("t-sne", figure),
        "classes": len(names),
        "rows": rows,
        "alone": study.other is None,
    }
    return Section("t-sne", "Map of the features (t-SNE, Figure 13)", finding + ".", values)


def separation(features: _Floats, labels: npt.NDArray[np.str_]) -> tuple[float, float, float]:
    """How far classes lie apart: (mean distance of a picture to its class's mean, mean distance of two classes' means,
    share of pictures whose nearest other one is of their class). features: float [n, d], scaled to unit length first.
    """
    unit = unit_vectors(features).astype(np.float64)
    names, classes = np.unique(labels, return_inverse=True)
    means = np.stack([unit[classes == k].mean(axis=0) for k in range(len(names))])
    within = float(np.linalg.norm(unit - means[classes], axis=1).mean())
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)[np.triu_indices(len(names), 1)]
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = float((classes[cosines.argmax(axis=1)] == classes).mean())
    return within, float(apart.mean()) if len(apart) else 0.0, nearest


def _scatter(axes: Any, plane: _Floats, labels: npt.NDArray[np.str_], names: list[str]) -> None:
    from matplotlib import colormaps

    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    markers = "o^sDv"
    for n, name in enumerate(names):
        points = plane[labels == name]
        color, marker = colors[n % len(colors)], markers[n // len(colors) % len(markers)]
        axes.scatter(points[:, 0], points[:, 1], s=14, color=color, marker=marker, linewidths=0)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
