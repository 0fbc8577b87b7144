"""A model.onnx as bytes, and its metadata, without the onnx package: what a machine that only runs models needs."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from queryopt.card import ModelCard
from queryopt.errors import ModelError
from queryopt.text import display_path

__all__ = ["DIGEST_KEY", "content_digest", "read_card", "read_onnx"]

DIGEST_KEY = "queryopt.sha256"
"""The entry of the metadata that holds `content_digest`. Models of before there was one have none."""

_EXTERNAL_DATA = re.compile(rb"location(?<=[\x08\x00]location)")
"""The key of a tensor that lies in another file: these letters after their number, 8, in either way to write it."""

_METADATA_PROPS = 14
"""Number of ModelProto.metadata_props in onnx.proto; its entries hold key (1) and value (2)."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""


def read_onnx(path: Path) -> bytes:
    """The content of a model.onnx.

    ModelError where it can't be read, is empty, keeps weights in other files, or is not as qo-export wrote it.
    """
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
    try:
        expected = _metadata(content).get(DIGEST_KEY)
        damaged = expected is not None and expected != content_digest(content)
    except ValueError:  # no ONNX file: whoever reads it says so
        damaged = False
    if damaged:
        raise ModelError(
            f"{where}: the file is not as qo-export wrote it (its SHA-256 is another): its codes would not be those of "
            "its fingerprint: copy it again, or export the model again"
        )
    return content


def content_digest(content: bytes) -> str:
    """SHA-256, in hex digits, of all fields of a model.onnx but the entry of the metadata that holds this digest."""
    digest = hashlib.sha256()
    for number, value in _fields(memoryview(content)):
        if number != _METADATA_PROPS or _entry(value)[0] != DIGEST_KEY:
            digest.update(b"%d %d " % (number, len(value)))
            digest.update(value)
    return digest.hexdigest()


def read_card(content: bytes, where: str) -> ModelCard:
    """The card of a model.onnx; `where` names it in errors. ModelError where it has none, or is damaged or newer."""
    try:
        metadata = _metadata(content)
    except ValueError as error:
        raise ModelError(
            f"{where}: not an ONNX file, or cut off or damaged ({error}): export it again with qo-export"
        ) from None
    return ModelCard.from_metadata(metadata, where)


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a model.onnx. ValueError for no such file."""
    return dict(_entry(value) for number, value in _fields(memoryview(content)) if number == _METADATA_PROPS)


def _entry(value: memoryview) -> tuple[str, str]:
    fields = dict(_fields(value))
    return str(fields.get(1, b""), "utf-8"), str(fields.get(2, b""), "utf-8")


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
