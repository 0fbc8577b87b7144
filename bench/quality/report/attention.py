"""Where each query looks, on sample pictures (Figure 7)."""

import numpy as np
import numpy.typing as npt

from queryopt.bench.quality.report.page import LeftOutError, Section
from queryopt.bench.quality.report.study import Study, spread
from queryopt.bench.quality.report.tiles import Row, Strip, Tile
from queryopt.metrics import unit_vectors
from queryopt.text import display_path

__all__ = ["attention_maps", "overlay"]

_PICTURES = 4
_SIDE = 96


def attention_maps(study: Study) -> Section:
    """Every query's attention over a few test pictures."""
    rows = np.array([_of_class(study, name) for name in spread(study.classes, _PICTURES)])
    pixels = study.pixels(rows)
    look = study.model.look(pixels)
    if look is None:
        raise LeftOutError("an exported model without attention: give its run folder, or export it with --explain")
    if look.attention is None:
        raise LeftOutError(f"the method {study.model.method} has no queries, so nothing that attends")
    shown = []
    for picture, row, maps in zip(pixels, rows.tolist(), look.attention, strict=True):
        label = str(study.queries.labels[row])
        bits = study.query_bits[row]
        tiles = [Tile(overlay(picture, None), "picture", f"A picture of the class {label}")]
        tiles += [
            Tile(overlay(picture, one), f"{bit}: {bits[bit]}", f"Where bit {bit} looks, which is {bits[bit]} here")
            for bit, one in enumerate(maps)
        ]
        shown.append(Row(display_path(label), (), [Strip(tiles)]))
    every = study.sample_look
    assert every is not None
    assert every.attention is not None
    spread_of, alike = _spread_and_likeness(every.attention)
    cells = every.attention.shape[-1] ** 2
    finding = (
        f"A query's look covers {spread_of:.0f} of {cells} cells of the picture in the mean (the exponential of its "
        f"entropy); the maps of two queries on one picture correlate by {alike:.2f}."
    )
    values = {"tiles": study.tiles.embed("attention", shown, large=True)}
    return Section("attention", "Where the queries look (Figure 7)", finding, values)


def overlay(picture: npt.NDArray[np.uint8], attention: npt.NDArray[np.float32] | None) -> npt.NDArray[np.uint8]:
    """A picture uint8 [s, s, 3] under a map of warm colours, float32 [g, g]; None for the picture alone.

    Returns uint8 [96, 96, 3].
    """
    from matplotlib import colormaps
    from PIL import Image

    image = Image.fromarray(picture).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    if attention is None:
        return np.asarray(image)
    low, high = float(attention.mean()), float(attention.max())
    level = np.clip((attention - low) / (high - low), 0, 1) if high > low else np.zeros_like(attention)
    smooth = Image.fromarray(level.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    heat = np.clip(np.asarray(smooth), 0, 1)[..., None]  # [side, side, 1]
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    dimmed = 0.75 * (0.35 * np.asarray(image, np.float32) / 255 + 0.65 * grey) + 0.1
    warm = colormaps["inferno"](0.3 + 0.65 * heat[..., 0])[..., :3]
    weight = 0.85 * heat**0.8
    mixed = dimmed * (1 - weight) + warm * weight
    shown: npt.NDArray[np.uint8] = (255 * np.clip(mixed, 0, 1)).astype(np.uint8)
    return shown


def _of_class(study: Study, name: str) -> int:
    """The class's query of the middle average precision: neither its best nor its worst."""
    rows = np.flatnonzero(study.queries.labels == name)
    precision = np.nan_to_num(study.deployed.metrics.average_precision[rows])
    return int(rows[np.argsort(precision, kind="stable")[len(rows) // 2]])


def _spread_and_likeness(attention: npt.NDArray[np.float32]) -> tuple[float, float]:
    """The mean exponential of the maps' entropy, in cells, and the mean correlation of two bits' maps of a picture."""
    flat = attention.reshape(*attention.shape[:2], -1).astype(np.float64)  # [n, bits, cells]
    entropy = -(flat * np.log(np.where(flat > 0, flat, 1))).sum(axis=2)
    unit = unit_vectors(flat - flat.mean(axis=2, keepdims=True))
    bits = flat.shape[1]
    if bits == 1:
        return float(np.exp(entropy).mean()), 1.0
    products = unit @ unit.transpose(0, 2, 1)
    return float(np.exp(entropy).mean()), float(products[:, *np.triu_indices(bits, 1)].mean())
