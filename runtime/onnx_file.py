"""A model.onnx as bytes, and its metadata, without the onnx package: what a machine that only runs models needs."""

import re
from collections.abc import Iterator
from pathlib import Path

from queryopt.card import ModelCard
from queryopt.errors import ModelError
from queryopt.text import display_path

__all__ = ["read_card", "read_onnx"]

_EXTERNAL_DATA = re.compile(rb"location(?<=[\x08\x00]location)")
"""The key of a tensor that lies in another file: these letters after their number, 8, in either way to write it."""

_METADATA_PROPS = 14
"""Number of ModelProto.metadata_props in onnx.proto; its entries hold key (1) and value (2)."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""


def read_onnx(path: Path) -> bytes:
    """The content of a model.onnx. ModelError where it can't be read, is empty, or keeps weights in other files."""
    where = display_path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{where}: can't be read: {error.strerror}") from None
    if not content:
        raise ModelError(f"{where}: zero bytes: export the model again with qo-export")
    # A file that names others could have any file of this machine read into the model (CVE-2025-51480 and its kin);
    # ONNX Runtime itself would read any that lies below the folder that one is in.
    if _EXTERNAL_DATA.search(content):
        raise ModelError(
            f"{where}: keeps its weights in other files, which is refused: a model of qo-export is one file"
        )
    return content


def read_card(content: bytes, where: str) -> ModelCard:
    """The card of a model.onnx; `where` names it in errors. ModelError where it has none, or is damaged or newer."""
    try:
        metadata = {}
        for number, value in _fields(memoryview(content)):
            if number == _METADATA_PROPS:
                entry = dict(_fields(value))
                metadata[str(entry.get(1, b""), "utf-8")] = str(entry.get(2, b""), "utf-8")
    except ValueError as error:
        raise ModelError(
            f"{where}: not an ONNX file, or cut off or damaged ({error}): export it again with qo-export"
        ) from None
    return ModelCard.from_metadata(metadata, where)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, bytes) of a protobuf message's fields; those of another kind have no bytes. ValueError for no message.

    Source: protobuf's encoding, https://protobuf.dev/programming-guides/encoding/.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        size = 0
        if kind == _VARINT:
            _, at = _varint(message, at)
        elif kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field of the unknown kind {kind} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"a field of {size} bytes at byte {at}, and it ends at {len(message)}")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        value |= (message[at] & 0x7F) << shift
        at += 1
        if not message[at - 1] & 0x80:
            return value, at
    raise ValueError(f"a number without an end at byte {at}")
