"""What a search of files gives: each query with its hits, and why they match."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.runtime.search.ranked import Rank
from queryopt.text import display_path

__all__ = ["HIT_FIELDS", "FailedQuery", "Hit", "HitField", "QueryResult", "code_hex", "differing_bits", "plain"]


@dataclass(frozen=True, eq=False)
class Hit:
    """A picture of the index that was found."""

    rank: int
    """From 1, in the order of the search."""
    distance: int
    """Hamming distance, 0..bits."""
    score: int | None
    """The sum of the query's weights (0..1023) over the bits that differ; None for a search by distance."""
    id: int
    path: bytes
    """Absolute, as of os.fsencode."""
    name: bytes
    """The path relative to the index's root."""
    label: str | None
    code: npt.NDArray[np.uint8]
    """Packed, [ceil(bits / 8)]."""
    margins: npt.NDArray[np.int8] | None
    """[bits]: how far each bit lies from flipping, signed as the logit, of at most 127."""
    differs: tuple[int, ...]
    """The bits (0-based, ascending) that are not the query's; `distance` of them."""
    stale: bool
    """The file could not be read when the index was last brought up to date: this is the code of an earlier state."""
    missing: bool
    """The file is not there now."""

    @property
    def changes(self) -> list[tuple[int, int, int]]:
        """The bits that differ, with the query's value and the hit's."""
        code = self.code.tolist()
        ones = [code[bit // 8] >> bit % 8 & 1 for bit in self.differs]
        return [(bit, 1 - one, one) for bit, one in zip(self.differs, ones, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, as files have it: the fields of HIT_FIELDS."""
        return {field.name: plain(field.value(self)) for field in HIT_FIELDS if field.in_files}


@dataclass(frozen=True)
class HitField:
    """What programs read of a hit under one name, in JSON, in CSV, and from the API of qo-serve.

    type, about: for the API's description. value: of a hit, in files; served: in the API, where that has another one.
    """

    name: str
    type: Any
    about: str | None
    value: Callable[[Hit], Any]
    served: Callable[[Hit], Any] | None = None
    in_files: bool = True

    def of_api(self, hit: Hit) -> Any:
        """Its value in an answer of the API."""
        return plain((self.served or self.value)(hit))


def _attribute(name: str, kind: Any, about: str | None = None) -> HitField:
    return HitField(name, kind, about, attrgetter(name))


HIT_FIELDS = (
    _attribute("rank", int, "From 1, in the order of the search."),
    _attribute("distance", int, "Bits that differ."),
    _attribute("score", int | None, "Of the ranks weighted and tiebreak: 0 to 1023 for each bit that differs."),
    _attribute("id", int),
    HitField("path", str, "Relative to the folder of the index.", attrgetter("path"), served=attrgetter("name")),
    _attribute("label", str | None),
    HitField("code", str, None, lambda hit: code_hex(hit.code)),
    HitField(
        "margins",
        list[int],
        "How sure each bit is: -127 to 127, negative where it is 0.",
        lambda hit: [] if hit.margins is None else hit.margins.tolist(),
        in_files=False,
    ),
    HitField(
        "differs",
        dict[int, tuple[int, int]],
        "Bit: the query's value, and the hit's.",
        lambda hit: {str(bit): [asked, own] for bit, asked, own in hit.changes},
    ),
    _attribute("stale", bool, "The code is that of an earlier state of the file."),
    _attribute("missing", bool, "The file is not there now."),
)
"""The fields of a hit, in their order. Paths are bytes here."""


@dataclass(frozen=True, eq=False)
class QueryResult:
    """A query picture and what was found for it."""

    path: bytes
    """As given, as of os.fsencode."""
    bits: int
    code: npt.NDArray[np.uint8]
    """Packed, [ceil(bits / 8)]."""
    margins: npt.NDArray[np.int8] | None
    """[bits], as in Hit."""
    label: str | None
    """Known where the picture is in the index."""
    id: int | None
    """Its id, where the picture is in the index."""
    stored: bool
    """The code is the index's: the file is unchanged since, and was not hashed again."""
    hits: tuple[Hit, ...]
    ties: int | None = 0
    """How many more pictures (within the radius, if there is one) are as near as the last hit: among equal distances,
    margins or ids decided what is shown. None for a rank that weighs the bits that differ."""
    rank: Rank = "margin"
    """The order of the hits."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "query": plain(self.path),
            "id": self.id,
            "label": plain(self.label),
            "code": code_hex(self.code),
            "stored": self.stored,
            "rank": self.rank,
            "ties": self.ties,
            "hits": [hit.to_dict() for hit in self.hits],
        }


@dataclass(frozen=True)
class FailedQuery:
    """A query picture that could not be read."""

    path: bytes
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return {"query": plain(self.path), "error": self.reason}


def code_hex(code: npt.NDArray[np.uint8]) -> str:
    """A packed code as its integer in hexadecimal: bit 0 is the last digit's lowest bit."""
    return f"0x{int.from_bytes(code.tobytes(), 'little'):0{2 * len(code)}x}"


def differing_bits(code: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> tuple[int, ...]:
    """The bits (0-based, ascending) in which two packed codes differ."""
    return tuple(np.flatnonzero(np.unpackbits(code ^ other, bitorder="little")).tolist())


def plain(value: Any) -> Any:
    """A value for JSON. A path or a label is itself where it is text, and has escapes where its bytes are none."""
    if not isinstance(value, bytes | str):
        return value
    text = os.fsdecode(value)
    return display_path(text) if any("\ud800" <= c <= "\udfff" for c in text) else text
