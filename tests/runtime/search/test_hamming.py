"""HammingIndex against a naive oracle in plain Python integers, with the native core and without."""

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from queryopt.codes import code_bytes, uint64_to_codes
from queryopt.errors import MismatchError, UsageError
from queryopt.runtime.search import HammingIndex, core, scan


@pytest.fixture(scope="module", params=[core.paths()[0], core.NUMPY], autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(core.PATH_VARIABLE, request.param)
        yield request.param


def oracle(codes: list[int], ids: list[int], query: int) -> list[tuple[int, int]]:
    """All (distance, id), in order."""
    return sorted(((code ^ query).bit_count(), id) for code, id in zip(codes, ids, strict=True))


@st.composite
def galleries(draw: st.DrawFn) -> tuple[int, list[int], list[int], list[int]]:
    """(bits, codes, ids, queries): often with few distinct codes, so that most distances tie."""
    bits = draw(st.integers(1, 64))
    pool = draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=6))
    one = st.sampled_from(pool) | st.integers(0, 2**bits - 1)
    codes = draw(st.lists(one, max_size=300))
    ids = draw(st.lists(st.integers(0, 2**63 - 1), min_size=len(codes), max_size=len(codes), unique=True))
    return bits, codes, ids, draw(st.lists(one, max_size=3))


@settings(max_examples=150)
@given(galleries(), st.data())
def test_equals_the_oracle(gallery: tuple[int, list[int], list[int], list[int]], data: st.DataObject) -> None:
    bits, codes, ids, queries = gallery
    k, radius = data.draw(st.integers(0, len(codes) + 3)), data.draw(st.integers(0, bits + 2))
    rows = data.draw(st.sampled_from([scan._BLOCK, 7, 1]))
    index = HammingIndex(np.array(codes, np.uint64), bits, np.array(ids, np.int64))
    asked = np.array(queries, np.uint64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "_BLOCK", rows)  # many blocks, without millions of rows
        found, near = index.search(asked, k), index.search_radius(asked, radius)
    assert found.ids.shape == found.distances.shape == (len(queries), k)
    assert (found.ids.dtype, found.distances.dtype) == (np.int64, np.int32)
    assert (near.offsets.dtype, near.ids.dtype, near.distances.dtype) == (np.int64, np.int64, np.int32)
    for i, query in enumerate(queries):
        expected = oracle(codes, ids, query)
        padded = (expected + [(bits + 1, -1)] * k)[:k]
        assert list(zip(found.distances[i].tolist(), found.ids[i].tolist(), strict=True)) == padded
        rows_of = slice(near.offsets[i], near.offsets[i + 1])
        got = list(zip(near.distances[rows_of].tolist(), near.ids[rows_of].tolist(), strict=True))
        assert got == [pair for pair in expected if pair[0] <= radius]
    assert near.offsets[0] == 0
    assert near.offsets[-1] == len(near.ids)


def test_many_rows_far_ones_first() -> None:
    """Rows that come ever nearer keep filling the list of candidates, which must be thinned out and stay exact."""
    bits, rng = 64, np.random.default_rng(0)
    distance = np.repeat(np.arange(64, 0, -1), 5000)
    codes = np.array([(1 << int(d)) - 1 for d in distance], np.uint64)
    ids = rng.permutation(len(codes)) + 5
    index = HammingIndex(codes, bits, ids)
    query = np.zeros(1, np.uint64)
    for k in (1, 4999, 5001, 12000):
        found = index.search(query, k)
        order = np.lexsort((ids, distance))[:k]
        np.testing.assert_array_equal(found.ids[0], ids[order])
        np.testing.assert_array_equal(found.distances[0], distance[order])


def test_all_tied_is_ordered_by_id() -> None:
    ids = np.random.default_rng(1).permutation(1000)
    found = HammingIndex(np.full((1000, 2), 3, np.uint8), 12, ids).search(np.full((1, 2), 3, np.uint8), 1000)
    assert found.ids[0].tolist() == list(range(1000))
    assert not found.distances.any()


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 12, 16, 17, 24, 32, 33, 48, 63, 64])
def test_packed_bytes_and_integers_are_the_same_codes(bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, 50, np.uint64, endpoint=False)
    packed = uint64_to_codes(values, bits)
    one, two = HammingIndex(values, bits), HammingIndex(packed, bits)
    for query in (values[:5], packed[:5], np.asfortranarray(packed)[:5], np.repeat(packed[:5], 2, axis=0)[::2]):
        np.testing.assert_array_equal(one.search(query, 9).ids, two.search(packed[:5], 9).ids)
    assert one.search(values, 1).ids[:, 0].tolist() == [int(np.flatnonzero(values == v)[0]) for v in values]


