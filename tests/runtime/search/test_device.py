"""Searches on a GPU give what the CPU gives; here the kernels run in their emulation on the CPU."""

import logging

import numpy as np
import numpy.typing as npt
import pytest

from emulated_cuda import EmulatedRuntime
from queryopt.errors import MissingError, UsageError
from queryopt.runtime.search import HammingIndex, device


@pytest.fixture
def codes() -> npt.NDArray[np.uint64]:
    return np.random.default_rng(0).integers(0, 1 << 20, 700, np.uint64)


def test_the_same_results_after_every_change(codes: npt.NDArray[np.uint64], emulation: EmulatedRuntime) -> None:
    index = HammingIndex(codes, 24, np.arange(700)[::-1] * 2, runtime=emulation)
    queries = codes[:3]

    def same() -> None:
        one, two = index.search(queries, 9), index.search(queries, 9, device="cuda")
        np.testing.assert_array_equal(one.ids, two.ids)
        np.testing.assert_array_equal(one.distances, two.distances)
        near, also = index.search_radius(queries, 4), index.search_radius(queries, 4, device="cuda")
        np.testing.assert_array_equal(near.offsets, also.offsets)
        np.testing.assert_array_equal(near.ids, also.ids)

    same()
    index.remove([1398, 2])
    same()
    index.add(queries)
    same()
    index.remove(index.ids)
    same()


def test_what_only_the_cpu_can_do(codes: npt.NDArray[np.uint64], emulation: EmulatedRuntime) -> None:
    index = HammingIndex(codes, 24, runtime=emulation)
    logits = np.ones((1, 24))
    with pytest.raises(UsageError, match="a filter is the CPU's"):
        index.search(codes[:1], 3, allow=[1], device="cuda")
    with pytest.raises(UsageError, match="rank='weighted' is the CPU's"):
        index.search(codes[:1], 3, logits=logits, rank="weighted", device="cuda")
    expected = index.search(codes[:1], 3, logits=logits, rank="weighted")
    np.testing.assert_array_equal(
        index.search(codes[:1], 3, logits=logits, rank="weighted", device="auto").ids, expected.ids
    )


def test_auto_says_what_it_chose(
    codes: npt.NDArray[np.uint64],
    emulation: EmulatedRuntime,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    index = HammingIndex(codes, 24, runtime=emulation)
    monkeypatch.setattr(device, "_AUTO_CODES", 500)
    with caplog.at_level(logging.INFO, "queryopt"):
        few = index.search(codes[:2], 3, device="auto")
        many = index.search(codes[:64], 3, device="auto")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["searching on cpu", "searching on cuda"]
    np.testing.assert_array_equal(many.ids[:2], few.ids)
    assert index.choose_device("auto", 64).device == "cuda"
    assert "a filter" in index.choose_device("auto", 64, "a filter").reason


def test_without_a_gpu_auto_takes_the_cpu_and_cuda_says_what_is_missing(
    codes: npt.NDArray[np.uint64], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = HammingIndex(codes, 24)
    monkeypatch.setattr(device, "_AUTO_CODES", 500)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    choice = index.choose_device("auto", 64)
    assert choice.device == "cpu"
    assert choice.reason.startswith("no GPU: ")
    with pytest.raises(MissingError):
        index.search(codes[:1], 3, device="cuda")
    assert index.search(codes[:64], 1, device="auto").distances.max() == 0


def test_the_environment_says_what_reaches_the_gpu(
    codes: npt.NDArray[np.uint64], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(device.RUNTIME_VARIABLE, "pycoda")
    with pytest.raises(UsageError, match=r"no CUDA runtime is called 'pycoda'.*did you mean pycuda\?"):
        HammingIndex(codes, 24).search(codes[:1], 3, device="cuda")


def test_another_device_is_refused(codes: npt.NDArray[np.uint64]) -> None:
    with pytest.raises(UsageError, match="device is 'gpu': it is one of cpu, cuda, auto"):
        HammingIndex(codes, 24).search(codes[:1], 3, device="gpu")
