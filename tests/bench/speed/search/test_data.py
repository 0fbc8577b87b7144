"""The generated data are what they say they are, for every size."""

import numpy as np
import pytest

from queryopt.bench.speed.search.data import KINDS, Data, DataSpec, make_data, specifications, to_words
from queryopt.codes import check_codes
from queryopt.errors import UsageError


def made(kind: str, bits: int = 48, count: int = 100_000, **settings: object) -> Data:
    return make_data(DataSpec(kind, bits, count, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [1, 12, 48, 64])
def test_codes_and_queries_are_codes_of_that_length(kind: str, bits: int) -> None:
    data = made(kind, bits, 3000, queries=7)
    assert check_codes(data.codes, bits).shape == (3000, (bits + 7) // 8)
    assert check_codes(data.queries, bits).shape == (7, (bits + 7) // 8)


@pytest.mark.parametrize("kind", ["clustered", "zipf", "uniform"])
def test_a_small_gallery_is_the_beginning_of_a_large_one(kind: str) -> None:
    large, small = made(kind, count=200_000, classes=10), made(kind, count=70_000, classes=10)
    assert np.array_equal(large.codes[:70_000], small.codes)
    assert np.array_equal(large.queries, small.queries)
    assert not np.array_equal(made(kind, count=70_000, classes=10, seed=1).codes, small.codes)
    assert len(np.unique(to_words(large.codes)[::65536])) > 1  # no chunk repeats another


@pytest.mark.parametrize("flip", [0.0, 0.05, 0.15, 0.5])
def test_bits_flip_with_the_probability_asked_for(flip: float) -> None:
    data = made("clustered", 64, classes=1, flip=flip)
    words = to_words(data.codes)
    bits = np.unpackbits(data.codes, axis=1, bitorder="little")
    centre = np.packbits(bits.mean(axis=0) > 0.5, bitorder="little")
    flipped = np.unpackbits(data.codes ^ centre, axis=1).mean(axis=0)
    # 100,000 draws a bit: five standard deviations.
    assert np.abs(flipped - flip).max() <= 5 * np.sqrt(max(flip, 1e-9) / len(words)) + (flip == 0.5) * 0.005


def test_classes_are_of_equal_or_of_zipf_sizes() -> None:
    equal = np.sort(np.unique(to_words(made("clustered", flip=0.0, classes=10).codes), return_counts=True)[1])
    assert equal.size == 10
    assert equal.max() < 1.1 * equal.min()
    zipf = np.sort(np.unique(to_words(made("zipf", flip=0.0, classes=10).codes), return_counts=True)[1])[::-1]
    assert np.allclose(zipf / zipf[0], 1 / np.arange(1, 11), rtol=0.1)


def test_classes_by_default() -> None:
    assert DataSpec("clustered", 48, 10**7).class_count() == 1000
    assert DataSpec("clustered", 48, 10**8).class_count() == 10_000
    # A gallery cut to a size keeps the classes of the whole.
    assert DataSpec("clustered", 48, 10**8).resized(10**6).class_count() == 10_000


def test_all_but_one_are_equal() -> None:
    data = made("equal", count=1001, queries=50)
    values, counts = np.unique(to_words(data.codes), return_counts=True)
    assert sorted(counts) == [1, 1000]
    assert len(np.unique(to_words(data.queries))) > 10
    assert values.size == 2


@pytest.mark.parametrize("kind", ["clustered", "uniform", "equal"])
def test_far_queries_are_farther_than_others(kind: str) -> None:
    def nearest(far: bool) -> float:
        data = made(kind, count=2000, queries=30, classes=20, far=far)
        distances = np.bitwise_count(to_words(data.codes)[:, None] ^ to_words(data.queries)[None])
        return float(distances.min(axis=0).mean())

    assert nearest(far=True) > nearest(far=False) + 0.5
    if kind == "equal":
        assert nearest(far=True) > 20  # opposite to the equal ones, and not near the other one


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"bits": 65}, "1 to 64"),
        ({"count": 0}, "at least one code"),
        ({"queries": 0}, "one query"),
        ({"flip": 0.6}, "0 .* to 0.5"),
        ({"bits": None}, "need a code length"),
    ],
)
def test_what_is_no_specification(spec: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        DataSpec(**{"kind": "uniform", "bits": 48, "count": 10, **spec})  # type: ignore[arg-type]


def test_specifications_are_the_product_of_what_matters() -> None:
    specs = specifications(("clustered", "uniform"), (12, 48), (10, 1000), (0.05, 0.1), queries=3)
    assert [(s.kind, s.bits, s.flip) for s in specs] == [
        *[("clustered", bits, flip) for bits in (12, 48) for flip in (0.05, 0.1)],
        *[("uniform", bits, 0.05) for bits in (12, 48)],
    ]
    assert {(s.count, s.queries) for s in specs} == {(1000, 3)}
    (file,) = specifications(("codes.npy",))
    assert (file.bits, file.count) == (None, None)
