"""A saved index opens as it was, whatever wrote it; a damaged file is refused by name, and never crashes."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from queryopt.errors import FormatError, UsageError
from queryopt.runtime.search import HammingIndex, core

PATHS = core.paths()


def gallery(bits: int, count: int, seed: int = 0) -> npt.NDArray[np.uint64]:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**bits, 20, np.uint64, endpoint=False)
    flips = (rng.random((count, bits)) < 0.05).astype(np.uint64) << np.arange(bits, dtype=np.uint64)
    codes: npt.NDArray[np.uint64] = centres[rng.integers(0, 20, count)] ^ np.bitwise_or.reduce(flips, axis=1)
    return codes


def same(one: HammingIndex, two: HammingIndex, queries: npt.NDArray[np.uint64]) -> None:
    assert (len(one), one.bits) == (len(two), two.bits)
    a, b = one.search(queries, 12), two.search(queries, 12)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.distances, b.distances)
    np.testing.assert_array_equal(one.ids, two.ids)


@pytest.mark.parametrize("reader", PATHS)
@pytest.mark.parametrize("writer", PATHS)
@pytest.mark.parametrize(
    ("bits", "count", "structure"),
    [(12, 3000, "table"), (24, 3000, "table"), (48, 3000, "multi-index"), (64, 3000, "multi-index"), (40, 3000, "scan"),
     (9, 500, "scan"), (3, 5, "multi-index"), (48, 0, "auto"), (20, 1, "auto")],
)  # fmt: skip
def test_opens_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, count: int, structure: str, writer: str, reader: str
) -> None:
    codes = gallery(bits, count)
    monkeypatch.setenv(core.PATH_VARIABLE, writer)
    index = HammingIndex(codes, bits, np.arange(count)[::-1] * 3, structure=structure)
    index.remove([0, 3, 6])
    index.add(codes[:2])
    index.save(tmp_path / "codes.hamming")
    monkeypatch.setenv(core.PATH_VARIABLE, reader)
    queries = np.concatenate([codes[:3], gallery(bits, 2, seed=1)])
    for mapped in (True, False):
        opened = HammingIndex.open(tmp_path / "codes.hamming", mapped=mapped)
        assert opened.path == reader
        same(opened, index, queries)
    # Goes on like the one that was saved.
    assert opened.add(codes[:1]).tolist() == index.add(codes[:1]).tolist()
    opened.remove([9])
    index.remove([9])
    same(opened, index, queries)


def test_replaces_the_file_that_it_was_opened_from(tmp_path: Path) -> None:
    file = tmp_path / "codes.hamming"
    codes = gallery(48, 30_000)
    HammingIndex(codes, 48).save(file)
    index = HammingIndex.open(file)
    index.add(codes[:5])
    index.save(file)
    same(HammingIndex.open(file), index, codes[:5])
    assert [entry.name for entry in tmp_path.iterdir()] == ["codes.hamming"]


@pytest.mark.parametrize("structure", ["scan", "table", "multi-index"])
def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path: Path, structure: str) -> None:
    file = tmp_path / "codes.hamming"
    codes = gallery(20, 200)
    index = HammingIndex(codes, 20, np.arange(200) * 2, structure=structure)
    index.remove([4])
    index.save(file)
    whole = file.read_bytes()
    length = int.from_bytes(whole[8:12], "little")
    header = json.loads(whole[16 : 16 + length])
    start = -(-(16 + length) // 64) * 64
    covered = set(range(16 + length))
    for segment in header["segments"]:
        for section in segment["sections"]:
            covered |= set(range(start + section["offset"], start + section["offset"] + section["bytes"]))
    rng = np.random.default_rng(0)
    for at in [*range(20), *rng.choice(sorted(covered), 200).tolist()]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"codes\.hamming: .*: save the index again"):
            HammingIndex.open(file)
    for size in [0, 1, 15, 16, 17, start - 1, start, len(whole) - 65, len(whole) - 1]:
        file.write_bytes(whole[:size])
        with pytest.raises(FormatError, match=r"codes\.hamming: "):
            HammingIndex.open(file)
    file.write_bytes(whole + b"more")
    with pytest.raises(FormatError, match="don't fit together"):
        HammingIndex.open(file)


def rewritten(whole: bytes, change: dict[str, object], of_segment: dict[str, object]) -> bytes:
    """The file with another header, whose checksum is right: what no accident does."""
    length = int.from_bytes(whole[8:12], "little")
    header = json.loads(whole[16 : 16 + length]) | change
    header["segments"][0] |= of_segment
    text = json.dumps(header).encode()
    head = whole[:8] + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text
    return head + bytes(-len(head) % 64) + whole[-(-(16 + length) // 64) * 64 :]


@pytest.mark.usefixtures("native_core")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("change", "of_segment"),
    [
        ({"bits": 64}, {}),
        ({"bits": 0}, {}),
        ({"bits": "48"}, {}),
        ({"next_id": -1}, {}),
        ({"structure": "tree"}, {}),
        ({}, {"codes": 10**15}),
        ({}, {"codes": 2**40, "unique": 2**40}),
        ({}, {"unique": 0}),
        ({}, {"unique": 399}),
        ({}, {"structure": "scan"}),
        ({}, {"sections": []}),
        ({}, {"sections": [{"name": "words", "offset": 0, "bytes": 10**12, "crc32": 0}]}),
    ],
)
def test_a_header_that_promises_too_much_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    change: dict[str, object],
    of_segment: dict[str, object],
) -> None:
    file = tmp_path / "codes.hamming"
    HammingIndex(gallery(48, 400), 48, structure="multi-index").save(file)
    monkeypatch.setenv(core.PATH_VARIABLE, path)
    file.write_bytes(rewritten(file.read_bytes(), change, of_segment))
    with pytest.raises(FormatError, match=r"codes\.hamming: "):
        HammingIndex.open(file)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "codes.hamming"
    HammingIndex(gallery(48, 400), 48).save(file)
    file.write_bytes(rewritten(file.read_bytes(), {"version": 2}, {}))
    with pytest.raises(FormatError, match="format 2, newer than this queryopt reads"):
        HammingIndex.open(file)


def test_random_contents_behind_right_checksums_never_crash(tmp_path: Path) -> None:
    """In a process of its own: a crash would be one of the native core."""
    code = """
