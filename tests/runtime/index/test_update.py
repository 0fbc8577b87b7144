"""Bringing an index up to date with its folder."""

import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queryopt.errors import InputError, MismatchError
from queryopt.runtime.index import HashIndex, UpdateReport


def touch(path: Path, seconds: int = 5) -> None:
    """Give a file another time, whatever the file system's clock ticks in."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + seconds * 10**9))


def counts(report: UpdateReport) -> tuple[int, int, int, int]:
    return report.hashed, report.updated, report.unchanged, report.removed


def test_new_unchanged_changed(index: HashIndex, hasher: Any, draw: Any) -> None:
    first = index.update(hasher)
    assert counts(first) == (7, 0, 0, 0)
    assert (first.failed, first.stale, first.vanished, first.precisions) == ({}, {}, (), ("fp32",))
    before = {image.relative: image for image in index}
    hasher.seen.clear()
    assert counts(index.update(hasher)) == (0, 0, 7, 0)
    assert hasher.seen == []

    draw(index.root / "cats/b.png", 99)
    touch(index.root / "cats/b.png")
    draw(index.root / "cats/new.png", 100)
    assert counts(index.update(hasher)) == (1, 1, 6, 0)
    assert {os.path.basename(path) for path in hasher.seen} == {b"b.png", b"new.png"}
    after = {image.relative: image for image in index}
    assert after[b"cats/b.png"].id == before[b"cats/b.png"].id
    assert after[b"cats/b.png"].code.tobytes() != before[b"cats/b.png"].code.tobytes()
    assert after[b"cats/new.png"].id == 8
    assert index.search(after[b"cats/b.png"].code[None], 1).ids.tolist() == [[before[b"cats/b.png"].id]]


def test_codes_belong_to_their_files(index: HashIndex, hasher: Any) -> None:
    """Also where files in between can't be read."""
    for name in ("aaa.png", "cats/aaa.jpg", "cats/bb.png", "zzz.png"):
        (index.root / name).write_bytes(b"no picture")
    report = index.update(hasher)
    assert report.failed.keys() == {str(index.root / n) for n in ("aaa.png", "cats/aaa.jpg", "cats/bb.png", "zzz.png")}
    assert all(report.failed.values())
    assert len(index) == 7
    for image in index:
        [batch] = hasher.stream([image.path])
        np.testing.assert_array_equal(batch.codes[0], image.code)


def test_an_image_that_became_unreadable_keeps_its_code(index: HashIndex, hasher: Any, draw: Any) -> None:
    index.update(hasher)
    path = index.root / "cats/b.png"
    before = index.find(path)
    assert before is not None
    path.write_bytes(path.read_bytes()[:40])
    for _ in range(2):
        report = index.update(hasher)
        assert counts(report) == (0, 0, 6, 0)
        assert list(report.stale) == [str(path)]
        assert report.failed == {}
        stale = index[before.id]
        assert stale.stale
        assert stale.code.tobytes() == before.code.tobytes()
        assert index.info().stale == 1
    assert before.id in index.search(before.code[None], 7).ids
    draw(path, 5)
    assert counts(index.update(hasher)) == (0, 1, 6, 0)
    assert not index[before.id].stale
    assert index.verify().ok


def test_vanished_images_stay_until_pruned(index: HashIndex, hasher: Any) -> None:
    index.update(hasher)
    shutil.rmtree(index.root / "cats")
    report = index.update(hasher)
    assert sorted(report.vanished) == [str(index.root / "cats" / n) for n in ("a.png", "b.png", "c.png")]
    assert len(index) == 7
    report = index.update(hasher, prune=True)
    assert counts(report) == (0, 0, 4, 3)
    assert report.vanished == ()
    assert {image.label for image in index} == {None, "birds"}


def test_labels_follow_the_rule_of_the_model_or_another(
    tmp_path: Path, photos: Path, make_card: Any, hasher: Any
) -> None:
    def labels(index: HashIndex) -> list[str | None]:
        return [image.label for image in index]

    deep = replace(make_card(), label_depth=2)
    with HashIndex.create(tmp_path / "deep.db", deep, photos) as index:
        assert index.update(hasher).relabelled == 0
        assert labels(index) == ["birds/wren"] * 2 + ["cats"] * 3 + [None] * 2
        assert index.relabel(1) == 2
        assert labels(index) == ["birds"] * 2 + ["cats"] * 3 + [None] * 2
        assert index.verify().ok
    with HashIndex.open(tmp_path / "deep.db") as index:
        assert index.card.label_depth == 1


def test_the_parts_of_a_data_set_are_no_classes(tmp_path: Path, photos: Path, make_card: Any, hasher: Any) -> None:
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "data" / part)
    with HashIndex.create(tmp_path / "data.db", make_card(), tmp_path / "data") as index:
        index.update(hasher)
        assert {image.label for image in index} == {None, "birds", "cats"}


def test_labels_of_a_former_rule_are_brought_up_to_date(index: HashIndex, hasher: Any) -> None:
    index.update(hasher)
    with index._store.change() as changes:
        for name in (b"birds/wren/1.png", b"birds/wren/2.png"):
            changes.relabel(name, b"wren")
    hasher.seen.clear()
    report = index.update(hasher)
    assert (counts(report), report.relabelled, hasher.seen) == ((0, 0, 7, 0), 2, [])
    assert {image.label for image in index} == {None, "birds", "cats"}
    assert index.verify().ok
    assert index.prune() == 0


