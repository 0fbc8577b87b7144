"""The code contract: how bits lie in bytes and integers.

Bit i (0-based) is 1 where logit i >= 0. It is bit i % 8 of byte i // 8 (little-endian), and the integer of a code is
the sum of bit_i << i. Padding bits are zero. The number of bits (1..64) is always carried beside the codes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.errors import MismatchError, UsageError

__all__ = [
    "MAX_BITS",
    "check_bits",
    "check_codes",
    "code_bytes",
    "codes_to_uint64",
    "pack_codes",
    "uint64_to_codes",
    "unpack_codes",
]

MAX_BITS = 64


def check_bits(bits: int) -> int:
    """Return `bits` if it is a code length, 1..64; else UsageError."""
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer) or not 1 <= bits <= MAX_BITS:
        raise UsageError(f"bits is {bits!r}: a code has 1 to {MAX_BITS} bits")
    return int(bits)


def code_bytes(bits: int) -> int:
    """Bytes of one packed code: ceil(bits / 8)."""
    return (check_bits(bits) + 7) // 8


def pack_codes(bits: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Pack bits into codes.

    bits: bool or integer [n, bits] of 0 and 1 (from logits: `logits >= 0`).
    Returns uint8 [n, ceil(bits / 8)], padding bits zero. UsageError for another shape, dtype or value.
    """
    array = np.asarray(bits)
    if array.ndim != 2:
        raise UsageError(f"bits has shape {list(array.shape)}: pack_codes takes [n, bits]")
    check_bits(array.shape[1])
    if array.dtype != np.bool_:
        if not np.issubdtype(array.dtype, np.integer):
            raise UsageError(
                f"bits is {array.dtype}: pack_codes takes bool or integers 0 and 1; of logits pass `logits >= 0`"
            )
        if array.size and (array.min() < 0 or array.max() > 1):
            raise UsageError(f"bits holds {array.min()}..{array.max()}: pack_codes takes 0 and 1")
    return np.packbits(array.astype(np.bool_, copy=False), axis=1, bitorder="little")


def unpack_codes(codes: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint8]:
    """Unpack codes (uint8 [n, ceil(bits / 8)] or uint64 [n]) into bits, uint8 [n, bits] of 0 and 1."""
    packed = check_codes(codes, bits)
    return np.unpackbits(packed, axis=1, count=bits, bitorder="little")


def check_codes(codes: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint8]:
    """Return codes as packed uint8 [n, ceil(bits / 8)], C-contiguous.

    codes: uint8 [n, ceil(bits / 8)], or uint64 [n] of integers. Raises UsageError for another dtype or shape and
    MismatchError where a padding bit is set (the codes have more bits than said).
    """
    width = code_bytes(bits)
    array = np.asarray(codes)
    if array.dtype == np.uint64 and array.ndim == 1:
        if bits < 64 and array.size and int(array.max()) >> bits:
            row = int(np.argmax(array >> np.uint64(bits) != 0))
            raise MismatchError(f"code {row} is {array[row]:#x}: it has bits beyond the first {bits}")
        return _split(array, width)
    if array.dtype != np.uint8:
        raise UsageError(
            f"codes are {array.dtype} {list(array.shape)}: give packed uint8 [n, {width}] or uint64 [n] "
            "(pack_codes makes them)"
        )
    if array.ndim != 2 or array.shape[1] != width:
        raise UsageError(f"codes have shape {list(array.shape)}: {bits} bits are uint8 [n, {width}]")
    if bits % 8 and array.size:
        padding = array[:, -1] >> (bits % 8)
        if padding.any():
            row = int(np.argmax(padding != 0))
            raise MismatchError(
                f"code {row} has padding bits set: it has more than {bits} bits, or was packed in another bit order"
            )
    return np.ascontiguousarray(array)


def codes_to_uint64(codes: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint64]:
    """Packed codes as integers: the sum of bit_i << i, uint64 [n]."""
    packed = check_codes(codes, bits)
    words = np.zeros((packed.shape[0], 8), np.uint8)
    words[:, : packed.shape[1]] = packed
    result: npt.NDArray[Any] = words.view("<u8")[:, 0].astype(np.uint64)
    return result


def uint64_to_codes(values: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint8]:
    """Integers uint64 [n] as packed codes, uint8 [n, ceil(bits / 8)]."""
    array = np.asarray(values)
    if array.dtype != np.uint64 or array.ndim != 1:
        raise UsageError(f"values are {array.dtype} {list(array.shape)}: uint64_to_codes takes uint64 [n]")
    return check_codes(array, bits)


def _split(values: npt.NDArray[np.uint64], width: int) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width])
