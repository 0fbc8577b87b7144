"""What qo-eval found out about each bit, read from the JSON that it writes."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from queryopt.errors import FormatError, InputError, MismatchError
from queryopt.text import display_path, parse_json

__all__ = ["BitMeaning", "read_bit_cards"]


@dataclass(frozen=True)
class BitMeaning:
    """The attribute that a bit follows best, if the data had attributes, and what is lost without the bit.

    positive: the bit is 1 where the attribute is there. accuracy: balanced, on pictures that it was not chosen on.
    p: of random bits, with Holm's correction. drop_loss: of the mAP.
    """

    drop_loss: float | None = None
    attribute: str | None = None
    positive: bool = True
    accuracy: float | None = None
    p: float | None = None


def read_bit_cards(path: Path, bits: int) -> tuple[BitMeaning, ...]:
    """Read the file that `qo-eval --bits-out bits.json` writes. FormatError for another file, MismatchError for one of
    another code length.
    """
    where = display_path(path)
    try:
        values = parse_json(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"{where}: {(error.strerror or str(error)).lower()}: give the JSON of qo-eval --bits-out"
        ) from None
    except ValueError as error:
        raise FormatError(
            f"{where}: not JSON ({error}): give the file that qo-eval --bits-out bits.json writes"
        ) from None
    try:
        cards = values["bit_cards"]["cards"]
        meanings = tuple(_meaning(card, bit) for bit, card in enumerate(cards))
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{where}: no cards of bits in it ({error!r}): give the file that qo-eval --bits-out bits.json writes"
        ) from None
    if len(meanings) != bits:
        raise MismatchError(f"{where}: cards of {len(meanings)} bits, and the index has codes of {bits}")
    return meanings


def _meaning(card: dict[str, Any], bit: int) -> BitMeaning:
    if card["bit"] != bit:
        raise ValueError(f"card {bit} is that of bit {card['bit']!r}")
    match = card.get("by_accuracy")
    if match is None:
        return BitMeaning(_number(card["drop_loss"]))
    return BitMeaning(
        _number(card["drop_loss"]),
        str(match["attribute"]),
        bool(match["positive"]),
        _number(match["score"]),
        _number(match["p_holm"]),
    )


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no number")
    return number
