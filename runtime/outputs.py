"""Codes as files for other programs: .npz, .csv, .parquet. Written batch by batch, and there whole or not at all.

How paths become text, in CSV and Parquet: as UTF-8, a backslash as two of them, and a byte that is no UTF-8 as \\xNN.
In CSV, a field that a spreadsheet would take for a formula (it begins with = + - @, a tab or a carriage return), or
that begins with an apostrophe, gets an apostrophe in front. `path_from_text` and `field_from_csv` take both back.
"""

import csv
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from queryopt.card import CARD_KEY, ModelCard
from queryopt.codes import code_bytes, codes_to_uint64
from queryopt.errors import MissingError, UsageError
from queryopt.files import replacing
from queryopt.text import display_path, install_extra

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "OUTPUT_SUFFIXES",
    "CodeRows",
    "check_output",
    "field_from_csv",
    "field_to_csv",
    "path_from_text",
    "path_to_text",
    "writing_codes",
]

OUTPUT_SUFFIXES = (".npz", ".csv", ".parquet")

_CSV_FIELDS = (b"path", b"label", b"code")

_FORMULA = re.compile(r"[=+\-@\t\r']")


@dataclass(frozen=True, eq=False)
class CodeRows:
    """Some rows of a file of codes.

    paths: bytes, as the file system has them.
    codes: uint8 [n, ceil(bits / 8)].
    margins: int8 [n, bits] (the sign is the bit, the magnitude 1..127 how sure it is).
    labels: a name or None each.
    ids: int64 [n] of an index, or None.
    """

    paths: Sequence[bytes]
    codes: npt.NDArray[np.uint8]
    margins: npt.NDArray[np.int8]
    labels: Sequence[str | None]
    ids: npt.NDArray[np.int64] | None = None


Write: TypeAlias = Callable[[CodeRows], None]


def check_output(path: "Path") -> None:
    """Raise UsageError or MissingError where codes can't be written to a file of this name.

    One that is there is replaced if it is such a file, and only then.
    """
    suffix = path.suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise UsageError(f"{display_path(path)}: the ending says the format; there are {', '.join(OUTPUT_SUFFIXES)}")
    if not path.parent.is_dir():
        raise UsageError(f"{display_path(path)}: there is no folder {display_path(path.parent)} to write it to")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise MissingError(f"{display_path(path)} needs pyarrow: {install_extra('parquet')}") from None
    # A pipe or a device is written to, and holds nothing.
    if path.is_file() and path.stat().st_size and not _holds_codes(path, suffix):
        raise UsageError(
            f"{display_path(path)}: the file there holds no codes of queryopt: move it away, or choose another name"
        )


def _holds_codes(path: "Path", suffix: str) -> bool:
    """Whether a file is what `writing_codes` writes."""
    if suffix == ".csv":
        with open(path, "rb") as file:
            return file.readline(64).removeprefix(b"id,") == b",".join(_CSV_FIELDS) + b"\n"
    try:
        if suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return {"paths.npy", "codes.npy", "margins.npy", "card.npy"} <= set(archive.namelist())
        import pyarrow.parquet as pq

        return CARD_KEY.encode() in (pq.read_schema(path).metadata or {})
    except (ValueError, OSError, zipfile.BadZipFile):  # pyarrow's errors are the first two
        return False


@contextmanager
def writing_codes(path: "Path", card: ModelCard, with_ids: bool = False) -> Iterator[Write]:
    """Open a file of codes; the ending of its name says the format. Yields a function that appends rows.

    with_ids: rows have ids. The file takes `path`'s place when the block ends without an error.

    .npz: ids, paths (bytes, `os.fsdecode` them), codes, margins, labels ("" for none), bits, card (JSON); loads with
    allow_pickle=False. .csv: id, path, label, code (as the integer of the code contract, 0x…). .parquet: id, path,
    label, code (uint64), margins (list of int8); the schema's metadata hold the card.
    """
    check_output(path)
    writer = {".npz": _npz, ".csv": _csv, ".parquet": _parquet}[path.suffix.lower()]
    with replacing(path) as file, writer(file, card, with_ids) as write:
        yield write