def test_little_endian_bit_order() -> None:
    """Bit 9 is bit 1 of byte 1, and of weight 2 ** 9 in an integer."""
    index = HammingIndex(np.array([[0, 2]], np.uint8), 12)
    assert index.search(np.array([1 << 9], np.uint64), 1).distances[0, 0] == 0
    assert index.search(np.array([1 << 1], np.uint64), 1).distances[0, 0] == 2


def test_nothing_to_find() -> None:
    empty = HammingIndex(np.empty((0, 6), np.uint8), 48)
    assert len(empty) == 0
    result = empty.search(np.zeros((2, 6), np.uint8), 3)
    assert (result.ids == -1).all()
    assert (result.distances == 49).all()
    assert empty.search_radius(np.zeros((2, 6), np.uint8), 48).offsets.tolist() == [0, 0, 0]
    some = HammingIndex(np.zeros((4, 6), np.uint8), 48)
    assert some.search(np.zeros((2, 6), np.uint8), 0).ids.shape == (2, 0)
    assert some.search(np.empty((0, 6), np.uint8), 3).ids.shape == (0, 3)
    assert some.search_radius(np.empty((0, 6), np.uint8), 3).offsets.tolist() == [0]


def test_the_given_array_may_change_afterwards() -> None:
    codes = np.zeros((3, 1), np.uint8)
    index = HammingIndex(codes, 8)
    codes[:] = 255
    assert index.search(np.zeros((1, 1), np.uint8), 3).distances.tolist() == [[0, 0, 0]]


ZERO = np.zeros((4, 2), np.uint8)


@pytest.mark.parametrize(
    ("codes", "bits", "ids", "message"),
    [
        (ZERO.astype(np.float32), 12, None, "float32"),
        (ZERO.astype(np.int64), 12, None, "int64"),
        (ZERO, 20, None, r"20 bits are uint8 \[n, 3\]"),
        (ZERO[0], 12, None, r"shape \[2\]"),
        (ZERO, 0, None, "bits is 0"),
        (ZERO, 65, None, "1 to 64"),
        (ZERO, 12.0, None, "bits is 12.0"),
        (ZERO, 12, [1, 2, 3], "4 codes need 4 integers"),
        (ZERO, 12, [1, 2, 3, 2], "id 2 is there twice"),
        (ZERO, 12, [1, 2, 3, -2], "id is -2"),
        (ZERO, 12, [1.0, 2.0, 3.0, 4.0], "float64"),
        (ZERO, 12, np.array([0, 1, 2, 2**63], np.uint64), "largest"),
    ],
)
def test_wrong_galleries_are_refused(codes: Any, bits: Any, ids: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        HammingIndex(codes, bits, ids)


def test_codes_of_another_length_are_refused() -> None:
    with pytest.raises(MismatchError, match="code 1 has padding bits"):
        HammingIndex(np.array([[1, 0], [1, 16]], np.uint8), 12)
    index = HammingIndex(ZERO, 12)
    with pytest.raises(MismatchError, match="padding"):
        index.search(np.array([[0, 255]], np.uint8), 1)
    with pytest.raises(MismatchError, match="beyond the first 12"):
        index.search(np.array([1 << 12], np.uint64), 1)
    with pytest.raises(UsageError, match=r"\[n, 2\]"):
        index.search(np.zeros((1, code_bytes(24)), np.uint8), 1)


@pytest.mark.parametrize("k", [-1, 1.0, "3", True, None])
def test_wrong_counts_are_refused(k: Any) -> None:
    index = HammingIndex(ZERO, 12)
    with pytest.raises(UsageError, match="k is"):
        index.search(ZERO, k)
    with pytest.raises(UsageError, match="radius is"):
        index.search_radius(ZERO, k)


def test_a_huge_k_allocates_nothing() -> None:
    with pytest.raises(UsageError, match="fewer"):
        HammingIndex(ZERO, 12).search(ZERO, 10**12)
