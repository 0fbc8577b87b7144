"""An index's codes as files for other programs."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from queryopt.codes import codes_to_uint64
from queryopt.errors import IndexFileError, UsageError
from queryopt.runtime.index import HashIndex
from queryopt.runtime.outputs import field_from_csv, path_from_text

NAMES = ["a.jpg", "cats/b.jpg", "=1+1.jpg", "back\\slash.jpg", "line\nbreak.jpg", os.fsdecode(b"\xff/\xe9.jpg")]


@pytest.fixture
def filled(index: HashIndex, fill: Callable[..., list[int]]) -> HashIndex:
    fill(index, ["gone.jpg", *NAMES])
    index.remove([1])
    return index


def test_npz(filled: HashIndex, tmp_path: Path) -> None:
    assert filled.export(tmp_path / "codes.npz") == len(NAMES)
    with np.load(tmp_path / "codes.npz", allow_pickle=False) as file:
        images = list(filled)
        assert file["ids"].tolist() == [image.id for image in images]
        assert file["paths"].tolist() == [image.relative for image in images]
        np.testing.assert_array_equal(file["codes"], [image.code for image in images])
        np.testing.assert_array_equal(file["margins"], [image.margins for image in images])
        assert (file["codes"].dtype, file["margins"].dtype, int(file["bits"])) == (np.uint8, np.int8, 12)


def test_csv(filled: HashIndex, tmp_path: Path) -> None:
    filled.export(tmp_path / "codes.csv")
    with open(tmp_path / "codes.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    codes = codes_to_uint64(np.stack([image.code for image in filled]), 12)
    assert [int(row["id"]) for row in rows] == list(range(2, 8))
    assert [path_from_text(field_from_csv(row["path"])) for row in rows] == [os.fsencode(name) for name in NAMES]
    assert [int(row["code"], 16) for row in rows] == codes.tolist()
    assert not any(row["path"].startswith("=") for row in rows), "no formula for a spreadsheet to run"


def test_parquet(filled: HashIndex, tmp_path: Path) -> None:
    filled.export(tmp_path / "codes.parquet")
    rows = pq.read_table(tmp_path / "codes.parquet").to_pylist()
    assert [row["id"] for row in rows] == list(range(2, 8))
    assert [path_from_text(row["path"]) for row in rows] == [os.fsencode(name) for name in NAMES]
    assert [row["margins"] for row in rows] == [image.margins.tolist() for image in filled]


@pytest.mark.parametrize("name", ["codes.npz", "codes.csv", "codes.parquet"])
def test_an_empty_index(index: HashIndex, tmp_path: Path, name: str) -> None:
    assert index.export(tmp_path / name) == 0
    assert (tmp_path / name).stat().st_size > 0


def test_another_ending_is_refused(filled: HashIndex, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.npz, \.csv, \.parquet"):
        filled.export(tmp_path / "codes.txt")


def test_a_damaged_row_leaves_the_old_file(filled: HashIndex, tmp_path: Path, random_codes: Any) -> None:
    filled.export(tmp_path / "codes.csv")
    before = (tmp_path / "codes.csv").read_bytes()
    with filled._store.change(), filled._store.read() as connection:
        connection.execute("UPDATE images SET size = 99 WHERE id = 5")
    with pytest.raises(IndexFileError, match="image 5"):
        filled.export(tmp_path / "codes.csv")
    assert (tmp_path / "codes.csv").read_bytes() == before