import json, sys, zlib
import numpy as np
from queryopt.errors import FormatError
from queryopt.runtime.search import HammingIndex
rng = np.random.default_rng(7)
codes = rng.integers(0, 1 << 16, 500, np.uint64)
opened = 0
for structure in ("scan", "table", "multi-index"):
    for bits in (17, 24, 40, 48, 64):
        HammingIndex(codes, bits, structure=structure).save("f")
        whole = bytearray(open("f", "rb").read())
        length = int.from_bytes(whole[8:12], "little")
        header = json.loads(whole[16:16 + length])
        start = -(-(16 + length) // 64) * 64
        for section in header["segments"][0]["sections"]:
            for _ in range(6):
                damaged = bytearray(whole)
                begin, size = start + section["offset"], section["bytes"]
                at = rng.integers(size, size=rng.integers(1, 9))
                for i in at:
                    damaged[begin + i] = rng.integers(256)
                old = section["crc32"]
                section["crc32"] = zlib.crc32(damaged[begin:begin + size])
                text = json.dumps(header, separators=(",", ":")).encode()
                section["crc32"] = old
                sizes = len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little")
                head = bytes(whole[:8]) + sizes + text
                open("g", "wb").write(head + bytes(-len(head) % 64) + damaged[start:])
                try:
                    index = HammingIndex.open("g")
                except FormatError:
                    continue
                opened += 1
                queries = np.concatenate([codes[:5], rng.integers(0, 1 << bits, 5, np.uint64, endpoint=False)])
                for k in (1, 10, 600):
                    index.search(queries, k)
                    index.search(queries, k, allow=np.arange(3))
                    index.search(queries, k, deny=np.arange(3))
                index.search_radius(queries, bits)
                index.compact()
print("opened", opened)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 50


def test_what_is_no_saved_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.hamming: there is no such file"):
        HammingIndex.open(tmp_path / "none.hamming")
    with pytest.raises(UsageError, match="is no file"):
        HammingIndex.open(tmp_path)
    (tmp_path / "text").write_text("not an index, but long enough to have a header")
    with pytest.raises(FormatError, match="text: not a saved HammingIndex"):
        HammingIndex.open(tmp_path / "text")
    with pytest.raises(UsageError, match="can't be written"):
        HammingIndex(gallery(8, 3), 8).save(tmp_path / "no" / "codes.hamming")
