"""Results of searches as files: a line of JSON a query, or CSV with a row a hit. There whole, or not at all."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from queryopt.errors import UsageError
from queryopt.files import replacing
from queryopt.runtime.hits import FailedQuery, Hit, QueryResult, code_hex
from queryopt.runtime.outputs import field_to_csv, path_to_text
from queryopt.text import display_path

__all__ = ["check_results", "json_line", "writing_results"]

Write: TypeAlias = Callable[[QueryResult | FailedQuery], object]

_CSV = ".csv"
_LINES = (".jsonl", ".ndjson", ".json")
_QUERY_FIELDS = ("query", "query_label", "query_code")
_HIT_FIELDS = ("rank", "distance", "score", "id", "path", "label", "code", "differs", "stale", "missing")
_FIELDS = (*_QUERY_FIELDS, *_HIT_FIELDS, "error")


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
        yield lambda result: file.write(json_line(result).encode())


def json_line(result: QueryResult | FailedQuery) -> str:
    """A query's result as a line of JSON, with its line break."""
    return json.dumps(result.to_dict(), ensure_ascii=False) + "\n"


@contextmanager
def _rows(file: BinaryIO) -> Iterator[Write]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, _FIELDS, restval="", lineterminator="\n")
    writer.writeheader()

    def write(result: QueryResult | FailedQuery) -> None:
        if isinstance(result, FailedQuery):
            writer.writerow({"query": _text(result.path), "error": _text(result.reason)})
            return
        asked = dict(zip(_QUERY_FIELDS, (_text(result.path), _text(result.label), code_hex(result.code)), strict=True))
        # A query without hits has a row as well, so that every query is in the file.
        writer.writerows(asked | _hit(hit) for hit in result.hits)
        if not result.hits:
            writer.writerow(asked)

    yield write
    text.detach()


def _hit(hit: Hit) -> dict[str, Any]:
    return {
        "rank": hit.rank,
        "distance": hit.distance,
        "score": hit.score,
        "id": hit.id,
        "path": _text(hit.path),
        "label": _text(hit.label),
        "code": code_hex(hit.code),
        "differs": " ".join(map(str, hit.differs)),
        "stale": int(hit.stale),
        "missing": int(hit.missing),
    }


def _text(name: bytes | str | None) -> str:
    return "" if name is None else field_to_csv(path_to_text(os.fsencode(name)))
