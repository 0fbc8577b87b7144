"""Files that are not what they were: foreign, cut off, with flipped bits, with lies in them."""

import os
import sqlite3
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queryopt.errors import IndexFileError, InputError, QueryOptError, UsageError
from queryopt.runtime.index import HashIndex
from queryopt.runtime.index.blocks import Block, read_blocks


def contents(index: HashIndex) -> list[Any]:
    """All that an index tells."""
    images = [
        (i.id, i.relative, i.size, i.mtime_ns, i.code.tobytes(), i.margins.tobytes(), i.label, i.stale) for i in index
    ]
    hits = index.search(np.zeros((1, 2), np.uint8), 40)
    return [index.card, index.root, index.model_path, images, hits.ids.tolist(), hits.distances.tolist(), len(index)]


@pytest.fixture
def closed(index: HashIndex, fill: Callable[..., list[int]]) -> Path:
    """The file of an index with 30 images, of which the last is gone."""
    fill(index, [f"class{i % 3}/picture number {i}.jpg" for i in range(30)])
    index.remove([30])
    index.close()
    return index.path


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no index here: make it with qo-infer"):
        HashIndex.open(tmp_path / "nowhere.db")
    with pytest.raises(IndexFileError, match="a folder, not an index"):
        HashIndex.open(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(IndexFileError, match="not a regular file"):
        HashIndex.open(tmp_path / "fifo")


@pytest.mark.parametrize("readonly", [False, True])
def test_foreign_files(tmp_path: Path, readonly: bool) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("id,path\n1,a.jpg\n" * 100)
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE images (id, path)")
    other.close()
    for name, message in [
        ("empty", "0 bytes"),
        ("text", "starts with b'id,path"),
        ("other", "not an index of queryopt"),
    ]:
        before = (tmp_path / name).read_bytes()
        with pytest.raises(IndexFileError, match=message):
            HashIndex.open(tmp_path / name, readonly)
        assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.6, 0.99, 0.99999])
def test_cut_off(closed: Path, share: float) -> None:
    data = closed.read_bytes()
    closed.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(IndexFileError, match=r"cut off: \d+ bytes|damaged|not a database|not an index|empty"):
        HashIndex.open(closed)


def test_every_flipped_bit_is_noticed_or_harmless(closed: Path) -> None:
    """Wherever a bit flips, the index says so, or tells the same as before."""
    with HashIndex.open(closed, readonly=True) as index:
        before = contents(index)
    data = closed.read_bytes()
    rng = np.random.default_rng(0)
    # All of the header and of the first pages' starts is worth a look; zeros in unused room are not.
    used = np.flatnonzero(np.frombuffer(data, np.uint8))
    places = np.concatenate([np.arange(16, 100), rng.choice(used, 300, replace=False)])
    messages: list[str] = []
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        closed.write_bytes(flipped)
        try:
            with HashIndex.open(closed, readonly=True) as index:
                sound = index.verify().ok
                after = contents(index)
        except QueryOptError as error:
            messages.append(str(error))
            continue
        finally:
            for suffix in ("-wal", "-shm"):
                Path(f"{closed}{suffix}").unlink(missing_ok=True)
        assert after == before or not sound, f"bit of byte {place}"
    assert len(messages) > 200
    assert all(str(closed) in message for message in messages)


