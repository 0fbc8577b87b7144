"""The kernels, run on the CPU in shuffled schedules, against NumPy."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from emulated_cuda import EmulatedRuntime
from queryopt.codes import uint64_to_codes
from queryopt.errors import DeviceMemoryError, MismatchError, UsageError
from queryopt.runtime.search import HammingIndex
from queryopt.runtime.search.gpu import CudaHammingIndex, Tuning

SMALL = Tuning(sample=64, min_piece=32, select_threads=64)
"""Many short pieces: every list and every count is used."""


@dataclass(frozen=True, eq=False)
class Gallery:
    bits: int
    codes: npt.NDArray[np.uint64]
    ids: npt.NDArray[np.int64] | None
    queries: npt.NDArray[np.uint64]


def random_codes(bits: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.uint64]:
    return rng.integers(0, (1 << bits) - 1, count, np.uint64, endpoint=True)


def gallery_of(kind: str, bits: int, count: int, queries: int, shuffled: bool, seed: int) -> Gallery:
    rng = np.random.default_rng(seed)
    codes = random_codes(bits, count, rng)
    if kind == "equal":
        codes[:] = random_codes(bits, 1, rng)
    elif kind == "few":
        codes = random_codes(bits, 3, rng)[rng.integers(0, 3, count)]
    elif kind == "nearer and nearer":  # every row that comes is better than all before it
        codes = np.sort(codes & codes << np.uint64(1))[::-1] & np.uint64((1 << bits) - 1)
        codes = codes[np.argsort(-np.bitwise_count(codes).astype(np.int64), kind="stable")]
    asked = random_codes(bits, queries, rng)
    asked[: min(2, queries, count)] = codes[: min(2, queries, count)]
    if kind == "nearer and nearer":
        asked[:] = 0
    ids = rng.permutation(3 * count)[:count].astype(np.int64) if shuffled else None
    return Gallery(bits, codes, ids, asked)


@st.composite
def galleries(draw: st.DrawFn) -> Gallery:
    return gallery_of(
        draw(st.sampled_from(["spread", "equal", "few", "nearer and nearer"])),
        draw(st.integers(1, 64)),
        draw(st.integers(0, 40) | st.integers(0, 2500)),
        draw(st.integers(0, 5) | st.integers(30, 40)),
        draw(st.booleans()),
        draw(st.integers(0, 2**32)),
    )


def oracle(gallery: Gallery) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All ids and distances of each query, [queries, n], in (distance, id) order."""
    ids = np.arange(len(gallery.codes)) if gallery.ids is None else gallery.ids
    distances = np.bitwise_count(gallery.codes[None, :] ^ gallery.queries[:, None]).astype(np.int64)
    order = np.lexsort((np.broadcast_to(ids, distances.shape), distances), axis=1)
    return ids[order], np.take_along_axis(distances, order, 1)


def check_nearest(index: CudaHammingIndex, gallery: Gallery, k: int) -> None:
    found = index.search(gallery.queries, k)
    ids, distances = oracle(gallery)
    pad = ((0, 0), (0, max(0, k - ids.shape[1])))
    np.testing.assert_array_equal(found.ids, np.pad(ids[:, :k], pad, constant_values=-1))
    np.testing.assert_array_equal(found.distances, np.pad(distances[:, :k], pad, constant_values=gallery.bits + 1))
    assert (found.ids.dtype, found.distances.dtype) == (np.int64, np.int32)


def check_radius(index: CudaHammingIndex, gallery: Gallery, radius: int) -> None:
    found = index.search_radius(gallery.queries, radius)
    ids, distances = oracle(gallery)
    inside = distances <= radius
    np.testing.assert_array_equal(found.offsets, np.concatenate([[0], np.cumsum(inside.sum(1))]))
    np.testing.assert_array_equal(found.ids, ids[inside])
    np.testing.assert_array_equal(found.distances, distances[inside])
    assert (found.offsets.dtype, found.ids.dtype, found.distances.dtype) == (np.int64, np.int64, np.int32)