def test_prune_refuses_to_remove_most(index: HashIndex, hasher: Any) -> None:
    index.update(hasher)
    shutil.rmtree(index.root / "cats")
    (index.root / "one.png").unlink()
    (index.root / "cats").mkdir()
    hasher.seen.clear()
    for refused in (lambda: index.update(hasher, prune=True), index.prune):
        with pytest.raises(InputError, match=r"4 of 7 images.*--force"):
            refused()
    assert len(index) == 7
    assert index.update(hasher, prune=True, force=True).removed == 4


def test_a_missing_root_removes_nothing(index: HashIndex, hasher: Any) -> None:
    index.update(hasher)
    shutil.move(index.root, index.root.with_name("unmounted"))
    for refused in (lambda: index.update(hasher), lambda: index.update(hasher, prune=True), index.prune):
        with pytest.raises(InputError, match="qo-index root"):
            refused()
    assert len(index) == 7
    assert index.prune(force=True) == 7
    assert len(index) == 0


def test_an_index_that_others_removed_from(index: HashIndex, hasher: Any, make_hasher: Any) -> None:
    """What another process adds or removes while this one hashes is neither doubled nor lost."""
    index.update(hasher)
    touch(index.root / "cats/b.png")
    with HashIndex.open(index.path) as other:

        class Meddling(type(hasher)):  # type: ignore[misc]
            def stream(self, paths: Iterable[bytes]) -> Generator[Any, None, None]:
                other.remove(["cats/b.png"])
                other.update(make_hasher())
                yield from super().stream(paths)

        assert counts(index.update(Meddling())) == (0, 1, 6, 0)
    assert len(index) == 7
    assert index.find("cats/b.png").id == 8  # type: ignore[union-attr]
    assert index.verify().ok


def test_codes_of_another_model_are_refused(index: HashIndex, make_hasher: Any, make_card: Any) -> None:
    index.update(make_hasher())
    with pytest.raises(MismatchError, match=r"other\.onnx is another model"):
        index.update(make_hasher(make_card(seed=1), Path("other.onnx")))
    with pytest.raises(MismatchError, match="24 bits"):
        index.update(make_hasher(make_card(bits=24)))
    with pytest.raises(MismatchError, match="another model"):
        index.check_card(make_card(seed=1))
    assert len(index) == 7


def test_another_precision_of_the_same_model_is_taken(index: HashIndex, make_hasher: Any, make_card: Any) -> None:
    index.update(make_hasher())
    touch(index.root / "one.png")
    report = index.update(make_hasher(make_card(precision="int8"), index.path.parent / "int8.onnx"))
    assert report.updated == 1
    assert report.precisions == index.info().precisions == ("fp32", "int8")
    assert index.model_path == index.path.parent / "int8.onnx"


def test_batches_are_committed_one_by_one(index: HashIndex, make_hasher: Any) -> None:
    class Failing(type(make_hasher())):  # type: ignore[misc]
        def stream(self, paths: Iterable[bytes]) -> Generator[Any, None, None]:
            for number, batch in enumerate(super().stream(paths)):
                if number == 2:
                    raise KeyboardInterrupt
                yield batch

    with pytest.raises(KeyboardInterrupt):
        index.update(Failing())
    assert len(index) == 6
    assert counts(index.update(make_hasher())) == (1, 0, 6, 0)


def test_progress_counts_failures_too(index: HashIndex, hasher: Any) -> None:
    (index.root / "bad.png").touch()
    shown: list[Any] = []

    @contextmanager
    def progress(description: str, total: int | None, unit: str = "") -> Generator[Any, None, None]:
        shown.append(total)
        yield lambda count=1, note=None: shown.append(count)

    index.update(hasher, progress=progress)
    assert shown[0] == sum(shown[1:]) == 8


def test_prune_keeps_what_lies_in_a_folder_that_cannot_be_looked_into(index: HashIndex, hasher: Any) -> None:
    index.update(hasher)
    names = {image.relative for image in index}
    # Moved to another disk, with a link in its place: links to folders are not followed: is anything gone?
    away = index.root.parent / "away"
    (index.root / "cats").rename(away)
    (index.root / "cats").symlink_to(away)
    report = index.update(hasher, prune=True, force=True)
    assert (report.removed, report.vanished) == (0, ())
    assert {image.relative for image in index} == names


@pytest.mark.parametrize("year", [1600, 2400])
def test_a_file_of_another_century_is_hashed_and_then_unchanged(
    index: HashIndex, hasher: Any, photos: Path, year: int
) -> None:
    """Its time in nanoseconds is more than a row can hold."""
    seconds = int((year - 1970) * 365.2425 * 86400)
    os.utime(photos / "cats/a.png", (seconds, seconds))
    assert index.update(hasher).hashed == 7
    assert index.update(hasher).unchanged == 7
    os.utime(photos / "cats/a.png", (1, 1))
    assert index.update(hasher).updated == 1
