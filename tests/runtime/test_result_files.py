"""Files of search results, as other programs read them."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from queryopt.codes import pack_codes
from queryopt.errors import UsageError
from queryopt.runtime.hits import FailedQuery, Hit, QueryResult
from queryopt.runtime.outputs import field_from_csv, path_from_text
from queryopt.runtime.result_files import check_results, writing_results

CODE = pack_codes(np.arange(12)[None] < 3)[0]
OTHER = pack_codes(np.arange(12)[None] < 5)[0]


def hit(path: bytes, label: str | None, rank: int = 1, stale: bool = False) -> Hit:
    return Hit(rank, 2, None, 7, path, os.path.basename(path), label, OTHER, None, (3, 4), stale, not stale)


def query(path: bytes, *hits: Hit, label: str | None = None) -> QueryResult:
    return QueryResult(path, 12, CODE, None, label, None, False, hits)


RESULTS = (
    query(b"=q\xff.jpg", hit(b"/p/+1.jpg", "finch"), hit(b"/p/2,\n.jpg", None, 2, stale=True), label="=1+1"),
    query(b"none.jpg"),
    FailedQuery(b"bad.jpg", "zero bytes"),
)


def test_csv_has_a_row_a_hit_and_every_query(tmp_path: Path) -> None:
    with writing_results(tmp_path / "hits.csv") as write:
        for result in RESULTS:
            write(result)
    with open(tmp_path / "hits.csv", encoding="utf-8", newline="") as file:
        first, second, none, bad = csv.DictReader(file)
    assert path_from_text(field_from_csv(first["query"])) == b"=q\xff.jpg"
    assert (first["query"][0], first["query_label"]) == ("'", "'=1+1")
    assert list(first.values())[2:] == [
        "0x0007",
        "1",
        "2",
        "",
        "7",
        "/p/+1.jpg",
        "finch",
        "0x001f",
        "3 4",
        "0",
        "1",
        "",
    ]
    assert path_from_text(second["path"]) == b"/p/2,\n.jpg"
    assert (second["query"], second["rank"], second["label"], second["stale"]) == (first["query"], "2", "", "1")
    assert [value for value in none.values() if value] == ["none.jpg", "0x0007"]
    assert {key: value for key, value in bad.items() if value} == {"query": "bad.jpg", "error": "zero bytes"}


@pytest.mark.parametrize("name", ["hits.jsonl", "hits.NDJSON", "hits.json", "hits"])
def test_other_endings_give_a_line_of_json_a_query(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        with writing_results(tmp_path / name) as write:
            for result in RESULTS:
                write(result)
    lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert lines == [result.to_dict() for result in RESULTS]


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    for name in ("hits.xlsx", "hits.csv.gz", "photos.db"):
        with pytest.raises(UsageError, match="the ending says the format"):
            check_results(tmp_path / name)
