"""Margins and labels."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from queryopt.codes import pack_codes
from queryopt.errors import MismatchError
from queryopt.runtime.index.rows import encode_margins

SCALE = 3.0


@given(arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 64)), elements=st.floats(-3, 3, width=32)))
def test_no_bit_is_lost(logits: np.ndarray) -> None:
    bits = logits.shape[1]
    margins = encode_margins(pack_codes(logits >= 0), logits, bits, SCALE)
    assert margins.dtype == np.int8
    np.testing.assert_array_equal(margins > 0, logits >= 0)
    np.testing.assert_array_equal(np.abs(margins), np.clip(np.ceil(127 * np.abs(logits.astype(float)) / SCALE), 1, 127))


def test_the_ends_of_the_scale() -> None:
    logits = np.array([[0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0, 9.0, 1.5]], np.float32)
    margins = encode_margins(pack_codes(logits >= 0), logits, 8, SCALE)
    assert margins.tolist() == [[1, 1, 1, -1, 127, -127, 127, 64]]


def test_the_code_decides_next_to_zero_and_only_there() -> None:
    """A model of low precision may round a logit across zero after the bit was taken."""
    logits = np.array([[0.01, -0.01]], np.float32)
    assert encode_margins(pack_codes(np.array([[0, 1]])), logits, 2, SCALE).tolist() == [[-1, 1]]
    with pytest.raises(MismatchError, match="bit 1 of the code is 1, but its logit is -1"):
        encode_margins(pack_codes(np.array([[1, 1]])), np.array([[1.0, -1.0]], np.float32), 2, SCALE)