def change(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


def test_a_damaged_row_is_named(closed: Path) -> None:
    change(closed, "UPDATE images SET mtime_ns = mtime_ns + 1 WHERE id = 7")
    with HashIndex.open(closed) as index:
        with pytest.raises(IndexFileError, match=r"image 7 \('class0/picture number 6.jpg'\) is damaged"):
            index[7]
        assert index[8].id == 8
        report = index.verify()
        assert not report.ok
        assert len(report.problems) == 1
        assert "image 7" in report.problems[0]
        assert index.search(index[8].code[None], 40).ids[0, 28] > 0
        assert index.remove([7]) == 1  # as the message says
        assert index.verify().ok


def test_a_damaged_block_is_named_and_built_anew(closed: Path) -> None:
    with HashIndex.open(closed) as index:
        before = contents(index)
    change(closed, "UPDATE blocks SET codes = zeroblob(length(codes))")
    with HashIndex.open(closed) as index:
        with pytest.raises(
            IndexFileError, match=r"block 0 \(ids 0..4095\) is damaged.*qo-index verify --repair .*; if not, restore"
        ):
            index.search(np.zeros((1, 2), np.uint8), 1)
        assert not index.verify().ok
        report = index.verify(repair=True)
        assert report.ok
        assert len(report.repaired) == 1
        assert contents(index) == before
        assert index.verify().repaired == ()


def test_a_block_that_lost_a_row_is_named_and_built_anew(closed: Path) -> None:
    change(closed, "DELETE FROM images WHERE id = 3")
    with HashIndex.open(closed) as index:
        problems = index.verify().problems
        assert len(problems) == 2
        assert "28 rows of images, but the counter says 29" in problems[0]
        assert "differs from the rows of 1 images, the first of id 3" in problems[1]


def test_a_search_never_misses_images_without_a_word(closed: Path) -> None:
    change(closed, "DELETE FROM blocks")
    with HashIndex.open(closed) as index:
        for _ in range(2):  # whoever goes on after the first error too
            with pytest.raises(IndexFileError, match=r"has 29 pictures, and 0 codes: qo-index verify names"):
                index.search(np.zeros((1, 2), np.uint8), 1)
        assert index.verify(repair=True).ok
        assert index.search(np.zeros((1, 2), np.uint8), 40).ids[0, 28] > 0


def test_a_row_that_is_missing_is_not_taken_for_one_that_was_removed(closed: Path) -> None:
    change(closed, "DELETE FROM images WHERE id = 3")
    with HashIndex.open(closed) as index:
        with pytest.raises(IndexFileError, match="row of image 3 is missing"):
            index[3]
        with pytest.raises(UsageError, match="no image with id 30"):
            index[30]


@pytest.mark.parametrize(
    "damage",
    ["DELETE FROM images WHERE id = 3", "UPDATE images SET size = size + 1 WHERE id = 3"],
)
def test_repair_does_not_build_a_block_from_rows_that_are_damaged(closed: Path, damage: str) -> None:
    change(closed, damage)
    change(closed, "UPDATE blocks SET crc = crc + 1")
    before = closed.read_bytes()
    with HashIndex.open(closed) as index:
        report = index.verify(repair=True)
    assert not report.ok
    assert report.repaired == ()
    assert report.backup is None
    assert "all of its rows are sound and none is missing: restore it" in report.problems[-1]
    assert closed.read_bytes() == before


def test_repair_keeps_the_index_as_it_was(closed: Path) -> None:
    change(closed, "UPDATE blocks SET crc = crc + 1")
    closed.with_name(f"{closed.name}.before-repair").write_text("an older one")
    with HashIndex.open(closed) as index:
        backup = index.verify(repair=True).backup
        assert backup == closed.with_name(f"{closed.name}.before-repair-2")
        assert index.verify().ok
    with HashIndex.open(backup) as former:
        assert [image.id for image in former] == list(range(1, 30))
        assert not former.verify().ok


def test_pages_in_wrong_places_never_send_a_reader_round(index: HashIndex, fill: Callable[..., list[int]]) -> None:
    fill(index, [f"a picture of a name that is somewhat long, so that there are pages {i}.jpg" for i in range(150)])
    index.close()
    data, page = index.path.read_bytes(), 4096
    for target in range(3, len(data) // page):
        for source in range(3, len(data) // page):
            index.path.write_bytes(data[: target * page] + data[source * page :][:page] + data[(target + 1) * page :])
            with suppress(IndexFileError), HashIndex.open(index.path, readonly=True) as opened:
                assert len(list(islice(opened, 400))) <= 150
            with suppress(IndexFileError), HashIndex.open(index.path, readonly=True) as opened:
                assert sum(len(ids) for ids, _ in islice(opened.margins(), 400)) <= 150


def test_a_huge_claim_allocates_nothing(closed: Path, fill: Callable[..., list[int]]) -> None:
    """Neither a counter nor an id nor a block number makes room for what isn't there."""
    with HashIndex.open(closed, readonly=True) as index:
        before = contents(index)
    change(closed, "UPDATE sqlite_sequence SET seq = ?", 2**62)
    tracemalloc.start()
    with HashIndex.open(closed) as index:
        assert index.search(np.zeros((1, 2), np.uint8), 40).ids.tolist() == before[4]
        for use in (lambda: len(index), lambda: fill(index, ["new"])):
            with pytest.raises(IndexFileError, match="counter of ids is damaged"):
                use()
        assert any("counter of ids" in problem for problem in index.verify().problems)
    change(closed, "UPDATE blocks SET number = ?", 2**50)
    with HashIndex.open(closed) as index, pytest.raises(IndexFileError, match="block 1125899906842624"):
        index.search(np.zeros((1, 2), np.uint8), 1)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_a_header_that_claims_a_huge_file(closed: Path) -> None:
    data = bytearray(closed.read_bytes())
    data[28:32] = struct.pack(">I", 0xFFFFFFF0)
    closed.write_bytes(data)
    with pytest.raises(IndexFileError, match="cut off"):
        HashIndex.open(closed)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("state", b"[]"),
        ("state", b'{"revision": 1, "last_id": "30", "images": 29}'),
        ("state", b'{"revision": 1, "last_id": 30, "images": -1}'),
        ("state", b'{"revision": 1, "last_id": 30}'),
        ("state", b"{" * 100_000),
        ("precisions", b"5"),
        ("precisions", b"[1]"),
        ("precisions", b"\xff"),
        ("root", b"a\0b"),
        ("model_path", b"\0"),
        ("created_by", b"\xff"),
        ("card", b"\xff"),
        ("card", b"{}"),
    ],
)
def test_facts_that_are_none_with_checksums_that_are_right(closed: Path, key: str, value: bytes) -> None:
    crc = zlib.crc32(value, zlib.crc32(key.encode()))
    change(closed, "UPDATE meta SET value = ?, crc = ? WHERE key = ?", value, crc, key)
    with pytest.raises(IndexFileError, match="damaged"), HashIndex.open(closed) as index:
        len(index)


def test_blocks_of_another_code_length_with_checksums_that_are_right(closed: Path) -> None:
    """Bits beyond the last, or ids beyond what an id can be."""
    with HashIndex.open(closed) as index:
        with index._store.read() as connection:
            [good] = read_blocks(connection, "", 12)
        padded = good.writable()
        padded.codes[3, 1] |= 0x80
        for block in (padded, Block(2**60, 0, good.live, good.codes)):
            with index._store.change() as changes:
                changes.rebuild_block(block)
            with pytest.raises(IndexFileError, match=f"block {block.number} .*damaged"):
                index.search(np.zeros((1, 2), np.uint8), 1)
            assert len(index.verify(repair=True).repaired) == 1
            assert index.verify().ok
            assert index.search(np.zeros((1, 2), np.uint8), 40).ids[0, 28] > 0


@pytest.mark.parametrize("path", [b"../../etc/passwd", b"/etc/passwd", b"a/../../b", b"", b"a\0b"])
def test_a_path_that_leaves_the_folder_is_damage(index: HashIndex, fill: Any, path: bytes) -> None:
    """An index may come from anywhere, with checksums that are right."""
    from queryopt.runtime.index.rows import Row

    fill(index, ["a"])
    with index._store.change() as changes:
        changes.put([Row.of(index[1], path)])
    with pytest.raises(IndexFileError, match="image 2"):
        index[2]
