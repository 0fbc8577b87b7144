"""Results of searches as files: a line of JSON a query, or CSV with a row a hit. There whole, or not at all."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from queryopt.errors import UsageError
from queryopt.files import replacing
from queryopt.runtime.hits import HIT_FIELDS, FailedQuery, Hit, QueryResult, code_hex
from queryopt.runtime.outputs import field_to_csv, path_to_text
from queryopt.text import display_path, json_line

__all__ = ["check_results", "result_line", "served_csv", "writing_results"]

Write: TypeAlias = Callable[[QueryResult | FailedQuery], object]

_CSV = ".csv"
_LINES = (".jsonl", ".ndjson", ".json")
_HIT_FIELDS = tuple(field for field in HIT_FIELDS if field.in_files)
_FIELDS = ("query", "query_label", "query_code", *(field.name for field in _HIT_FIELDS), "error")


def check_results(path: Path) -> None:
    """Raise UsageError where results can't be written to a file of this name."""
    suffix = path.suffix.lower()
    if suffix and suffix != _CSV and suffix not in _LINES:
        raise UsageError(
            f"{display_path(path)}: the ending says the format: {', '.join(_LINES)} or none for a line of JSON a query "
            f"and {_CSV} for a row a hit"
        )


@contextmanager
def writing_results(path: Path) -> Iterator[Write]:
    """Open a file of results; the ending of its name says the format. Yields a function that appends a query's.

    The file takes `path`'s place when the block ends without an error; what is there must be such a file (UsageError).
    """
    check_results(path)
    if path.suffix.lower() == _CSV:
        with replacing(path, over=",".join(_FIELDS).encode()) as file, _rows(file) as write:
            yield write
        return
    with replacing(path, over=b'{"query": ') as file:
        yield lambda result: file.write(result_line(result).encode())


def result_line(result: QueryResult | FailedQuery) -> str:
    """A query's result as a line of JSON, with its line break."""
    return json_line(result.to_dict()) + "\n"


@contextmanager
def _rows(file: BinaryIO) -> Iterator[Write]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, _FIELDS, restval="", lineterminator="\n")
    writer.writeheader()

    def write(result: QueryResult | FailedQuery) -> None:
        row: dict[str, Any] = {"query": result.path}
        if isinstance(result, FailedQuery):
            writer.writerow(_cells(row | {"error": result.reason}))
            return
        row |= {"query_label": result.label, "query_code": code_hex(result.code)}
        for hit in result.hits:
            writer.writerow(_cells(row | {field.name: field.value(hit) for field in _HIT_FIELDS}))
        # A query without hits has a row as well, so that every query is in the file.
        if not result.hits:
            writer.writerow(_cells(row))

    yield write
    text.detach()


def served_csv(hits: Iterable[Hit]) -> str:
    """Hits as CSV with a row each, as the API of qo-serve gives them: paths are relative to the index's folder."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in _HIT_FIELDS], lineterminator="\n")
    writer.writeheader()
    for hit in hits:
        writer.writerow(_cells({field.name: (field.served or field.value)(hit) for field in _HIT_FIELDS}))
    return text.getvalue()


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, bytes | str):
        return field_to_csv(path_to_text(os.fsencode(value)))
    if isinstance(value, dict):
        return " ".join(value)  # the bits that differ
    return int(value) if isinstance(value, bool) else value
