"""A code as a strip of squares, one a bit: what the SVG of templates/hits.html.jinja is filled with."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from queryopt.codes import unpack_codes

__all__ = ["CodeStrip", "code_strip"]

_ROW = 21
"""Height of a row of bits: 12 for the squares, and above them their numbers."""
_SURENESS = (8, 24, 48)
"""Margins (of 127) from which a bit is drawn in the next stronger of four shades."""
_SHADES = tuple(sum(margin >= step for step in _SURENESS) for margin in range(129))


@dataclass(frozen=True)
class CodeStrip:
    """The inside of an SVG, and its size."""

    width: int
    height: int
    squares: Markup


def code_strip(
    code: npt.NDArray[np.uint8],
    bits: int,
    margins: npt.NDArray[np.int8] | None,
    differs: Collection[int],
    name: str | None = None,
) -> CodeStrip:
    """A packed code: a square full for 1, hollow for 0. margins: [bits], as shades. differs: not the query's bits.

    Every eighth bit has its number above it; the others say theirs when pointed at. name: where a script lets bits be
    chosen: bit 3 is the option of the id `name`-3. A word of letters and digits.
    """
    width, height, corners = _layout(bits)
    values = unpack_codes(code[None], bits)[0].tolist()
    sure = None if margins is None else np.abs(margins.astype(np.int16)).tolist()
    parts = []
    for bit, (value, (x, y)) in enumerate(zip(values, corners, strict=True)):
        kind = "one" if value else "zero"
        words = f"bit {bit}: {value}"
        if bit in differs:
            kind += " other"
            words = f"bit {bit}: query {1 - value}, this {value}"
        if sure is not None:
            kind += f" m{_SHADES[sure[bit]]}"
            words += f", margin {sure[bit]} of 127"
        if bit % 8 == 0:
            parts.append(f'<text x="{x}" y="{y - 3}">{bit}</text>\n')
        choice = "" if name is None else f' id="{name}-{bit}" role="option" data-bit="{bit}"'
        # A page has a thousand, of numbers and our own words alone: in a template they would be most of its time.
        parts.append(
            f'<rect{choice} class="{kind}" x="{x}" y="{y}" width="8" height="8" rx="2"><title>{words}</title></rect>\n'
        )
    return CodeStrip(width, height, Markup("".join(parts)))


@cache
def _layout(bits: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Width, height, and the corner of each square, of 8 in a field of 12."""
    rows = math.ceil(bits / (12 if bits % 12 == 0 else 16))
    columns = math.ceil(bits / rows)
    corners = [(bit % columns * 12 + 1, bit // columns * _ROW + _ROW - 11) for bit in range(bits)]
    return columns * 12 - 2, rows * _ROW - 2, corners
