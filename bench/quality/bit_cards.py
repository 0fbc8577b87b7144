"""A card for each bit of a model's codes: how it splits the pictures, what is lost without it, what it may mean."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined

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

    def words(self, shown: Callable[[str], str]) -> str:
        """What a bit of 1 says. shown: the attribute's name on the page."""
        return ("" if self.positive else "not ") + shown(self.attribute)


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
        pages = Environment(
            loader=PackageLoader("queryopt.bench.quality"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        pages.filters |= {"plain": _plain, "followed": lambda match: match.words(_plain)}
        return pages.get_template("bit-cards.md.jinja").render(made=self, null=_NULL)

    @property
    def most_entropy(self) -> float:
        """That the whole code could have, in bits."""
        return min(len(self.cards), float(np.log2(self.gallery)))

    def agreement(self) -> tuple[int, float, float]:
        """Of bits with attributes: how many follow theirs better than random bits (p <= 0.05 after Holm's correction),
        the mean balanced accuracy, and that of random bits.
        """
        matches = [card.by_accuracy for card in self.cards if card.by_accuracy is not None]
        mean, null = (float(np.mean([getattr(match, name) for match in matches])) for name in ("score", "null_mean"))
        return sum(match.p_holm <= 0.05 for match in matches), mean, null


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


def _plain(text: str) -> str:
    """As Markdown shows it unchanged, in a table too."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in display_path(text))
