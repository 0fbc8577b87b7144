import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryopt.card import CARD_KEY, ModelCard, Preprocessing
from queryopt.codes import codes_to_uint64, pack_codes
from queryopt.errors import MissingError, UsageError
from queryopt.runtime import outputs
from queryopt.runtime.outputs import CodeRows, check_output, field_from_csv, path_from_text, writing_codes

CARD = ModelCard(12, Preprocessing(32, 37), "tiny", "fp32", 1.5, "a" * 64)
PATHS = [
    b"=cmd|' /C calc'!A0.jpg",
    b"+1.jpg",
    b"-1.jpg",
    b"@x.jpg",
    b"'q.jpg",
    b"\tt.jpg",
    b'a,"b"\n.jpg',
    b"\xff\\x41.jpg",
]
LABELS = [None, "=1+1", "a,b", "", "x", "é", "\udcff", "finch"]


def rows(start: int = 0, stop: int = len(PATHS)) -> CodeRows:
    rng = np.random.default_rng(0)
    margins = rng.integers(1, 128, (len(PATHS), 12)) * rng.choice([-1, 1], (len(PATHS), 12))
    codes = pack_codes(margins >= 0)
    part = slice(start, stop)
    return CodeRows(PATHS[part], codes[part], margins[part].astype(np.int8), LABELS[part])


def write(path: Path) -> None:
    with writing_codes(path, CARD) as append:
        append(rows(0, 3))
        append(rows(3, 3))
        append(rows(3))


def test_npz_loads_without_pickle(tmp_path: Path) -> None:
    write(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["paths"].tolist() == PATHS
        np.testing.assert_array_equal(file["codes"], rows().codes)
        np.testing.assert_array_equal(file["margins"], rows().margins)
        assert file["labels"].tolist() == ["", "=1+1", "a,b", "", "x", "é", "\\xff", "finch"]
        assert int(file["bits"]) == 12
        assert ModelCard.from_json(str(file["card"]), "a.npz") == CARD


def test_csv(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file))
    assert header == ["path", "label", "code"]
    assert [path_from_text(field_from_csv(line[0])) for line in lines] == PATHS
    assert [field_from_csv(line[1]) for line in lines] == ["", "=1+1", "a,b", "", "x", "é", "\\xff", "finch"]
    assert [int(line[2], 16) for line in lines] == codes_to_uint64(rows().codes, 12).tolist()
    # No field begins as a spreadsheet's formula does.
    assert not [field for line in lines for field in line if field[:1] in set("=+-@\t\r")]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert [path_from_text(text) for text in table["path"].to_pylist()] == PATHS
    assert table["label"].to_pylist() == [None, "=1+1", "a,b", "", "x", "é", "\\xff", "finch"]
    assert table["code"].to_pylist() == codes_to_uint64(rows().codes, 12).tolist()
    np.testing.assert_array_equal(np.array(table["margins"].to_pylist()), rows().margins)
    assert ModelCard.from_json(table.schema.metadata[CARD_KEY.encode()].decode(), "a") == CARD


@given(path=st.binary(min_size=1).filter(lambda path: b"\0" not in path))
def test_every_name_comes_back(path: bytes) -> None:
    text = outputs.path_to_text(path)
    text.encode("utf-8")
    assert path_from_text(text) == path
    assert field_from_csv(outputs.field_to_csv(text)) == text


@pytest.mark.parametrize("suffix", outputs.OUTPUT_SUFFIXES)
def test_a_failure_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("before")

    def interrupted() -> None:
        with writing_codes(path, CARD) as append:
            append(rows())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == [path.name]


def test_endings(tmp_path: Path) -> None:
    for name in ("a.txt", "a", "a.npz.gz"):
        with pytest.raises(UsageError, match=r"\.npz, \.csv, \.parquet"):
            check_output(tmp_path / name)
    write(tmp_path / "A.NPZ")
    assert os.listdir(tmp_path) == ["A.NPZ"]
    with pytest.raises(UsageError, match="none"):
        write(tmp_path / "none" / "a.csv")


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingError, match=r"pip install '\.\[parquet\]'"):
        check_output(tmp_path / "a.parquet")
    check_output(tmp_path / "a.csv")


def test_npz_and_csv_need_no_pyarrow(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\nfrom pathlib import Path\n"
        "from queryopt.runtime.outputs import check_output\ncheck_output(Path('a.npz')); check_output(Path('a.csv'))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
