"""A HammingIndex as a file that opens by being mapped: docs/formats.md says how it lies.

magic      8 bytes   b"QOHAMM1\\n"
length     4 bytes   of the header, little-endian
crc32      4 bytes   of the header
header     JSON      counts, and where each section lies
sections             each at a multiple of 64 bytes, with a CRC32 in the header
"""

import json
import mmap
import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from queryopt.codes import MAX_BITS
from queryopt.errors import FormatError, UsageError
from queryopt.files import replacing
from queryopt.runtime.search.engines import Ids, Mask, Stored, restore
from queryopt.runtime.search.margins import MarginTable
from queryopt.runtime.search.segment import Segment, full_mask
from queryopt.text import parse_json

__all__ = ["FORMAT_VERSION", "SavedIndex", "load", "save"]

FORMAT_VERSION: Final = 1

_MAGIC: Final = b"QOHAMM1\n"
_ALIGNMENT: Final = 64
_MAX_HEADER: Final = 1 << 20
_STRUCTURES: Final = ("scan", "table", "multi-index")


@dataclass(frozen=True, eq=False)
class SavedIndex:
    """What a file holds. structure: what the index was asked to use ('auto', …)."""

    bits: int
    structure: str
    next_id: int
    segments: tuple[Segment, ...]


def save(path: str | os.PathLike[str], saved: SavedIndex) -> None:
    """Write a file, which takes the place of one of that name when it is whole.

    UsageError where it can't be written.
    """
    arrays: list[npt.NDArray[np.uint8]] = []
    header = {
        "version": FORMAT_VERSION,
        "bits": saved.bits,
        "structure": saved.structure,
        "next_id": saved.next_id,
        "segments": [_describe(segment, arrays) for segment in saved.segments],
    }
    # Offsets count from the first section's place, so that they don't depend on the header's length.
    at = 0
    for segment in header["segments"]:  # type: ignore[attr-defined]
        for section in segment["sections"]:
            section["offset"] = at
            at = _aligned(at + section["bytes"])
    header["bytes"] = at
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > _MAX_HEADER:
        raise UsageError(f"{os.fspath(path)}: the index is in too many segments to be saved: compact() it first")
    with replacing(path) as file:
        file.write(_MAGIC + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text)
        file.write(bytes(_aligned(16 + len(text)) - 16 - len(text)))
        for array in arrays:
            file.write(array.data)
            file.write(bytes(_aligned(len(array)) - len(array)))


def load(path: str | os.PathLike[str], search_path: str, mapped: bool, verify: bool) -> SavedIndex:
    """Read a file. Nothing is allocated that the file does not hold.

    mapped: map it (pages are read when they are first used, and shared between processes), else read it into memory.
    verify: compare checksums. UsageError where there is no such file; FormatError, which names the file and what is
    wrong, where it is cut off, damaged, foreign or newer.
    """
    name = os.fspath(path)
    data = _contents(name, mapped)
    try:
        header, start = _header(data)
        return _parse(header, data[start:], search_path, verify)
    except FormatError as error:
        raise FormatError(f"{name}: {error}: save the index again") from None


