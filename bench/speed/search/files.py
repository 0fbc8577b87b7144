"""Codes out of a file: .npy and .npz of packed codes, or an index.db."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.codes import check_codes
from queryopt.errors import FormatError, InputError, MismatchError, UsageError
from queryopt.text import display_path

__all__ = ["read_codes"]

_ENDINGS = (".npy", ".npz", ".db")


def read_codes(path: str, bits: int | None = None) -> tuple[int, npt.NDArray[np.uint8]]:
    """The codes of a file, uint8 [n, ceil(bits / 8)], with their length.

    .npz: as qo-infer writes it ("codes", and "bits" where `bits` is None). .npy: codes uint8 [n, bytes] or uint64 [n];
    `bits` None is all bits of the bytes. .db: an index. Raises InputError where there is no file, FormatError for one
    that is not what its name says, MismatchError for codes of another length than `bits`.
    """
    file = Path(path)
    name = display_path(path)
    if file.suffix.lower() not in _ENDINGS:
        raise UsageError(f"{name}: neither a kind of data nor a file of codes ({', '.join(_ENDINGS)})")
    if not file.is_file():
        raise InputError(f"{name}: no such file")
    if file.suffix.lower() == ".db":
        return _from_index(file, bits)
    stored, codes = _load(file, name)
    if stored is not None and bits not in (None, stored):
        raise MismatchError(f"{name} holds codes of {stored} bits, not of {bits}")
    length = bits or stored or 8 * (codes.shape[1] if codes.ndim == 2 else 8)
    try:
        return length, check_codes(codes, length)
    except UsageError as error:
        raise MismatchError(f"{name}: {error}") from None


def _load(file: Path, name: str) -> tuple[int | None, npt.NDArray[Any]]:
    try:
        # Never pickles: a file of codes must not be able to run anything.
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return None, loaded
        with loaded:
            return (int(loaded["bits"]) if "bits" in loaded else None), loaded["codes"]
    except (ValueError, KeyError, EOFError, OSError, TypeError, zipfile.BadZipFile) as error:
        raise FormatError(f"{name}: no file of packed codes ({error}): qo-infer --out codes.npz writes one") from None


def _from_index(file: Path, bits: int | None) -> tuple[int, npt.NDArray[np.uint8]]:
    from queryopt.runtime import HashIndex

    with HashIndex.open(file, readonly=True) as index:
        if bits not in (None, index.bits):
            raise MismatchError(f"{display_path(file)} holds codes of {index.bits} bits, not of {bits}")
        codes = np.empty((len(index), (index.bits + 7) // 8), np.uint8)
        for row, image in zip(codes, index, strict=False):
            row[:] = image.code
        return index.bits, codes
