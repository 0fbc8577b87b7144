"""What each bit does, and the pictures that it is surest of (Figure 6)."""

import numpy as np
import numpy.typing as npt

from queryopt.bench.figure import new_figure
from queryopt.bench.quality.bit_cards import AttributeMatch, BitCard
from queryopt.bench.quality.report.page import LeftOutError, Section
from queryopt.bench.quality.report.study import Study, first_of_each
from queryopt.bench.quality.report.tiles import Row, Strip, Tile
from queryopt.bit_quality import NEARLY_CONSTANT
from queryopt.text import counted, display_path

__all__ = ["bit_cards", "bit_strips", "surest"]

_TILES = 10


def bit_cards(study: Study) -> Section:
    """A row a bit, and how the bits go together."""
    cards = study.cards
    dead = [card.bit for card in cards.cards if min(card.ones, 1 - card.ones) < NEARLY_CONSTANT]
    finding = (
        f"{counted(cards.distinct, 'different code', 'different codes')} among {cards.gallery:,} gallery pictures; two "
        f"bits correlate by {cards.mean_correlation:.2f} in the mean"
    )
    if dead:
        finding += f"; nearly constant: {counted(len(dead), 'bit', 'bits')} ({', '.join(map(str, dead[:8]))})"
    matched = cards.permutations is not None
    if matched:
        sure, score, null = cards.agreement()
        finding += (
            f". {sure} of {study.bits} bits follow a visual attribute better than random bits do (p ≤ 0.05, Holm); "
            f"balanced accuracy {score:.2f} in the mean, of random bits {null:.2f}"
        )
    columns = ["bit", "ones", "entropy", "goes most with", "mAP lost without it"]
    columns += ["follows (attribute)", "accuracy", "random bits", "p, Holm"] if matched else []
    rows = []
    for card in cards.cards:
        other = "" if card.correlation is None else f"bit {card.most_correlated} ({card.correlation:+.2f})"
        cells = [f"bit {card.bit}", f"{card.ones:.2f}", f"{card.entropy:.2f}", other]
        cells.append(f"{card.drop_loss:+.4f} ± {card.drop_standard_error:.4f}")
        if (match := card.by_accuracy) is not None:
            cells += [followed(match), f"{match.score:.2f}", f"{match.null_mean:.2f}", f"{match.p_holm:.3f}"]
        rows.append(cells)
    figure = new_figure(6.0, 4.8)
    axes = figure.subplots()
    image = axes.imshow(cards.correlation, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axes.set(xlabel="bit", ylabel="bit")
    figure.colorbar(image, ax=axes, fraction=0.045, label="correlation over the gallery")
    bars = new_figure(6.0, 4.8)
    axes = bars.subplots()
    losses = [card.drop_loss for card in cards.cards]
    axes.bar(
        range(len(losses)), losses, yerr=[card.drop_standard_error for card in cards.cards], color="C0", ecolor="C7"
    )
    axes.axhline(0, color="C7", linewidth=0.8)
    axes.set(xlabel="bit", ylabel="mAP lost without it")
    axes.grid(axis="y")
    values = {
        "correlation": study.figures.embed("bit-correlation", figure),
        "losses": study.figures.embed("bit-losses", bars),
        "bits": study.bits,
        "mean": cards.mean_correlation,
        "columns": columns,
        "rows": rows,
        "permutations": cards.permutations,
    }
    return Section("bit-cards", "Bit cards", finding + ".", values)


def bit_strips(study: Study) -> Section:
    """For each bit the test pictures where it is most surely 1 and 0."""
    if study.queries.logits is None:
        raise LeftOutError("the logits of these codes are not known")
    labels = study.queries.labels
    rows = []
    for card in study.cards.cards:
        logits = study.queries.logits[:, card.bit]
        strips = []
        for value, order in ((1, np.argsort(-logits, kind="stable")), (0, np.argsort(logits, kind="stable"))):
            right = order[(logits[order] >= 0) == bool(value)]
            chosen = surest(right, labels, _TILES)
            tiles = [
                Tile(
                    study.queries.paths[row],
                    f"{logits[row]:+.2f}",
                    f"Bit {card.bit} is {value}: a picture of the class {labels[row]}, logit {logits[row]:+.2f}",
                )
                for row in chosen
            ]
            none = "" if tiles else ": never, on these pictures"
            strips.append(Strip(tiles, f"surely {value}{none}"))
        rows.append(Row(f"Bit {card.bit}", _about(card), strips))
    kinds = len(np.unique(labels))
    finding = (
        "The test pictures that each bit is surest of, at most one a class"
        if kinds >= _TILES
        else "The test pictures that each bit is surest of"
    )
    return Section("bits", "Single bits (Figure 6)", finding + ".", {"tiles": study.tiles.embed("bit-strips", rows)})


def surest(order: npt.NDArray[np.intp], labels: npt.NDArray[np.str_], most: int) -> list[int]:
    """The first rows of an order, one a class as long as there are new classes, then others: at most so many."""
    chosen = first_of_each(labels, order, most)
    if len(chosen) < most and len(np.unique(labels)) < most:
        chosen += [row for row in order.tolist() if row not in set(chosen)][: most - len(chosen)]
    return chosen


def followed(match: AttributeMatch) -> str:
    """The attribute's name as words."""
    return ("" if match.positive else "not ") + display_path(match.attribute).replace("_", " ").replace("::", ": ")


def _about(card: BitCard) -> list[str]:
    lines = [f"1 for {100 * card.ones:.0f} % of the gallery"]
    match = card.by_accuracy
    if match is not None:
        sure = "" if match.p_holm <= 0.05 else ", no better than random bits"
        lines.append(f"{followed(match)}: {match.score:.2f} (random {match.null_mean:.2f}){sure}")
    return lines
