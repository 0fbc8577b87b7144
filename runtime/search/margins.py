"""Order among codes at one distance by their margins, which say how sure the network was of each bit.

A margin is an int8, its sign the bit, and never 0. What is equally far from a query comes in the order of (the squared
L2 distance of its margins to the query's, id). This squared distance is a result's score: with 64 bits below 2^23.
"""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError
from queryopt.runtime.search.core import load_core
from queryopt.text import counted

__all__ = ["MarginTable", "Margins", "UnknownMarginsError", "by_margins", "check_margins"]

Margins = npt.NDArray[np.int8]

_STEP = 16
"""As kMarginStep in native/kernels.h."""

_LINE = 64
"""Bytes of a line of the processor's cache."""

_PART = 1 << 16
"""Rows whose margins are compared at a time: as int32 they take 16 MiB at 64 bits."""


class UnknownMarginsError(UsageError):
    """A search by margins came to codes that have none. ids: theirs, ascending int64 [m]."""

    def __init__(self, ids: npt.NDArray[np.int64]) -> None:
        self.ids = np.unique(ids)
        super().__init__(
            f"{counted(len(self.ids), 'code', 'codes')} that may be among the results (the first is id {self.ids[0]}) "
            "have no margins: give them with set_margins"
        )


class MarginTable:
    """Margins of rows: set once each, at any time, while searches read them; 0 is one that is not known yet.

    Memory is taken when the first is asked for, and by the system for the pages that are written to.
    """

    def __init__(self, count: int, bits: int) -> None:
        self._shape = (count, -(-bits // _STEP) * _STEP)
        self._bits = bits
        self._values: Margins | None = None
        self._making = threading.Lock()

    @property
    def nbytes(self) -> int:
        return 0 if self._values is None else self._values.nbytes

    @property
    def values(self) -> Margins:
        """int8 [rows, bits up to a multiple of 16], zero beyond the bits."""
        if self._values is None:
            with self._making:
                if self._values is None:
                    # From the start of a line on, so that most rows lie within one.
                    size = self._shape[0] * self._shape[1]
                    memory = np.zeros(size + _LINE, np.int8)
                    skipped = -memory.ctypes.data % _LINE
                    self._values = memory[skipped : skipped + size].reshape(self._shape)
        return self._values

    def set(self, rows: npt.NDArray[np.int64], margins: Margins) -> None:
        """Fill in those that are not known. Not to be called by several threads at once."""
        if load_core() is not None:
            from queryopt.runtime.search import _core

            _core.set_margins(self.values, rows, margins)
            return
        new = self.values[rows, 0] == 0
        rows, margins = rows[new], margins[new]
        # The first one says that all are there: it comes last.
        self.values[rows, 1 : self._bits] = margins[:, 1:]
        self.values[rows, 0] = margins[:, 0]

    @classmethod
    def gather(
        cls, parts: Sequence[tuple["MarginTable", npt.NDArray[np.int64]]], order: npt.NDArray[np.intp] | None = None
    ) -> "MarginTable":
        """A table of these rows of several (at least one), in the order in which they come, or in another."""
        made = cls(sum(len(rows) for _, rows in parts), parts[0][0]._bits)
        start = 0
        for table, rows in parts:
            if table._values is not None:
                made.values[start : start + len(rows)] = _read(table._values, rows)
            start += len(rows)
        if order is not None and made._values is not None:
            made.values[:] = made.values[order]
        return made


def check_margins(margins: npt.ArrayLike | None, count: int, bits: int) -> Margins:
    """Margins int8 [count, bits], C-contiguous. UsageError for another dtype or shape, and where one is 0."""
    array = np.asarray(margins)
    if array.dtype != np.int8 or array.shape != (count, bits):
        given = "none" if margins is None else f"{array.dtype} {list(array.shape)}"
        raise UsageError(f"margins are {given}: {counted(count, 'code needs', 'codes need')} int8 [{count}, {bits}]")
    if not array.all():
        row, bit = np.argwhere(array == 0)[0]
        raise UsageError(f"row {row}: the margin of bit {bit} is 0: a margin's sign is the bit, so none is 0")
    return np.ascontiguousarray(array)


def by_margins(
    rows: npt.NDArray[np.int64], distances: npt.NDArray[np.uint8], table: Margins, query: Margins
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The order of rows by (distance, squared distance of margins, row), the squares in it, the rows without margins.

    rows, distances: in (distance, row) order. table: `MarginTable.values`. query: its margins, [bits].
    """
    squares = np.empty(len(rows), np.int32)
    unknown = [np.empty(0, np.int64)]
    for start in range(0, len(rows), _PART):
        part = rows[start : start + _PART]
        margins = _read(table, part)
        unknown.append(part[margins[:, 0] == 0])
        difference = margins[:, : len(query)].astype(np.int32) - query
        squares[start : start + _PART] = np.einsum("ij,ij->i", difference, difference)
    order = np.lexsort((squares, distances))
    return order, squares[order], np.concatenate(unknown)


def _read(table: Margins, rows: npt.NDArray[np.int64]) -> Margins:
    """Rows of a table, all 0 where they are not known."""
    unknown = table[rows, 0] == 0  # before the others are read: they may be on their way
    margins = table[rows]
    margins[unknown] = 0
    return margins
