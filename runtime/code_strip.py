"""A code drawn as a strip of bits, and what of it differs."""

import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from queryopt.codes import unpack_codes
from queryopt.runtime.hits import Hit, code_hex
from queryopt.runtime.markup import Markup, element

__all__ = ["bit_cell", "bit_differences", "code_strip"]

_ROW = 21
"""Height of a row of bits: 12 for the squares, and above them their numbers."""
_SURENESS = (8, 24, 48)
"""Margins (of 127) from which a bit is drawn in the next stronger of four shades."""


def code_strip(
    code: npt.NDArray[np.uint8],
    bits: int,
    margins: npt.NDArray[np.int8] | None,
    differs: Collection[int],
    label: str,
    name: str | None = None,
) -> Markup:
    """A code as an SVG (which prints, where backgrounds don't): a square a bit, full for 1, hollow for 0.

    Every eighth bit has its number above it; the others say theirs when pointed at. name: where a script lets bits be
    chosen: the strip can have the focus, and bit 3 is the option of the id `name`-3. A word of letters and digits.
    """
    rows = math.ceil(bits / (12 if bits % 12 == 0 else 16))
    columns = math.ceil(bits / rows)
    values = unpack_codes(code[None], bits)[0]
    cells = []
    for bit in range(bits):
        kind = "one" if values[bit] else "zero"
        tip = f"bit {bit}: {values[bit]}"
        if bit in differs:
            kind += " other"
            tip = f"bit {bit}: query {1 - values[bit]}, this {values[bit]}"
        if margins is not None:
            margin = abs(int(margins[bit]))
            kind += f" m{sum(margin >= step for step in _SURENESS)}"
            tip += f", margin {margin} of 127"
        x, y = bit % columns * 12, bit // columns * _ROW
        if bit % 8 == 0:
            cells.append(element("text", str(bit), x=x + 1, y=y + 7))
        choice = "" if name is None else f' id="{name}-{bit}" role="option" data-bit="{bit}"'
        cells.append(_square(kind, x, y + _ROW - 12, choice, f"<title>{tip}</title>"))
    width, height = columns * 12 - 2, rows * _ROW - 2
    return element(
        "svg",
        *cells,
        class_="strip",
        viewBox=f"0 0 {width} {height}",
        width=width * 3 // 2,
        role="img" if name is None else "listbox",
        tabindex=None if name is None else 0,
        aria_label=label + code_hex(code),
    )


def bit_differences(hit: Hit, bits: int) -> Markup:
    """The bits in which a hit differs from its query, with both values; that all agree, where none does."""
    if not hit.differs:
        return element("p", "all bits agree", class_="agree")
    found = unpack_codes(hit.code[None], bits)[0]
    items = [element("li", f"{bit} ", element("span", f"{1 - found[bit]}→{found[bit]}")) for bit in hit.differs]
    return element("ul", *items, class_="differs", aria_label="Bits that differ, from the query's to the hit's")


def bit_cell(kind: str, x: int, y: int) -> Markup:
    """A square of 10 in a field of 12, whose corner is at x, y. kind: its classes."""
    return _square(kind, x, y, "", "")


def _square(kind: str, x: int, y: int, attributes: str, inside: str) -> Markup:
    # A page has a thousand of them, of nothing but numbers and our own words: elements would be most of its time.
    return Markup(
        f'<rect{attributes} class="{kind}" x="{x + 1}" y="{y + 1}" width="8" height="8" rx="2">{inside}</rect>'
    )
