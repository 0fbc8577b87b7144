"""Codes stay with their pictures and labels, wherever they come from."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from queryopt.bench.quality.labelled_codes import hash_labelled, index_codes
from queryopt.bench.quality.pictures import labelled_folder
from queryopt.codes import pack_codes
from queryopt.errors import DataError
from queryopt.progress import no_progress
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.index import HashIndex

DATA = Path(__file__).parents[2] / "data"


def test_rows_stay_with_their_labels_after_an_unreadable_picture(tmp_path):
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    (tmp_path / "photos" / "finch" / "2.jpg").write_bytes(b"")
    hasher = Hasher(DATA / "v1" / "model.onnx", threads=1)
    made = hash_labelled(hasher, labelled_folder(tmp_path / "photos")[0], no_progress, "photos")
    assert made.labels.tolist() == ["finch"] * 3 + ["heron"] * 4
    assert [Path(path.decode()).parent.name for path in made.paths] == made.labels.tolist()
    assert made.logits is not None
    assert np.array_equal(pack_codes(made.logits >= 0), made.codes)
    assert list(made.failures) == [bytes(tmp_path / "photos" / "finch" / "2.jpg")]
    for path in (tmp_path / "photos").rglob("*.*"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of its 8 pictures could be read"):
        hash_labelled(hasher, labelled_folder(tmp_path / "photos")[0], no_progress, "photos")


def test_an_index_gives_the_codes_that_hashing_its_folder_gives(tmp_path):
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    shutil.copy(tmp_path / "photos" / "finch" / "1.jpg", tmp_path / "photos" / "loose.jpg")
    hasher = Hasher(DATA / "v1" / "model.onnx", threads=1)
    hashed = hash_labelled(hasher, labelled_folder(tmp_path / "photos")[0], no_progress, "photos")
    with HashIndex.create(tmp_path / "photos.db", hasher.card, tmp_path / "photos") as index:
        with pytest.raises(DataError, match="no picture in it has a class"):
            index_codes(index)
        index.update(hasher)
        stored = index_codes(index)
    rows = np.argsort(stored.paths)
    assert [stored.paths[row] for row in rows] == list(hashed.paths)
    assert np.array_equal(stored.codes[rows], hashed.codes)
    assert stored.labels[rows].tolist() == hashed.labels.tolist()
