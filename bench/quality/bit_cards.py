"""A card for each bit of a model's codes: how it splits the pictures, what is lost without it, what it may mean."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.quality.attribute_match import BitsAndAttributes, Match, holm, match_attributes
from queryopt.bench.quality.labelled_codes import LabelledCodes, own_rows
from queryopt.bench.quality.pictures import full_paths
from queryopt.bit_quality import bit_quality, drop_losses
from queryopt.codes import unpack_codes
from queryopt.text import display_path
from queryopt.train.data import LabelledImages
from queryopt.train.datasets.attributes import ImageAttributes
from queryopt.train.sources import has_attributes, load_attributes

__all__ = ["AttributeMatch", "BitCard", "BitCards", "load_all_attributes", "make_bit_cards"]

_NULL = "random bits: the bit itself, dealt out to other classes by a permutation of them, matched and scored alike"
_NOT_VISIBLE = 1


@dataclass(frozen=True)
class AttributeMatch:
    """A bit's best attribute; the figures are those of `queryopt.bench.quality.attribute_match.Match`.

    p_holm: the p-value adjusted for the number of bits.
    """

    attribute: str
    positive: bool
    matched: float
    score: float
    null_mean: float
    null_high: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class BitCard:
    """One bit. Shares and correlations are over the gallery; most_correlated is None for a code of one bit; the two
    matches are None where the data has no attributes.
    """

    bit: int
    ones: float
    entropy: float
    most_correlated: int | None
    correlation: float | None
    drop_loss: float
    drop_standard_error: float
    by_information: AttributeMatch | None = None
    by_accuracy: AttributeMatch | None = None


@dataclass(frozen=True, eq=False)
class BitCards:
    """The cards of a model's bits, and what they were taken from.

    gallery: pictures whose codes were looked at. distinct: different codes among them. code_entropy: see BitQuality.
    mean_correlation: mean absolute correlation of two bits. correlation: float64 [bits, bits]. drop_queries: queries
    that losses were measured over. map: theirs with all bits. permutations: random bits for each bit, None without
    attributes; classes, attributes: those that took part.
    """

    model: str
    gallery: int
    distinct: int
    code_entropy: float
    mean_correlation: float
    correlation: npt.NDArray[np.float64]
    drop_queries: int
    map: float
    cards: tuple[BitCard, ...]
    permutations: int | None = None
    classes: int | None = None
    attributes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        values = {name: value for name, value in vars(self).items() if name not in ("cards", "correlation")}
        null = {} if self.permutations is None else {"null": _NULL}
        cards = [asdict(card) for card in self.cards]
        return values | null | {"cards": cards, "correlation": self.correlation.tolist()}

    def to_json(self) -> str:
        return json.dumps({"bit_cards": self.to_dict()}, indent=2, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """As a page: what all have in common, a table, and a card a bit."""
        return "\n".join([*self._head(), *self._table(), *(line for card in self.cards for line in _card(card))])

    def agreement(self) -> tuple[int, float, float]:
        """Of bits with attributes: how many follow theirs better than random bits (p <= 0.05 after Holm's correction),
        the mean balanced accuracy, and that of random bits.
        """
        matches = [card.by_accuracy for card in self.cards if card.by_accuracy is not None]
        mean, null = (float(np.mean([getattr(match, name) for match in matches])) for name in ("score", "null_mean"))
        return sum(match.p_holm <= 0.05 for match in matches), mean, null

    def _head(self) -> list[str]:
        bits = len(self.cards)
        lines = [
            f"# Bit cards: {_plain(self.model)}",
            "",
            f"- {bits} bits, {self.gallery:,} gallery pictures, {self.distinct:,} different codes",
            f"- entropy of the whole code: {self.code_entropy:.2f} bits (at most {self._most_entropy():.2f} here)",
            f"- mean absolute correlation of two bits: {self.mean_correlation:.3f}",
            f"- mAP with all bits: {self.map:.4f}; losses without a bit are over {self.drop_queries:,} queries",
        ]
        if self.permutations is not None:
            sure, mean, null = self.agreement()
            lines += [
                f"- attributes: of {self.attributes} each bit's best, chosen on the gallery and scored on the queries "
                f"({self.classes} classes)",
                f"- mean balanced accuracy of the bits {mean:.3f}, of random bits {null:.3f}; {sure} of {bits} bits "
                "are above theirs (p <= 0.05 after Holm's correction)",
                f"- {_NULL}; {self.permutations:,} for each bit",
            ]
        return [*lines, ""]

    def _most_entropy(self) -> float:
        return min(len(self.cards), float(np.log2(self.gallery)))

    def _table(self) -> list[str]:
        head = ["bit", "ones", "entropy", "most correlated", "lost without"]
        attributes = self.permutations is not None
        head += ["attribute (accuracy)", "score", "random", "p"] if attributes else []
        lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for card in self.cards:
            other = "" if card.correlation is None else f"{card.most_correlated} ({card.correlation:+.2f})"
            cells = [f"{card.bit}", f"{card.ones:.3f}", f"{card.entropy:.3f}", other]
            cells.append(f"{card.drop_loss:+.4f} ± {card.drop_standard_error:.4f}")
            if (match := card.by_accuracy) is not None:
                cells += [_name(match), f"{match.score:.3f}", f"{match.null_mean:.3f}", f"{match.p:.3f}"]
            lines.append(f"| {' | '.join(cells)} |")
        return [*lines, ""]


def load_all_attributes(data: str, *parts: LabelledImages) -> ImageAttributes | None:
    """The attributes of all pictures of some parts of a data set, by their absolute paths; None where it has none.

    data: see queryopt.train.sources. DataError where its attributes are damaged or don't fit.
    """
    if not has_attributes(data):
        return None
    loaded = [load_attributes(data, part) for part in parts]
    return ImageAttributes(
        loaded[0].names,
        tuple(os.fsdecode(path) for part in parts for path in full_paths(part)),
        np.concatenate([part.present for part in loaded]),
        np.concatenate([part.certainties for part in loaded]),
    )


def make_bit_cards(
    model: str,
    gallery: LabelledCodes,
    queries: LabelledCodes,
    attributes: ImageAttributes | None = None,
    *,
    most_queries: int | None = 2000,
    permutations: int = 999,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> BitCards:
    """Look at network codes of a gallery and of queries.

    model: its name, for the page. attributes: of at least these pictures, by the codes' paths; those that are not
    visible don't count. most_queries: see drop_losses. permutations, seed: see match_attributes. progress: called
    with 1 a ranking, bits + 1 times.
    """
    bits = gallery.bits
    quality = bit_quality(gallery.codes, bits)
    losses = drop_losses(
        queries.codes,
        gallery.codes,
        bits,
        queries.labels,
        gallery.labels,
        exclude_self=own_rows(gallery, queries),
        most_queries=most_queries,
        progress=progress,
    )
    matches, about = _matches(gallery, queries, attributes, permutations, seed)
    cards = []
    for bit, (by_information, by_accuracy) in enumerate(matches):
        other, correlation = quality.most_correlated(bit) or (None, None)
        cards.append(
            BitCard(
                bit=bit,
                ones=float(quality.ones[bit]),
                entropy=float(quality.entropy[bit]),
                most_correlated=other,
                correlation=correlation,
                drop_loss=float(losses.loss[bit]),
                drop_standard_error=float(losses.standard_error[bit]),
                by_information=by_information,
                by_accuracy=by_accuracy,
            )
        )
    pairs = np.abs(quality.correlation[np.triu_indices(bits, 1)])
    return BitCards(
        model=model,
        gallery=quality.items,
        distinct=quality.distinct,
        code_entropy=quality.code_entropy,
        mean_correlation=float(pairs.mean()) if pairs.size else 0.0,
        correlation=quality.correlation,
        drop_queries=losses.queries,
        map=losses.map,
        cards=tuple(cards),
        **about,
    )


def _matches(
    gallery: LabelledCodes, queries: LabelledCodes, attributes: ImageAttributes | None, permutations: int, seed: int
) -> tuple[Sequence[tuple[AttributeMatch | None, AttributeMatch | None]], dict[str, int]]:
    """Each bit's best attribute by information and by accuracy, and what they were taken from."""
    if attributes is None:
        return [(None, None)] * gallery.bits, {}
    sides = [_side(codes, attributes) for codes in (gallery, queries)]
    best = match_attributes(*sides, permutations=permutations, seed=seed)
    named = (_named(matches, attributes.names) for matches in (best.by_information, best.by_accuracy))
    about = {"permutations": best.permutations, "classes": best.classes, "attributes": len(best.candidates)}
    return list(zip(*named, strict=True)), about


def _side(codes: LabelledCodes, attributes: ImageAttributes) -> BitsAndAttributes:
    row_of = {os.fsencode(path): row for row, path in enumerate(attributes.paths)}
    rows = [row_of[path] for path in codes.paths]
    bits = unpack_codes(codes.codes, codes.bits).astype(np.bool_)
    return BitsAndAttributes(bits, attributes.present[rows], attributes.certainties[rows] != _NOT_VISIBLE, codes.labels)


def _named(matches: tuple[Match, ...], names: tuple[str, ...]) -> list[AttributeMatch]:
    adjusted = holm([match.p for match in matches]).tolist()
    return [
        AttributeMatch(**(asdict(match) | {"attribute": names[match.attribute], "p_holm": p}))
        for match, p in zip(matches, adjusted, strict=True)
    ]


def _card(card: BitCard) -> list[str]:
    lines = [
        f"## Bit {card.bit}",
        "",
        f"- 1 for {100 * card.ones:.1f} % of the pictures; entropy {card.entropy:.3f} bits",
    ]
    if card.correlation is not None:
        lines.append(f"- most correlated with bit {card.most_correlated}: {card.correlation:+.3f}")
    lines.append(f"- lost without it: {card.drop_loss:+.4f} of the mAP (standard error {card.drop_standard_error:.4f})")
    for match, what, unit in (
        (card.by_accuracy, "balanced accuracy", ""),
        (card.by_information, "mutual information", " bits"),
    ):
        if match is not None:
            lines.append(
                f"- by {what}: **{_name(match)}**, {match.score:.3f}{unit}; random bits {match.null_mean:.3f} in the "
                f"mean, 95 % of them at most {match.null_high:.3f}; p = {match.p:.3f}, with Holm's correction for "
                f"all bits {match.p_holm:.3f}"
            )
    return [*lines, ""]


def _name(match: AttributeMatch) -> str:
    return ("" if match.positive else "not ") + _plain(match.attribute)


def _plain(text: str) -> str:
    """As Markdown shows it unchanged, in a table too."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in display_path(text))