@settings(max_examples=100)
@given(galleries(), st.data())
def test_equals_numpy(emulation: EmulatedRuntime, gallery: Gallery, data: st.DataObject) -> None:
    emulation.seed = data.draw(st.integers(0, 2**40))
    tuning = replace(SMALL, workspace=data.draw(st.sampled_from([1, 5000, 100_000, 1 << 29])))
    k = data.draw(st.integers(0, 12) | st.integers(0, len(gallery.codes) + 3))
    radius = data.draw(st.integers(0, gallery.bits + 2))
    with CudaHammingIndex(gallery.codes, gallery.bits, gallery.ids, emulation, tuning) as index:
        assert len(index) == len(gallery.codes)
        check_nearest(index, gallery, k)
        check_radius(index, gallery, radius)


@pytest.mark.parametrize("bits", range(1, 65))
def test_every_code_length(emulation: EmulatedRuntime, bits: int) -> None:
    gallery = gallery_of("spread", bits, 300, 3, False, bits)
    emulation.seed = bits
    with CudaHammingIndex(gallery.codes, bits, None, emulation, SMALL) as index:
        check_nearest(index, gallery, 7)
        check_radius(index, gallery, bits // 3)


@pytest.mark.parametrize("kind", ["equal", "nearer and nearer"])
@pytest.mark.parametrize("k", [1, 40])
def test_lists_that_overflow_stay_exact(emulation: EmulatedRuntime, kind: str, k: int) -> None:
    """One multiprocessor and long pieces: every warp has far more candidates than its lists hold."""
    gallery = gallery_of(kind, 48, 6000, 3, False, 1)
    with CudaHammingIndex(gallery.codes, 48, None, emulation, replace(SMALL, min_piece=700)) as index:
        for seed in (0, 1, 2):
            emulation.seed = seed
            check_nearest(index, gallery, k)


def test_memory_stays_bounded_when_all_distances_are_equal(emulation: EmulatedRuntime) -> None:
    gallery = gallery_of("equal", 64, 20_000, 8, False, 0)
    tuning = replace(SMALL, workspace=200_000)
    free = emulation.free_memory()
    with CudaHammingIndex(gallery.codes, 64, None, emulation, tuning) as index:
        check_nearest(index, gallery, 10)
        used = free - emulation.free_memory() - index.nbytes
        assert used < 2 * tuning.workspace
        check_radius(index, gallery, 0)
        assert free - emulation.free_memory() - index.nbytes < 2 * tuning.workspace + 2 * 9 * len(gallery.codes)
    assert emulation.free_memory() == free


def test_the_same_results_as_on_the_cpu(emulation: EmulatedRuntime) -> None:
    gallery = gallery_of("few", 12, 2000, 20, True, 3)
    cpu = HammingIndex(gallery.codes, 12, gallery.ids)
    packed, queries = uint64_to_codes(gallery.codes, 12), uint64_to_codes(gallery.queries, 12)
    with CudaHammingIndex(packed, 12, gallery.ids, emulation, SMALL) as gpu:
        for k in (0, 1, 700, 2003):
            a, b = gpu.search(queries, k), cpu.search(queries, k)
            np.testing.assert_array_equal(a.ids, b.ids)
            np.testing.assert_array_equal(a.distances, b.distances)
        for radius in (0, 3, 12, 99):
            c, d = gpu.search_radius(queries, radius), cpu.search_radius(queries, radius)
            for one, other in ((c.offsets, d.offsets), (c.ids, d.ids), (c.distances, d.distances)):
                np.testing.assert_array_equal(one, other)


def test_the_codes_are_copied(emulation: EmulatedRuntime) -> None:
    codes = np.arange(10, dtype=np.uint64)
    with CudaHammingIndex(codes, 8, None, emulation, SMALL) as index:
        codes[:] = 0
        assert index.search(np.array([7], np.uint64), 1).ids.tolist() == [[7]]


def test_several_threads(emulation: EmulatedRuntime) -> None:
    gallery = gallery_of("spread", 32, 1000, 6, False, 5)
    with CudaHammingIndex(gallery.codes, 32, None, emulation, SMALL) as index:
        failures: list[BaseException] = []

        def work(k: int) -> None:
            try:
                for _ in range(3):
                    check_nearest(index, gallery, k)
                    check_radius(index, gallery, k)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in (3, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], "3 codes need 3 integers"),
        ([1.0, 2.0, 3.0], "3 codes need 3 integers"),
        ([1, -1, 2], "ids are >= 0"),
        ([4, 2, 4], "id 4 is there twice"),
        (np.array([1, 2, 2**63], np.uint64), "the largest is"),
    ],
)
def test_ids_that_are_wrong(emulation: EmulatedRuntime, ids: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CudaHammingIndex(np.zeros((3, 1), np.uint8), 8, ids, emulation)


def test_arguments_that_are_wrong(emulation: EmulatedRuntime) -> None:
    with CudaHammingIndex(np.zeros((3, 2), np.uint8), 12, None, emulation) as index:
        with pytest.raises(UsageError, match="k is -1"):
            index.search(np.zeros((1, 2), np.uint8), -1)
        with pytest.raises(UsageError, match=r"radius is 1\.5"):
            index.search_radius(np.zeros((1, 2), np.uint8), 1.5)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="ask for fewer at once"):
            index.search(np.zeros((2, 2), np.uint8), 1 << 28)
        with pytest.raises(UsageError, match="12 bits are uint8"):
            index.search(np.zeros((1, 3), np.uint8), 1)
        with pytest.raises(MismatchError, match="padding bits"):
            index.search(np.full((1, 2), 255, np.uint8), 1)
    with pytest.raises(UsageError, match="bits is 65"):
        CudaHammingIndex(np.zeros((3, 2), np.uint8), 65, None, emulation)
    with pytest.raises(UsageError, match=r"no CUDA runtime is called 'cuda_core'.*did you mean cuda-core"):
        CudaHammingIndex(np.zeros((3, 2), np.uint8), 12, None, "cuda_core")


