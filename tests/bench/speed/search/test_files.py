"""Codes from files."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from queryopt.bench.speed.search.data import DataSpec, make_data, to_words
from queryopt.bench.speed.search.files import read_codes
from queryopt.errors import FormatError, IndexFileError, InputError, MismatchError, UsageError
from queryopt.runtime import HashIndex

INDEX = Path(__file__).parents[3] / "data" / "v1" / "index.db"
CODES = np.random.default_rng(0).integers(0, 256, (40, 6), np.uint8)


def test_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "packed.npy", CODES)
    np.save(tmp_path / "words.npy", to_words(CODES))
    np.savez(tmp_path / "codes.npz", codes=CODES[:, :2] & np.array([255, 15], np.uint8), bits=np.array(12))
    bits, codes = read_codes(str(tmp_path / "packed.npy"))
    assert bits == 48
    assert np.array_equal(codes, CODES)
    assert np.array_equal(read_codes(str(tmp_path / "words.npy"), 48)[1], CODES)
    assert read_codes(str(tmp_path / "codes.npz"))[0] == 12
    with pytest.raises(MismatchError, match="12 bits, not of 16"):
        read_codes(str(tmp_path / "codes.npz"), 16)
    with pytest.raises(MismatchError, match=r"packed\.npy"):
        read_codes(str(tmp_path / "packed.npy"), 40)
    with pytest.raises(MismatchError, match="padding bits"):
        read_codes(str(tmp_path / "packed.npy"), 45)


def test_an_index() -> None:
    bits, codes = read_codes(str(INDEX))
    with HashIndex.open(INDEX, readonly=True) as index:
        assert bits == index.bits
        assert [code.tobytes() for code in codes] == [image.code.tobytes() for image in index]
    with pytest.raises(MismatchError, match="not of 48"):
        read_codes(str(INDEX), 48)


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, content in {"text.npy": b"codes", "empty.npz": b"", "other.db": b"SQLite", "pickle.npy": None}.items():
        (tmp_path / name).write_bytes(content if content is not None else pickle.dumps([1]))
        with pytest.raises((FormatError, IndexFileError), match=name):
            read_codes(str(tmp_path / name))
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(FormatError, match=r"objects\.npy"):
        read_codes(str(tmp_path / "objects.npy"))
    np.savez(tmp_path / "other.npz", floats=np.zeros(3))
    with pytest.raises(FormatError, match=r"other\.npz"):
        read_codes(str(tmp_path / "other.npz"))
    with pytest.raises(InputError, match="no such file"):
        read_codes(str(tmp_path / "none.npy"))
    with pytest.raises(UsageError, match="clusterd: neither"):
        read_codes("clusterd")


def test_queries_are_taken_out_of_the_gallery(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", CODES)
    data = make_data(DataSpec(str(tmp_path / "codes.npy"), None, None, queries=3))
    assert (len(data.codes), len(data.queries)) == (37, 3)
    assert sorted(map(bytes, [*data.codes, *data.queries])) == sorted(map(bytes, CODES))
    # At most a tenth of the codes, and no more of the gallery than asked for.
    data = make_data(DataSpec(str(tmp_path / "codes.npy"), 48, 20))
    assert (len(data.codes), len(data.queries)) == (20, 4)
    np.save(tmp_path / "one.npy", CODES[:1])
    with pytest.raises(InputError, match="at least two"):
        make_data(DataSpec(str(tmp_path / "one.npy"), None, None))
