"""How batches go through an engine, on a device that does nothing before it is waited for.

The engine runs a real model in ONNX Runtime. That TensorRT and a GPU do the same, these tests can't show.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from emulated_tensorrt import EmulatedBackend
from queryopt.errors import DeviceMemoryError, MismatchError
from queryopt.runtime import Hasher
from queryopt.runtime.backends import BackendOutput, open_backend
from queryopt.runtime.tensorrt.pipeline import buckets
from queryopt.runtime.tensorrt.profile import Profile

Open = Callable[..., EmulatedBackend]
Pixels = npt.NDArray[np.uint8]

IMAGE = 32 * 32 * 3 + 2 + 12 * 4 + 1000
"""Bytes of device memory for an image of the frozen model."""


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(frozen_model: Path, pixels: Pixels) -> BackendOutput:
    return open_backend(frozen_model, "onnxruntime", 1).run(pixels)


def assert_rows(output: BackendOutput, expected: BackendOutput, rows: slice) -> None:
    np.testing.assert_array_equal(output.codes, expected.codes[rows])
    np.testing.assert_allclose(output.logits, expected.logits[rows], atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("capturable", [True, False])
def test_batches_of_every_size(
    opened: Open, pixels: Pixels, expected: BackendOutput, count: int, capturable: bool
) -> None:
    backend = opened(capturable=capturable)
    for at in (0, 20):  # the second run finds everything made
        assert_rows(backend.run(pixels[at : at + count]), expected, slice(at, at + count))
    assert set(backend.engine.done) <= {1, 2, 4, 8}
    backend.close()


def test_a_batch_below_the_profile_is_filled_up(opened: Open, pixels: Pixels, expected: BackendOutput) -> None:
    backend = opened("4,4,8")
    assert_rows(backend.run(pixels[:1]), expected, slice(0, 1))
    assert set(backend.engine.done) == {4}
    backend.close()


def test_many_batches_in_flight(opened: Open, pixels: Pixels, expected: BackendOutput) -> None:
    backend = opened()
    sizes = [8, 8, 3, 8, 1, 5, 8, 8, 2, 7]
    starts = np.cumsum([0, *sizes])[:-1]
    pending = [backend.start(pixels[at : at + size]) for at, size in zip(starts, sizes, strict=True)]
    for at, size, batch in reversed(list(zip(starts, sizes, pending, strict=True))):
        assert_rows(batch.result(), expected, slice(at, at + size))
        assert_rows(batch.result(), expected, slice(at, at + size))
    backend.close()


def test_what_was_given_and_what_came_back_are_the_callers(
    opened: Open, pixels: Pixels, expected: BackendOutput
) -> None:
    backend = opened()
    mine = pixels[:8].copy()
    pending = backend.start(mine)
    mine[:] = 0
    first = pending.result()
    backend.run(pixels[8:16])
    backend.run(pixels[16:24])
    assert_rows(first, expected, slice(0, 8))
    backend.close()


def test_a_batch_starts_while_another_one_runs(opened: Open, pixels: Pixels) -> None:
    backend = opened()
    for at in (0, 8):  # both slots are made
        backend.run(pixels[at : at + 8])
    backend.engine.done.clear()
    first, second = backend.start(pixels[:8]), backend.start(pixels[8:16])
    assert backend.engine.done == [], "both are given to the device before the first one is waited for"
    first.result()
    assert backend.engine.done == [8], "and waiting for the first doesn't wait for the second"
    second.result()
    backend.close()


def test_a_graph_is_recorded_once_for_each_bucket(opened: Open, pixels: Pixels) -> None:
    backend = opened()
    for _ in range(5):
        for size in (8, 8, 3, 3):
            backend.run(pixels[:size])
    # In each of the two slots: a first run and the recording, of buckets 8 and 4.
    assert sorted(backend.engine.enqueued) == [4] * 4 + [8] * 4
    assert len(backend.engine.done) == 20 + 4
    backend.close()


def test_a_small_batch_may_take_more_scratch_than_a_large_one(
    opened: Open, pixels: Pixels, expected: BackendOutput
) -> None:
    backend = opened(scratch=lambda batch: 9000 - 1000 * batch)
    for size in (8, 8, 1, 1, 8, 8, 3, 3, 8, 8, 1):
        assert_rows(backend.run(pixels[:size]), expected, slice(0, size))
    backend.close()


def test_close_gives_all_memory_back(opened: Open, pixels: Pixels) -> None:
    backend = opened()
    cuda = backend.cuda
    free = cuda.free_memory()
    backend.run(pixels[:3])
    backend.start(pixels[:8])
    assert cuda.free_memory() < free
    backend.close()
    assert cuda.free_memory() == free


class TestMemory:
    def test_is_taken_for_what_is_run_not_for_what_could_be(self, opened: Open, pixels: Pixels) -> None:
        backend = opened("1,32,1024", memory=2 * 8 * IMAGE)
        backend.run(pixels[:8])
        backend.run(pixels[:8])
        assert backend.pipeline.largest == 1024
        backend.close()

    @pytest.mark.parametrize("deferred", [True, False])
    def test_short_halves_the_batch_and_says_so(
        self,
        opened: Open,
        pixels: Pixels,
        expected: BackendOutput,
        caplog: pytest.LogCaptureFixture,
        deferred: bool,
    ) -> None:
        backend = opened("1,8,32", memory=2 * 8 * IMAGE, deferred=deferred)
        with caplog.at_level(logging.WARNING, "queryopt"):
            pending = [backend.start(pixels[at : at + 32]) for at in (0, 32)]
            for at, batch in zip((0, 32), pending, strict=True):
                assert_rows(batch.result(), expected, slice(at, at + 32))
        said = [record.getMessage() for record in caplog.records]
        assert [message.rpartition(": goes on with ")[2] for message in said] == ["16", "8"]
        assert all("model.onnx: the GPU has no memory for batches of " in message for message in said)
        assert backend.pipeline.largest == 8
        backend.close()

    def test_short_when_one_batch_is_on_its_way(self, opened: Open, pixels: Pixels, expected: BackendOutput) -> None:
        backend = opened("1,8,16", memory=2 * 16 * IMAGE - 1)
        first, second = backend.start(pixels[:16]), backend.start(pixels[16:32])
        assert_rows(first.result(), expected, slice(0, 16))
        assert_rows(second.result(), expected, slice(16, 32))
        assert backend.pipeline.largest == 8
        backend.close()

    def test_none(self, opened: Open, pixels: Pixels) -> None:
        backend = opened(memory=IMAGE - 1)
        with pytest.raises(DeviceMemoryError, match=r"no memory for a batch of 1 image .*nvidia-smi"):
            backend.run(pixels[:1])
        backend.close()

    def test_less_than_the_profiles_smallest(self, opened: Open, pixels: Pixels) -> None:
        backend = opened("8,8,8", memory=IMAGE)
        with pytest.raises(DeviceMemoryError, match=r"batch of 8 images .*--profile of smaller batches"):
            backend.run(pixels[:1])
        backend.close()


class TestHasher:
    def test_hashes_pictures(
        self, opened: Open, frozen_model: Path, frozen_pictures: Path, frozen_codes: dict[str, dict[str, Any]]
    ) -> None:
        with Hasher(frozen_model, opened(), threads=2, batch=3) as hasher:
            batch = hasher.hash_folder(frozen_pictures)
        found = {
            str(Path(p).relative_to(frozen_pictures)): c.tobytes().hex()
            for p, c in zip(batch.paths, batch.codes, strict=True)
        }
        assert found == {name: values["code"] for name, values in frozen_codes.items()}

    def test_keeps_two_batches_on_their_way(self, opened: Open, frozen_model: Path, frozen_pictures: Path) -> None:
        backend = opened()
        paths = sorted(frozen_pictures.glob("*/*.*"))[:6]
        with Hasher(frozen_model, backend, batch=2) as hasher:
            hasher.hash_files(paths)
            backend.engine.done.clear()
            stream = hasher.stream(paths)
            assert list(next(stream).paths) == paths[:2]
            assert len(backend.engine.done) == 1, "the second batch is with the device, and not waited for"
            assert [list(batch.paths) for batch in stream] == [paths[2:4], paths[4:6]]

    def test_hashes_pixels(self, opened: Open, frozen_model: Path, pixels: Pixels, expected: BackendOutput) -> None:
        with Hasher(frozen_model, opened(), batch=6) as hasher:
            batch = hasher.hash_pixels(pixels)
        np.testing.assert_array_equal(batch.codes, expected.codes)

    def test_failures_stay_with_their_batch(self, opened: Open, frozen_model: Path, frozen_pictures: Path) -> None:
        paths = [*sorted(frozen_pictures.glob("*/*.*"))[:4], Path("no such.jpg")]
        with Hasher(frozen_model, opened(), batch=2) as hasher:
            batches = list(hasher.stream(paths))
        assert [len(batch.failures) for batch in batches] == [0, 0, 1]

    def test_a_stream_that_is_not_read_to_its_end(
        self, opened: Open, frozen_model: Path, frozen_pictures: Path, frozen_codes: dict[str, dict[str, Any]]
    ) -> None:
        paths = sorted(frozen_pictures.glob("*/*.*"))
        with Hasher(frozen_model, opened(), batch=2) as hasher:
            stream = hasher.stream(paths)
            next(stream)
            stream.close()
            again = hasher.hash_files(paths)
        codes = [frozen_codes[str(path.relative_to(frozen_pictures))]["code"] for path in paths]
        assert [code.tobytes().hex() for code in again.codes] == codes

    def test_a_batch_outside_of_the_profile_is_refused_at_once(self, opened: Open, frozen_model: Path) -> None:
        with pytest.raises(MismatchError):
            Hasher(frozen_model, opened("1,4,8"), batch=9)


@pytest.mark.parametrize(
    ("profile", "sizes"),
    [
        ("1,32,256", (1, 2, 4, 8, 16, 32, 64, 128, 256)),
        ("3,24,100", (3, 4, 8, 16, 24, 32, 64, 100)),
        ("7,7,7", (7,)),
    ],
)
def test_buckets(profile: str, sizes: tuple[int, ...]) -> None:
    assert buckets(Profile.of(profile)) == sizes
