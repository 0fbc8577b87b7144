"""What a search of files gives: each query with its hits, and why they match."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.codes import unpack_codes

__all__ = ["FailedQuery", "Hit", "QueryResult", "code_hex", "differing_bits", "json_text"]


@dataclass(frozen=True, eq=False)
class Hit:
    """A picture of the index that was found."""

    rank: int
    """From 1, in the order of the search."""
    distance: int
    """Hamming distance, 0..bits."""
    score: int | None
    """The sum of the query's weights (0..1023) over the bits that differ; None for a search by distance alone."""
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

    def to_dict(self, query: "QueryResult") -> dict[str, Any]:
        """Ready for JSON. `differs` maps a bit to the query's value and the hit's."""
        asked, found = (unpack_codes(code[None], query.bits)[0] for code in (query.code, self.code))
        return {
            "rank": self.rank,
            "distance": self.distance,
            "score": self.score,
            "id": self.id,
            "path": json_text(self.path),
            "label": None if self.label is None else json_text(self.label),
            "code": code_hex(self.code),
            "differs": {str(bit): [int(asked[bit]), int(found[bit])] for bit in self.differs},
            "stale": self.stale,
            "missing": self.missing,
        }


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
    ids decided what is shown. None for a search of another rank than by distance."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "query": json_text(self.path),
            "id": self.id,
            "label": None if self.label is None else json_text(self.label),
            "code": code_hex(self.code),
            "stored": self.stored,
            "ties": self.ties,
            "hits": [hit.to_dict(self) for hit in self.hits],
        }


@dataclass(frozen=True)
class FailedQuery:
    """A query picture that could not be read."""

    path: bytes
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"query": json_text(self.path), "error": self.reason}


def code_hex(code: npt.NDArray[np.uint8]) -> str:
    """A packed code as its integer in hexadecimal: bit 0 is the last digit's lowest bit."""
    return f"0x{int.from_bytes(code.tobytes(), 'little'):0{2 * len(code)}x}"


def differing_bits(code: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> tuple[int, ...]:
    """The bits (0-based, ascending) in which two packed codes differ."""
    return tuple(np.flatnonzero(np.unpackbits(code ^ other, bitorder="little")).tolist())


def json_text(name: bytes | str) -> str:
    """A path or label for JSON: itself where it is text, and with escapes where the file system's bytes are none."""
    text = os.fsdecode(name)
    try:
        text.encode()
    except UnicodeEncodeError:
        from queryopt.text import display_path

        return display_path(text)
    return text
