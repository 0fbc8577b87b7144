"""Reads what queryopt writes by docs/formats.md alone: struct, sqlite3, zlib, hashlib and NumPy, none of our own code.

What it finds otherwise than the document says is an AssertionError.
"""

import hashlib
import json
import os
import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_Row = dict[str, Any]


def read_index(path: Path) -> tuple[_Row, dict[int, _Row]]:
    """An index.db: its facts by key, and its pictures by id, with `bits` as bool [bits]."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.text_factory = bytes
    assert connection.execute("PRAGMA application_id").fetchone()[0] == 0x716F6462
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
    facts: _Row = {}
    for key, value, crc in connection.execute("SELECT key, value, crc FROM meta"):
        assert crc == zlib.crc32(key + value)
        facts[key.decode()] = value
    for key in ("card", "precisions", "state"):
        facts[key] = json.loads(facts[key])
    for key in ("root", "model_path"):
        facts[key] = os.path.join(os.fsencode(path.parent), facts[key]) if facts[key] else None
    bits = facts["card"]["bits"]
    width = (bits + 7) // 8
    images: dict[int, _Row] = {}
    columns = "id, path, size, mtime_ns, code, margins, label, stale, crc"
    for id, name, size, mtime, code, margins, label, stale, crc in connection.execute(f"SELECT {columns} FROM images"):
        head = struct.pack("<qqqBii", id, size, mtime, stale, len(name), -1 if label is None else len(label))
        assert crc == zlib.crc32(head + name + code + margins + (label or b""))
        signs = np.frombuffer(margins, np.int8) > 0
        assert np.array_equal(signs, unpacked(np.frombuffer(code, np.uint8)[None], bits)[0])
        images[id] = {"path": name, "size": size, "label": label, "stale": stale, "code": code, "bits": signs}
    packed: dict[int, bytes] = {}
    for number, revision, crc, live, codes in connection.execute("SELECT * FROM blocks"):
        assert crc == zlib.crc32(b"%d %d" % (number, revision) + live + codes) - (1 << 31)
        assert (len(live), len(codes)) == (512, 4096 * width)
        assert any(live)
        assert revision <= facts["state"]["revision"]
        for slot in range(4096):
            code = codes[slot * width : (slot + 1) * width]
            if live[slot // 8] >> slot % 8 & 1:
                packed[number * 4096 + slot] = code
            else:
                assert not any(code)
    connection.close()
    assert packed == {id: image["code"] for id, image in images.items()}
    assert facts["state"]["images"] == len(images)
    assert facts["state"]["last_id"] >= max(images, default=0)
    return facts, images


def read_saved(path: Path) -> tuple[int, dict[int, bytes]]:
    """A saved HammingIndex: the bits, and the packed code of each id that was not removed."""
    data = path.read_bytes()
    assert data[:8] == b"QOHAMM1\n"
    length, crc = struct.unpack("<II", data[8:16])
    text = data[16 : 16 + length]
    assert crc == zlib.crc32(text)
    header = json.loads(text)
    assert header["version"] == 1
    start = -(-(16 + length) // 64) * 64
    assert len(data) == start + header["bytes"]
    codes: dict[int, bytes] = {}
    for segment in header["segments"]:
        sections = {}
        for section in segment["sections"]:
            assert section["offset"] % 64 == 0
            begin = start + section["offset"]
            sections[section["name"]] = data[begin : begin + section["bytes"]]
            assert zlib.crc32(sections[section["name"]]) == section["crc32"]
        codes |= _codes_of(segment, sections, header["bits"])
    return header["bits"], codes


def _codes_of(segment: _Row, sections: dict[str, bytes], bits: int) -> dict[int, bytes]:
    rows = segment["codes"]
    words = _column(sections, "words", bits, rows if segment["structure"] == "scan" else segment["unique"])
    if "postings" in sections:
        postings = np.frombuffer(sections["postings"], "<u4")
        unique = len(words)
        first = np.frombuffer(sections["first"], "<u4") if "first" in sections else np.arange(unique + 1)
        by_row = np.empty(rows, np.uint64)
        by_row[postings] = np.repeat(words, np.diff(first.astype(np.int64)).astype(np.int64))
        words = by_row
    ids = np.frombuffer(sections["ids"], "<i8") if "ids" in sections else np.arange(rows)
    live = np.ones(rows, np.bool_)
    if "live" in sections:
        live = np.unpackbits(np.frombuffer(sections["live"], np.uint8), bitorder="little")[:rows].astype(np.bool_)
    packed = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, : (bits + 7) // 8]
    return {int(ids[row]): packed[row].tobytes() for row in np.flatnonzero(live)}


def _column(sections: dict[str, bytes], name: str, bits: int, count: int) -> npt.NDArray[np.uint64]:
    if 32 < bits <= 48:
        low, high = np.frombuffer(sections[name], "<u4"), np.frombuffer(sections[f"{name}.high"], "<u2")
        assert len(low) == len(high) == count
        return low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
    narrowest = next(size for size in (1, 2, 4, 8) if bits <= 8 * size)
    values = np.frombuffer(sections[name], f"<u{narrowest}").astype(np.uint64)
    assert len(values) == count
    return values


def read_model(path: Path) -> _Row:
    """The card of a model.onnx, whose digest is right where there is one."""
    fields = list(_protobuf(path.read_bytes()))
    entries = {}
    for value in (value for number, value in fields if number == 14):
        entry = dict(_protobuf(value))
        entries[entry[1].decode()] = entry.get(2, b"").decode()
    digest = hashlib.sha256()
    for number, value in fields:
        if number != 14 or dict(_protobuf(value))[1] != b"queryopt.sha256":
            digest.update(b"%d %d " % (number, len(value)) + value)
    assert entries.get("queryopt.sha256", digest.hexdigest()) == digest.hexdigest()
    card: _Row = json.loads(entries["queryopt.card"])
    assert int(entries["queryopt.format_version"]) == card["format_version"]
    return card | {"digest": entries.get("queryopt.sha256")}


def _protobuf(message: bytes) -> list[tuple[int, bytes]]:
    fields, at = [], 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        size = number() if key & 7 in (0, 2) else {1: 8, 5: 4}[key & 7]
        if key & 7 == 0:
            fields.append((key >> 3, b""))
            continue
        fields.append((key >> 3, message[at : at + size] if key & 7 == 2 else b""))
        at += size
    return fields


def unpacked(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.bool_]:
    """bool [n, bits] of packed codes [n, ceil(bits / 8)], whose padding is zero."""
    every = np.unpackbits(codes, axis=1, bitorder="little").astype(np.bool_)
    assert not every[:, bits:].any()
    return every[:, :bits]