def test_codes_that_do_not_fit(make_emulation: Callable[..., EmulatedRuntime]) -> None:
    small = make_emulation(memory=1000)
    with pytest.raises(
        DeviceMemoryError, match=r"1000 codes of 48 bits take 8000 bytes of the GPU's memory.*on the CPU"
    ):
        CudaHammingIndex(np.zeros(1000, np.uint64), 48, None, small)


def test_memory_that_is_short_takes_more_rounds(
    make_emulation: Callable[..., EmulatedRuntime], caplog: pytest.LogCaptureFixture
) -> None:
    gallery = gallery_of("spread", 33, 1000, 60, False, 4)
    with CudaHammingIndex(gallery.codes, 33, None, make_emulation(memory=300_000), SMALL) as index:
        check_nearest(index, gallery, 300)
        check_radius(index, gallery, 14)
    assert "bytes of device memory were asked for" in caplog.text
    assert "searching in 134217728 bytes from now on" in caplog.text


def test_too_little_memory_for_any_search(make_emulation: Callable[..., EmulatedRuntime]) -> None:
    gallery = gallery_of("spread", 33, 3000, 1, False, 4)
    with (
        CudaHammingIndex(gallery.codes, 33, None, make_emulation(memory=8 * 3000 + 5000), SMALL) as index,
        pytest.raises(DeviceMemoryError, match="were asked for"),
    ):
        index.search(gallery.queries, 3000)


def test_memory_is_given_back_with_the_index(emulation: EmulatedRuntime) -> None:
    free = emulation.free_memory()
    index = CudaHammingIndex(np.zeros(500, np.uint64), 48, None, emulation, SMALL)
    index.search(np.zeros(2, np.uint64), 3)
    assert emulation.free_memory() < free
    del index
    assert emulation.free_memory() == free


def test_a_closed_index_is_not_searched(emulation: EmulatedRuntime) -> None:
    index = CudaHammingIndex(np.zeros(5, np.uint64), 48, None, emulation)
    index.close()
    index.close()
    with pytest.raises(UsageError, match="closed"):
        index.search(np.zeros(1, np.uint64), 2)
    with pytest.raises(UsageError, match="closed"):
        index.search_radius(np.zeros(1, np.uint64), 2)