def path_from_text(text: str) -> bytes:
    """The path that a file of codes names by `text`."""
    return re.sub(
        rb"\\(\\|x[0-9a-f]{2})",
        lambda found: b"\\" if found[1] == b"\\" else bytes.fromhex(found[1][1:].decode()),
        text.encode(),
    )


def field_from_csv(field: str) -> str:
    """A CSV field without the apostrophe that keeps spreadsheets from running it."""
    return field.removeprefix("'")


def path_to_text(path: bytes) -> str:
    """A path as text, from which `path_from_text` makes the path again."""
    return path.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def _label_to_text(label: str | None) -> str:
    return "" if label is None else path_to_text(os.fsencode(label))


def field_to_csv(field: str) -> str:
    """A CSV field that no spreadsheet takes for a formula."""
    return f"'{field}" if _FORMULA.match(field) else field


@contextmanager
def _npz(file: IO[bytes], card: ModelCard, with_ids: bool) -> Iterator[Write]:
    parts: list[CodeRows] = []
    yield parts.append
    bits = card.bits
    labels = [_label_to_text(label) for part in parts for label in part.labels]
    arrays: dict[str, Any] = {
        # Paths hold no zero bytes, which is what numpy's bytes drop at the end.
        "paths": np.array([path for part in parts for path in part.paths], np.bytes_),
        "codes": np.concatenate([np.empty((0, code_bytes(bits)), np.uint8), *(part.codes for part in parts)]),
        "margins": np.concatenate([np.empty((0, bits), np.int8), *(part.margins for part in parts)]),
        "labels": np.array(labels, np.str_),
        "bits": np.array(bits),
        "card": np.array(card.to_json()),
    }
    if with_ids:
        arrays["ids"] = np.concatenate([np.empty(0, np.int64), *(part.ids for part in parts if part.ids is not None)])
    np.savez_compressed(file, allow_pickle=False, **arrays)


@contextmanager
def _csv(file: IO[bytes], card: ModelCard, with_ids: bool) -> Iterator[Write]:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(["id"] if with_ids else []), *(name.decode() for name in _CSV_FIELDS)])
    digits = 2 * code_bytes(card.bits)

    def write(rows: CodeRows) -> None:
        values = codes_to_uint64(rows.codes, card.bits)
        for row, (path, label, value) in enumerate(zip(rows.paths, rows.labels, values, strict=True)):
            fields = [field_to_csv(path_to_text(path)), field_to_csv(_label_to_text(label))]
            number = [] if rows.ids is None else [int(rows.ids[row])]
            writer.writerow([*number, *fields, f"0x{int(value):0{digits}x}"])

    yield write
    text.detach()


@contextmanager
def _parquet(file: IO[bytes], card: ModelCard, with_ids: bool) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [
        *([("id", pa.int64())] if with_ids else []),
        ("path", pa.string()),
        ("label", pa.string()),
        ("code", pa.uint64()),
        ("margins", pa.list_(pa.int8(), card.bits)),
    ]
    schema = pa.schema(columns, metadata={CARD_KEY: card.to_json()})
    with pq.ParquetWriter(file, schema) as writer:

        def write(rows: CodeRows) -> None:
            if not len(rows.paths):
                return
            values = {
                "path": [path_to_text(path) for path in rows.paths],
                "label": [None if label is None else _label_to_text(label) for label in rows.labels],
                "code": codes_to_uint64(rows.codes, card.bits),
                "margins": pa.FixedSizeListArray.from_arrays(pa.array(rows.margins.ravel()), card.bits),
            }
            if rows.ids is not None:
                values["id"] = rows.ids
            writer.write_table(pa.table({name: values[name] for name in schema.names}, schema=schema))

        yield write
