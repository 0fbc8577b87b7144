import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from queryopt.bench.quality.evaluate import LabelledCodes, evaluate, hash_labelled, index_codes, labelled_folder
from queryopt.codes import pack_codes
from queryopt.errors import DataError, MismatchError, UsageError
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.index import HashIndex
from queryopt.runtime.search.ranked import RANKS

DATA = Path(__file__).parents[2] / "data"


def no_progress(description, total):
    return nullcontext(lambda count=1, note=None: None)


def codes(values, labels, names, bits=8):
    packed = pack_codes(np.array([[v >> i & 1 for i in range(bits)] for v in values], bool))
    return LabelledCodes(bits, packed, np.array(labels), tuple(names), {})


def test_a_class_is_the_folder_that_a_picture_lies_in(tmp_path):
    for name in ("finch/1.jpg", "finch/old/2.jpg", "heron/3.png", "4.jpg", "heron/notes.txt", ".hidden/5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = labelled_folder(tmp_path)
    assert dict(zip(found.paths, found.labels, strict=True)) == {
        bytes(tmp_path / "finch/1.jpg"): "finch",
        bytes(tmp_path / "finch/old/2.jpg"): "old",
        bytes(tmp_path / "heron/3.png"): "heron",
    }
    assert found.unlabelled == 1


def test_a_folder_without_classes_says_how_it_should_be(tmp_path):
    with pytest.raises(DataError, match="no pictures in it: give a folder with a sub-folder"):
        labelled_folder(tmp_path)
    (tmp_path / "1.jpg").touch()
    with pytest.raises(DataError, match="lie directly in it"):
        labelled_folder(tmp_path)


def test_rows_stay_with_their_labels_after_an_unreadable_picture(tmp_path):
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    (tmp_path / "photos" / "finch" / "2.jpg").write_bytes(b"")
    hasher = Hasher(DATA / "v1" / "model.onnx", threads=1)
    made = hash_labelled(hasher, labelled_folder(tmp_path / "photos"), no_progress, "photos")
    assert made.labels.tolist() == ["finch"] * 3 + ["heron"] * 4
    assert [Path(path.decode()).parent.name for path in made.paths] == made.labels.tolist()
    assert made.logits is not None
    assert np.array_equal(pack_codes(made.logits >= 0), made.codes)
    assert list(made.failures) == [bytes(tmp_path / "photos" / "finch" / "2.jpg")]
    for path in (tmp_path / "photos").rglob("*.*"):
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of its 8 pictures could be read"):
        hash_labelled(hasher, labelled_folder(tmp_path / "photos"), no_progress, "photos")


def test_an_index_gives_the_codes_that_hashing_its_folder_gives(tmp_path):
    shutil.copytree(DATA / "pictures", tmp_path / "photos")
    shutil.copy(tmp_path / "photos" / "finch" / "1.jpg", tmp_path / "photos" / "loose.jpg")
    hasher = Hasher(DATA / "v1" / "model.onnx", threads=1)
    hashed = hash_labelled(hasher, labelled_folder(tmp_path / "photos"), no_progress, "photos")
    with HashIndex.create(tmp_path / "photos.db", hasher.card, tmp_path / "photos") as index:
        with pytest.raises(DataError, match="no picture in it has a class"):
            index_codes(index)
        index.update(hasher)
        stored = index_codes(index)
    rows = np.argsort(stored.paths)
    assert [stored.paths[row] for row in rows] == list(hashed.paths)
    assert np.array_equal(stored.codes[rows], hashed.codes)
    assert stored.labels[rows].tolist() == hashed.labels.tolist()


def test_a_query_in_the_gallery_is_left_out_of_its_own_ranking():
    gallery = codes([0, 1, 3, 7], ["a", "b", "a", "b"], [b"/g/1", b"/g/2", b"/g/3", b"/g/4"])
    queries = codes([0, 0], ["a", "a"], [b"/q/../g/1", b"/q/1"])
    result = evaluate(gallery, queries)
    assert result.own == 1
    # The first sees b, a, b; the second a, b, a, b.
    assert result.metrics.average_precision == pytest.approx([1 / 2, (1 + 2 / 3) / 2])


def test_a_ranking_by_weights_asks_the_logits():
    gallery = codes([0b0001, 0b0010, 0b0110, 0b1000], ["b", "a", "a", "b"], [b"/1", b"/2", b"/3", b"/4"])
    queries = dataclasses.replace(codes([0], ["a"], [b"/q"]), logits=np.array([[9, -1, 3, 9, 0, 0, 0, 0]], np.float32))
    found = {rank: evaluate(gallery, queries, rank=rank) for rank in RANKS}
    assert {rank: result.rank for rank, result in found.items()} == {rank: rank for rank in RANKS}
    # By weights: a (1), a (4), then b and b (9). By distance: b, a and b at 1, then a; with weights, a first of these.
    assert found["weighted"].metrics.map == 1
    assert found["tiebreak"].metrics.map == pytest.approx((1 + 2 / 4) / 2)
    assert found["hamming"].metrics.map == pytest.approx(((1 + 1 / 2 + 1 / 3) / 3 + 2 / 4) / 2)
    assert found["weighted"].to_dict()["rank"] == "weighted"
    with pytest.raises(UsageError, match="'weighted' needs the queries' logits"):
        evaluate(gallery, codes([0], ["a"], [b"/q"]), rank="weighted")


def test_classes_that_only_queries_have_are_named():
    gallery = codes([0, 1], ["a", "b"], [b"/1", b"/2"])
    queries = codes([0, 1, 2], ["a", "y", "x"], [b"/3", b"/4", b"/5"])
    result = evaluate(gallery, queries, ks=(1,), radii=(0, 100))
    assert result.absent == ("x", "y")
    assert (result.metrics.queries, result.metrics.skipped_queries, result.classes, result.gallery) == (1, 2, 2, 2)
    assert list(result.metrics.recall_at_radius) == [0]
    assert result.to_dict()["classes_only_in_queries"] == ["x", "y"]


def test_sides_that_do_not_belong_together():
    gallery = codes([0], ["a"], [b"/1"])
    with pytest.raises(MismatchError, match="share no label"):
        evaluate(gallery, codes([0], ["b"], [b"/2"]))
    with pytest.raises(MismatchError, match="8 bits and the queries of 16"):
        evaluate(gallery, codes([0], ["a"], [b"/2"], bits=16))
