"""The text files of data sets: rows of columns with blanks between them, each row knowing where it stands.

Data sets travel through archives, editors and operating systems, so a byte order mark, CRLF, blanks at the end of a
line and empty lines are all taken as what they are: nothing. What else differs from the layout is an error that names
file and line.
"""

import codecs
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from queryopt.errors import DataError
from queryopt.text import display_path

__all__ = ["Row", "check_same_keys", "file_lines", "keyed_rows", "read_rows"]

_BLANKS = " \t\r\f\v"
_DIGITS = 18
"""Of a number, at most: so many fit into 64 bits."""


class Row(NamedTuple):
    """One line of a file. line: its number, from 1. fields: its columns."""

    path: Path
    line: int
    fields: tuple[str, ...]

    def error(self, what: str) -> DataError:
        """What is wrong with this line, with its file and number in front."""
        return DataError(f"{display_path(self.path)}, line {self.line}: {what}")

    def whole_number(self, column: int, name: str) -> int:
        """A column as a number; `name` says in the error what it should have been. DataError for anything else."""
        text = self.fields[column]
        if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
            raise self.error(f"{display_path(text[:80])} is no {name}: a whole number is needed")
        return int(text)


def file_lines(path: Path) -> list[str]:
    """The lines of a text file without blanks at their ends; the one at position i is line i + 1.

    Bytes that are not UTF-8 become surrogates, as in names of files. DataError where there is no such file, or it holds
    what no text holds.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{display_path(path)}: no such file, and the data set's layout has it: extract the archive again"
        ) from None
    except OSError as error:
        raise DataError(f"{display_path(path)}: {error.strerror or error}; the data set can't be read") from None
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{display_path(path)}, line {line}: holds a zero byte: this is no text in UTF-8")
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    # Not splitlines, which also breaks at characters that a name may hold.
    return [line.strip(_BLANKS) for line in text.split("\n")]


def read_rows(path: Path, columns: tuple[str, ...], spaces_in: str | None = None) -> list[Row]:
    """The rows of a file, in order; empty lines are none.

    columns: what each is called, for errors. spaces_in: the first or last column, where its values may hold blanks.
    DataError for a file without rows, and for a row that has not these columns.
    """
    splits = len(columns) - 1 if spaces_in else -1
    from_right = spaces_in == columns[0]
    rows = []
    for number, line in enumerate(file_lines(path), 1):
        if not line:
            continue
        if len(columns) == 1:
            fields = [line] if spaces_in else line.split()
        else:
            fields = line.rsplit(maxsplit=splits) if from_right else line.split(maxsplit=splits)
        row = Row(path, number, tuple(fields))
        if len(fields) != len(columns):
            expected = " ".join(f"<{column}>" for column in columns)
            many = "1 column" if len(fields) == 1 else f"{len(fields)} columns"
            raise row.error(f"{display_path(line[:80])}: {many}, but the layout is {expected}")
        rows.append(row)
    if not rows:
        raise DataError(f"{display_path(path)}: no rows in it: extract the archive again")
    return rows


def keyed_rows(rows: Iterable[Row], what: str) -> dict[str, Row]:
    """Rows by their first column. DataError, with both lines, where two have the same; `what` says what it names."""
    by_key: dict[str, Row] = {}
    for row in rows:
        first = by_key.setdefault(row.fields[0], row)
        if first is not row:
            raise row.error(f"{what} {display_path(row.fields[0])} is in line {first.line} already")
    return by_key


def check_same_keys(pictures: Mapping[str, Row], others: Mapping[str, Row], what: str) -> None:
    """See that two tables are about the same pictures.

    DataError for the first row of `others` about a picture that `pictures` lacks, and for the first picture without a
    row there; `what` says what a row of `others` gives it.
    """
    listing = os.path.basename(next(iter(pictures.values())).path)
    table = os.path.basename(next(iter(others.values())).path)
    for key, row in others.items():
        if key not in pictures:
            raise row.error(f"picture {display_path(key)} is unknown: {listing} has no such id")
    for key, row in pictures.items():
        if key not in others:
            raise row.error(f"picture {display_path(key)} has no {what}: {table} has no such id")
