"""Taking in another index, and backups."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from queryopt.errors import IndexFileError, MismatchError, UsageError
from queryopt.runtime.index import HashIndex, MergeReport

Fill = Callable[..., list[int]]


@pytest.fixture
def other(tmp_path: Path, photos: Path, make_card: Any) -> Any:
    """An index of the same folder."""
    with HashIndex.create(tmp_path / "other.db", make_card(precision="int8"), photos) as opened:
        yield opened


def codes(index: HashIndex) -> dict[bytes, bytes]:
    return {image.relative: image.code.tobytes() + image.margins.tobytes() for image in index}


def test_merge(index: HashIndex, other: HashIndex, fill: Fill) -> None:
    fill(index, ["a", "b"], seed=1)
    fill(other, ["x/c", "b", "d"], seed=2)
    ours, theirs = codes(index), codes(other)
    assert index.merge(other) == MergeReport(added=2, updated=0, kept=1)
    assert [image.id for image in index] == [1, 2, 3, 4]
    assert codes(index) == theirs | ours
    assert index.find("x/c").label == "x"  # type: ignore[union-attr]
    assert index.info().precisions == ("fp32", "int8")
    assert index.verify().ok
    assert index.merge(other) == MergeReport(added=0, updated=0, kept=3)
    assert codes(other) == theirs


def test_of_two_codes_of_one_image_the_newer_and_sound_one_stays(
    index: HashIndex, other: HashIndex, fill: Fill, hasher: Any, draw: Any
) -> None:
    names = ["cats/a.png", "cats/b.png", "cats/c.png"]
    fill(index, names, seed=1)
    for name, seconds in zip(names, (-9, 9, 9), strict=True):
        status = (index.root / name).stat()
        os.utime(index.root / name, ns=(0, status.st_mtime_ns + seconds * 10**9))
    fill(other, names, seed=2)
    with other._store.change() as changes:
        changes.mark_stale(b"cats/c.png")
    before, theirs = codes(index), codes(other)
    assert index.merge(other) == MergeReport(added=0, updated=1, kept=2)
    assert codes(index) == before | {b"cats/b.png": theirs[b"cats/b.png"]}
    assert [image.id for image in index] == [1, 2, 3]
    with index._store.change() as changes:
        changes.mark_stale(b"cats/a.png")
    assert index.merge(other).updated == 1
    assert not index[1].stale


def test_labels_are_those_of_the_new_root(tmp_path: Path, index: HashIndex, make_card: Any, fill: Fill) -> None:
    """As if the images had been hashed from there."""
    with (
        HashIndex.create(tmp_path / "cats.db", make_card(), index.root / "cats") as cats,
        HashIndex.create(tmp_path / "again.db", make_card(), index.root / "cats") as again,
    ):
        fill(cats, ["a.png", "old/b.png"])
        assert [image.label for image in cats] == [None, "old"]
        index.merge(cats)
        assert {image.relative: image.label for image in index} == {b"cats/a.png": "cats", b"cats/old/b.png": "cats"}
        again.merge(index)
        assert {image.relative: image.label for image in again} == {b"a.png": None, b"old/b.png": "old"}


@pytest.mark.parametrize(
    ("root", "theirs", "expected"),
    [("photos", "photos/cats", b"cats/x/a"), ("photos/cats", "photos", b"x/a"), ("photos", "photos", b"cats/x/a")],
)
def test_paths_are_expressed_anew(
    tmp_path: Path, photos: Path, make_card: Any, fill: Fill, root: str, theirs: str, expected: bytes
) -> None:
    with (
        HashIndex.create(tmp_path / "1.db", make_card(), tmp_path / root) as one,
        HashIndex.create(tmp_path / "2.db", make_card(), tmp_path / theirs) as two,
    ):
        fill(two, [os.path.relpath(photos / "cats/x/a", two.root)])
        assert one.merge(two).added == 1
        assert one[1].relative == expected
        assert one[1].path == two[1].path


def test_images_outside_of_the_root_are_refused_before_anything_changes(
    tmp_path: Path, index: HashIndex, make_card: Any, fill: Fill
) -> None:
    for root, names in ((tmp_path, ["photos/a", "elsewhere/b"]), (tmp_path / "elsewhere", ["c"])):
        with HashIndex.create(tmp_path / f"{root.name}.db", make_card(), root) as other:
            fill(other, names)
            with pytest.raises(MismatchError, match=r": 1 of its images are not below .*qo-index merge NEW"):
                index.merge(other)
    assert len(index) == 0


def test_codes_of_another_model_are_refused(tmp_path: Path, index: HashIndex, photos: Path, make_card: Any) -> None:
    with (
        HashIndex.create(tmp_path / "2.db", make_card(seed=1), photos) as other,
        pytest.raises(MismatchError, match=r"is another model .* hash the pictures of one of the two again"),
    ):
        index.merge(other)
    with (
        HashIndex.create(tmp_path / "3.db", make_card(bits=24), photos) as other,
        pytest.raises(MismatchError, match="24 bits"),
    ):
        index.merge(other)
    with pytest.raises(UsageError, match="itself"):
        index.merge(index)


def test_a_damaged_row_of_the_other_stops_the_merge(index: HashIndex, other: HashIndex, fill: Fill) -> None:
    fill(other, ["a", "b"])
    with other._store.change(), other._store.read() as connection:
        connection.execute("UPDATE images SET size = 99 WHERE id = 2")
    with pytest.raises(IndexFileError, match=r"other\.db: the row of image 2"):
        index.merge(other)
    assert len(index) == 0


def test_backup_while_it_is_open(index: HashIndex, fill: Fill, tmp_path: Path) -> None:
    fill(index, ["a", "cats/b"])
    (tmp_path / "deep/er").mkdir(parents=True)
    target = tmp_path / "deep/er/copy.db"
    index.backup(target)
    fill(index, ["later"])
    assert os.listdir(target.parent) == ["copy.db"]
    with HashIndex.open(target) as copy:
        assert codes(copy) == {k: v for k, v in codes(index).items() if k != b"later"}
        assert copy.root == index.root
        assert copy[1].path == index[1].path
        assert copy.verify().ok
        assert fill(copy, ["next"]) == [3]
    with pytest.raises(UsageError, match="already"):
        index.backup(target)
    with HashIndex.open(index.path, readonly=True) as reader:
        reader.backup(tmp_path / "of a reader.db")
    with HashIndex.open(tmp_path / "of a reader.db") as copy:
        assert len(copy) == 3
