"""What a user does with a HashIndex: create, add, search, look up, remove, open again."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queryopt.codes import unpack_codes
from queryopt.errors import InputError, MismatchError, UsageError
from queryopt.runtime.index import HashIndex
from queryopt.runtime.index.blocks import BLOCK_IDS
from queryopt.runtime.index.rows import Row

Fill = Callable[..., list[int]]


def test_add_search_look_up(index: HashIndex, random_codes: Any) -> None:
    names = ["cats/a.png", "birds/wren/1.png", "one.png"]
    codes, logits = random_codes(3)
    assert index.add(names, codes, logits) == [1, 2, 3]
    assert len(index) == 3
    hits = index.search(codes, k=5)
    assert hits.ids[:, 0].tolist() == [1, 2, 3]
    assert hits.distances[:, 0].tolist() == [0, 0, 0]
    assert (hits.ids[:, 3:] == -1).all()
    assert (hits.distances[:, 3:] == 13).all()
    near = index.search_radius(codes, radius=0)
    assert near.ids.tolist() == [1, 2, 3]
    for name, id, code, logit in zip(names, [1, 2, 3], codes, logits, strict=True):
        image = index[np.int64(id)]
        assert (image.id, image.path, image.relative) == (id, str(index.root / name), name.encode())
        assert (image.size, image.mtime_ns) == (os.stat(image.path).st_size, os.stat(image.path).st_mtime_ns)
        np.testing.assert_array_equal(image.code, code)
        np.testing.assert_array_equal(image.margins > 0, unpack_codes(code[None], 12)[0])
        np.testing.assert_array_equal(image.margins > 0, logit >= 0)
        assert not image.stale
    assert [index[id].label for id in (1, 2, 3)] == ["cats", "birds", None]
    assert [image.id for image in index] == [1, 2, 3]


def test_adding_a_path_again_keeps_its_id(index: HashIndex, random_codes: Any) -> None:
    old, new = random_codes(1, seed=1), random_codes(1, seed=2)
    assert index.add(["one.png"], *old) == index.add([index.root / "one.png"], *new) == [1]
    assert len(index) == 1
    assert index.search(new[0], 1).distances[0, 0] == 0
    assert index.search_radius(old[0], 0).ids.size == 0


def test_ids_are_never_used_again(index: HashIndex, fill: Fill) -> None:
    fill(index, ["a", "b", "c"])
    assert index.remove([3, 2]) == 2
    index.close()
    with HashIndex.open(index.path) as again:
        assert fill(again, ["d"]) == [4]
        assert again.remove([1, 4]) == 2
        assert len(again) == 0
        assert again.search(np.zeros((1, 2), np.uint8), 2).ids.tolist() == [[-1, -1]]
        assert fill(again, ["a"]) == [5]


def test_what_was_added_is_there_when_opened_again(index: HashIndex, fill: Fill) -> None:
    fill(index, ["a", "b"])
    before = [(image.id, image.path, image.code.tobytes(), image.margins.tobytes()) for image in index]
    index.close()
    assert sorted(os.listdir(index.path.parent)) == ["photos", "photos.db"]
    with HashIndex.open(index.path, readonly=True) as again:
        assert [(image.id, image.path, image.code.tobytes(), image.margins.tobytes()) for image in again] == before
        assert (again.card, again.root, again.bits) == (index.card, index.root, 12)
    assert sorted(os.listdir(index.path.parent)) == ["photos", "photos.db"]


@pytest.mark.parametrize("bits", [1, 8, 13, 64])
def test_many_blocks(tmp_path: Path, make_card: Any, random_codes: Any, bits: int) -> None:
    """More images than one block holds, with holes: searched as a plain list is."""
    count = 2 * BLOCK_IDS + 100
    codes, logits = random_codes(count, bits)
    with HashIndex.create(tmp_path / "i.db", make_card(bits), tmp_path) as index:
        with index._store.change() as changes:
            margins = np.where(logits >= 0, 1, -1).astype(np.int8)
            changes.put(
                Row(b"%d" % i, 1, 1, code.tobytes(), margin.tobytes(), None)
                for i, (code, margin) in enumerate(zip(codes, margins, strict=True))
            )
        gone = np.r_[1:50, BLOCK_IDS - 3 : BLOCK_IDS + 3, 2 * BLOCK_IDS : count - 5]
        index.remove(gone.tolist())
        left = np.setdiff1d(np.arange(1, count + 1), gone)
        distances = np.bitwise_count(codes[left - 1] ^ codes[7]).sum(axis=1)
        order = np.lexsort((left, distances))[:500]
        hits = index.search(codes[7:8], 500)
        np.testing.assert_array_equal(hits.ids[0], left[order])
        np.testing.assert_array_equal(hits.distances[0], distances[order])
        assert [image.id for image in index] == left.tolist()
        assert index.verify().ok


NAMES = [b"\xff\xfe caf\xe9.png", b"line\nbreak.png", b"=cmd()'\"<b>.png", b"sp ace/\xe9/x.png", "ü/日本.png".encode()]


def test_names_that_are_no_text(index: HashIndex, random_codes: Any) -> None:
    for name in NAMES:
        full = os.path.join(os.fsencode(index.root), name)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        Path(os.fsdecode(full)).touch()
    index.add(NAMES, *random_codes(len(NAMES)))
    assert [image.relative for image in index] == NAMES
    assert all(os.path.exists(image.path) for image in index)
    assert index[4].label == "sp ace"
    assert index.find(NAMES[0]).id == 1  # type: ignore[union-attr]
    assert index.find(index[2].path).id == 2  # type: ignore[union-attr]
    assert index.remove(NAMES) == len(NAMES)


def test_find(index: HashIndex, fill: Fill, tmp_path: Path) -> None:
    fill(index, ["cats/a.png"])
    for path in ("cats/a.png", b"cats/a.png", Path("cats/a.png"), index.root / "cats/../cats/a.png", "./cats//a.png"):
        found = index.find(path)
        assert found is not None
        assert found.id == 1
    (tmp_path / "link").symlink_to(index.root)
    assert index.find(tmp_path / "link/cats/a.png") is not None
    assert index.find("one.png") is None
    assert index.find(tmp_path / "elsewhere.png") is None


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "cats/../../x.png", "."])
def test_paths_outside_of_the_root_are_refused(index: HashIndex, random_codes: Any, path: str) -> None:
    with pytest.raises(UsageError, match="not below"):
        index.add([path], *random_codes(1))
    assert len(index) == 0


@pytest.mark.parametrize("id", [0, 2, -1, 2**63, 2**80, 1.0, "1", None, True])
def test_an_id_that_is_not_there(index: HashIndex, fill: Fill, id: Any) -> None:
    fill(index, ["a"])
    with pytest.raises(UsageError, match="no image with id"):
        index[id]
    assert id not in index
    assert 1 in index


def test_remove_all_or_none(index: HashIndex, fill: Fill) -> None:
    fill(index, ["a", "b", "c"])
    with pytest.raises(UsageError, match=r"nothing was removed.*'nowhere'.*9"):
        index.remove([1, "nowhere", "b", 9])
    assert len(index) == 3
    assert index.remove(["b", index.root / "a", "b", 1]) == 2
    assert [image.relative for image in index] == [b"c"]
    assert index.remove([]) == 0
    fill(index, ["a", "97"])
    assert index.remove(b"a") == index.remove("97") == 1
    assert index.remove(3) == 1
    assert len(index) == 0
    assert repr(index) == f"<HashIndex '{index.path}': 12 bits, of '{index.root}'>"


def test_wrong_codes_are_refused_and_nothing_is_added(index: HashIndex, random_codes: Any) -> None:
    codes, logits = random_codes(2)
    names = ["one.png", "two.png"]
    wrong: list[tuple[Any, Any, str]] = [
        (codes.astype(np.float32), logits, "float32"),
        (np.full((2, 2), 255, np.uint8), logits, "padding"),
        (np.zeros((2, 3), np.uint8), logits, r"\[n, 2\]"),
        (codes, logits[:, :11], r"float \[2, 12\]"),
        (codes, logits.astype(int), "int64"),
        (codes, np.full_like(logits, np.nan), "not finite"),
        (codes, -logits, "don't belong together"),
        (codes[:1], logits[:1], "2 paths, but 1 codes"),
    ]
    for bad_codes, bad_logits, message in wrong:
        with pytest.raises(UsageError, match=message):
            index.add(names, bad_codes, bad_logits)
    with pytest.raises(InputError, match="no such file"):
        index.add(["one.png", "nowhere.png"], codes, logits)
    assert len(index) == 0
    with pytest.raises(UsageError, match="shape"):
        index.search(codes[0], 1)
    with pytest.raises(MismatchError, match="padding"):
        index.search(np.full((1, 2), 255, np.uint8), 1)


def test_create_never_overwrites(index: HashIndex, tmp_path: Path, make_card: Any) -> None:
    (tmp_path / "other.txt").write_text("mine")
    for path in (index.path, tmp_path / "other.txt"):
        with pytest.raises(UsageError, match="already"):
            HashIndex.create(path, make_card(), index.root)
    assert (tmp_path / "other.txt").read_text() == "mine"
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere"):
        HashIndex.create(tmp_path / "nowhere/i.db", make_card(), index.root)
    with pytest.raises(InputError, match="no such folder of images"):
        HashIndex.create(tmp_path / "i.db", make_card(), tmp_path / "nowhere")
    assert not list(tmp_path.glob(".*"))


def test_a_name_as_long_as_names_may_be(tmp_path: Path, make_card: Any, photos: Path, fill: Fill) -> None:
    path = tmp_path / f"{'x' * 240}.db"  # its log's name is 4 bytes longer
    with HashIndex.create(path, make_card(), photos) as index:
        assert fill(index, ["a"]) == [1]
        index.backup(tmp_path / f"{'y' * 240}.db")


def test_a_folder_that_holds_index_and_photos_can_be_moved(index: HashIndex, fill: Fill, tmp_path: Path) -> None:
    fill(index, ["a"])
    index._store.set_meta(model_path=tmp_path / "model.onnx")
    index.close()
    new = tmp_path.with_name(tmp_path.name + "-moved")
    new.mkdir()
    shutil.move(tmp_path / "photos", new / "photos")
    shutil.move(index.path, new / "photos.db")
    with HashIndex.open(new / "photos.db") as moved:
        assert moved.root == new / "photos"
        assert moved.model_path == new / "model.onnx"
        assert moved[1].path == str(new / "photos/a")


def test_a_root_elsewhere_stays_where_it_is(tmp_path: Path, photos: Path, make_card: Any) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    HashIndex.create(tmp_path / "one/i.db", make_card(), photos).close()
    shutil.move(tmp_path / "one/i.db", tmp_path / "two/i.db")
    with HashIndex.open(tmp_path / "two/i.db") as index:
        assert index.root == photos
        other = tmp_path / "two"
        with pytest.raises(MismatchError, match=f"give {other} an index of its own, say --index two.db$"):
            index.check_root(other)
        index.check_root(os.path.relpath(photos))
        shutil.move(photos, tmp_path / "moved")
        with pytest.raises(MismatchError, match=f"now, run qo-index root {index.path} {other}; else give .* two.db$"):
            index.check_root(other)
        index.move_root(other)
        index.check_root(other)
        with pytest.raises(InputError, match="no such folder"):
            index.move_root(tmp_path / "nowhere")
    with HashIndex.open(tmp_path / "two/i.db") as index:
        assert index.root == other


def test_info(index: HashIndex, fill: Fill) -> None:
    fill(index, ["cats/a", "cats/b", "dogs/a", "x"])
    index.remove([4])
    info = index.info()
    assert (info.images, info.last_id, info.labels, info.stale, info.bits) == (3, 4, 2, 0, 12)
    assert (info.schema_version, info.card, info.root, info.root_exists) == (1, index.card, index.root, True)
    assert info.log_bytes > 0
    assert info.bytes == index.path.stat().st_size + info.log_bytes


def test_a_closed_index_says_so(index: HashIndex) -> None:
    index.close()
    index.close()
    for use in (lambda: len(index), lambda: list(index), lambda: index.search(np.zeros((1, 2), np.uint8), 1)):
        with pytest.raises(UsageError, match="was closed"):
            use()


def test_threads_share_an_index(index: HashIndex, fill: Fill, random_codes: Any) -> None:
    errors: list[BaseException] = []
    codes, _ = random_codes(1)

    def work(number: int) -> None:
        try:
            for i in range(5):
                fill(index, [f"{number}-{i}"], seed=number)
                index.search(codes, 3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(index) == 20
    assert index.verify().ok


def test_iteration_leaves_room_for_changes(index: HashIndex, fill: Fill) -> None:
    fill(index, [f"{i:04}" for i in range(1500)])
    seen = 0
    for image in index:
        seen += 1
        if image.id % 50 == 0:
            index.remove([image.id])
    assert seen == 1500
    assert len(index) == 1470
