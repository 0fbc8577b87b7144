import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from queryopt.codes import check_codes, code_bytes, codes_to_uint64, pack_codes, uint64_to_codes, unpack_codes
from queryopt.errors import MismatchError, UsageError


def test_bit_order_is_the_published_contract() -> None:
    bits = np.zeros((3, 12), np.uint8)
    bits[0, 0] = bits[1, 7] = bits[2, 8] = bits[2, 11] = 1
    codes = pack_codes(bits)
    assert codes.tolist() == [[1, 0], [128, 0], [0, 0b1001]]
    assert codes_to_uint64(codes, 12).tolist() == [1 << 0, 1 << 7, (1 << 8) | (1 << 11)]


@given(st.integers(1, 64), st.integers(0, 20), st.integers(0, 2**32))
def test_every_form_of_a_code_goes_round(bits: int, n: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2, (n, bits), np.uint8)
    codes = pack_codes(values)
    assert codes.shape == (n, code_bytes(bits))
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(unpack_codes(codes, bits), values)
    integers = codes_to_uint64(codes, bits)
    assert [int(v) for v in integers] == [sum(int(b) << i for i, b in enumerate(row)) for row in values]
    np.testing.assert_array_equal(uint64_to_codes(integers, bits), codes)


def test_packing_takes_a_non_contiguous_array() -> None:
    values = np.random.default_rng(0).integers(0, 2, (24, 10), np.uint8)
    np.testing.assert_array_equal(pack_codes(values.T), pack_codes(values.T.copy()))
    codes = np.ascontiguousarray(pack_codes(values.T))
    np.testing.assert_array_equal(check_codes(codes[::2], 24), codes[::2])


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (np.zeros((2, 65), bool), "1 to 64"),
        (np.zeros((2, 0), bool), "1 to 64"),
        (np.zeros(12, bool), r"\[n, bits\]"),
        (np.zeros((2, 12), np.float32), "logits >= 0"),
        (np.full((2, 12), 2), "0 and 1"),
        (np.full((2, 12), -1), "0 and 1"),
    ],
)
def test_what_is_not_bits_is_refused(bits: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pack_codes(bits)


def test_padding_bits_are_refused() -> None:
    with pytest.raises(MismatchError, match="code 1 has padding bits"):
        check_codes(np.array([[255, 15], [255, 16]], np.uint8), 12)
    with pytest.raises(MismatchError, match="code 1 is 0x1000"):
        check_codes(np.array([4095, 4096], np.uint64), 12)
    assert check_codes(np.array([2**64 - 1], np.uint64), 64).tolist() == [[255] * 8]


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((3, 3), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((3, 2), np.float32),
        np.zeros((3, 2), np.uint64),
        np.zeros(3, np.int64),
    ],
)
def test_codes_of_another_shape_or_dtype_are_refused(codes: np.ndarray) -> None:
    with pytest.raises(UsageError, match="uint8"):
        check_codes(codes, 12)


@pytest.mark.parametrize("bits", [0, 65, -1, True, 1.5, "12"])
def test_bits_outside_1_to_64_are_refused(bits: object) -> None:
    with pytest.raises(UsageError, match="1 to 64"):
        code_bytes(bits)  # type: ignore[arg-type]