def _describe(segment: Segment, arrays: list[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    named = segment.engine.sections()
    if segment.ids is not None:
        named["ids"] = segment.ids.astype("<i8", copy=False).view(np.uint8)
    if segment.live is not None:
        named["live"] = segment.live.astype("<u8", copy=False).view(np.uint8)
    arrays += named.values()
    return {
        "structure": segment.engine.structure,
        "codes": segment.count,
        "unique": segment.engine.unique,
        "sections": [{"name": k, "bytes": len(v), "crc32": _crc(v)} for k, v in named.items()],
    }


def _contents(name: str, mapped: bool) -> npt.NDArray[np.uint8]:
    try:
        if not Path(name).is_file():
            kind = "is no file" if os.path.exists(name) else "there is no such file"
            raise UsageError(f"{name}: {kind}: give one that HammingIndex.save wrote")
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise FormatError(f"{name}: zero bytes: save the index again")
            if mapped:
                return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            return np.fromfile(file, np.uint8)
    except OSError as error:
        raise UsageError(f"{name}: can't be read: {error.strerror}") from None


def _header(data: npt.NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """The header, and where the sections begin."""
    if bytes(data[:8]) != _MAGIC:
        raise FormatError("not a saved HammingIndex")
    length = int.from_bytes(bytes(data[8:12]), "little")
    if len(data) < 16 + length or length > _MAX_HEADER:
        raise FormatError("cut off in its header" if length <= _MAX_HEADER else "its header is damaged")
    text = bytes(data[16 : 16 + length])
    if zlib.crc32(text) != int.from_bytes(bytes(data[12:16]), "little"):
        raise FormatError("its header is damaged (CRC32)")
    try:
        header = parse_json(text)
    except ValueError:
        raise FormatError("its header is not JSON") from None
    if not isinstance(header, dict) or type(header.get("version")) is not int:
        raise FormatError("its header names no version")
    if header["version"] > FORMAT_VERSION:
        raise FormatError(f"format {header['version']}, newer than this queryopt reads ({FORMAT_VERSION})")
    return header, _aligned(16 + length)


def _parse(header: dict[str, Any], data: npt.NDArray[np.uint8], search_path: str, verify: bool) -> SavedIndex:
    bits = _integer(header, "bits", MAX_BITS)
    size = _integer(header, "bytes", 1 << 62)
    if len(data) < size:
        raise FormatError(f"cut off: {len(data)} bytes of codes, but the header promises {size}")
    if bits < 1 or header.get("structure") not in ("auto", *_STRUCTURES) or len(data) > size:
        raise FormatError("its header and its size don't fit together")
    segments = tuple(_segment(described, bits, data, search_path, verify) for described in _list(header, "segments"))
    next_id = _integer(header, "next_id", 1 << 63)
    return SavedIndex(bits, header["structure"], next_id, segments)


def _segment(
    described: Mapping[str, Any], bits: int, data: npt.NDArray[np.uint8], search_path: str, verify: bool
) -> Segment:
    count, unique = _integer(described, "codes", 1 << 62), _integer(described, "unique", 1 << 62)
    if described.get("structure") not in _STRUCTURES:
        raise FormatError(f"its header names a structure {described.get('structure')!r}")
    sections = dict(_section(section, data, verify) for section in _list(described, "sections"))
    ids: Ids | None = None
    live: Mask | None = None
    if "ids" in sections:
        ids = _values(sections.pop("ids"), "ids", np.int64, count)
        if count and (ids[0] < 0 or np.any(ids[1:] <= ids[:-1])):
            raise FormatError("its ids don't ascend")
    if "live" in sections:
        live = _values(sections.pop("live"), "live", np.uint64, (count + 63) // 64)
        if np.any(live & ~full_mask(count)):
            raise FormatError("its mask of removed codes is longer than its codes")
    engine = restore(Stored(described["structure"], bits, count, unique, sections), ids, search_path)
    alive = count if live is None else int(np.bitwise_count(live).sum())
    return Segment(engine, bits, count, ids, MarginTable(count, bits), live, alive)


def _section(described: Any, data: npt.NDArray[np.uint8], verify: bool) -> tuple[str, npt.NDArray[np.uint8]]:
    if not isinstance(described, dict) or not isinstance(described.get("name"), str):
        raise FormatError("its header describes a section without a name")
    name = described["name"]
    begin, size = _integer(described, "offset", len(data)), _integer(described, "bytes", len(data))
    if begin % _ALIGNMENT or begin + size > len(data):
        raise FormatError(f"section '{name}' lies outside of it")
    section = data[begin : begin + size]
    if verify and _crc(section) != _integer(described, "crc32", (1 << 32) - 1):
        raise FormatError(f"section '{name}' is damaged (CRC32)")
    return name, section


def _values(section: npt.NDArray[np.uint8], name: str, dtype: Any, count: int) -> npt.NDArray[Any]:
    size = count * np.dtype(dtype).itemsize
    if len(section) != size:
        raise FormatError(f"section '{name}' has {len(section)} bytes, not {size}")
    values: npt.NDArray[Any] = section.view(dtype)
    return values if sys.byteorder == "little" else values.byteswap()


def _integer(described: Mapping[str, Any], name: str, most: int) -> int:
    value = described.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise FormatError(f"its header says {name}: {value!r}")
    return value


def _list(described: Mapping[str, Any], name: str) -> list[Any]:
    value = described.get(name)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise FormatError(f"its header has no list of {name}")
    return value


def _crc(section: npt.NDArray[np.uint8]) -> int:
    return zlib.crc32(section.data)


def _aligned(size: int) -> int:
    return (size + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
