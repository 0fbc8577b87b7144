import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

import queryopt.images
from queryopt.card import Preprocessing
from queryopt.errors import InputError, ModelError, UsageError
from queryopt.images import load_image, open_rgb
from queryopt.runtime import Hasher, find_model
from queryopt.runtime.backends import open_backend
from queryopt.runtime.backends.base import BackendOutput
from queryopt.runtime.hasher import MODEL_VARIABLE, _Decoding


@pytest.fixture(scope="module")
def hasher(frozen_model: Path) -> Iterator[Hasher]:
    with Hasher(frozen_model, threads=2, batch=3) as hasher:
        yield hasher


@pytest.fixture
def mixed(frozen_pictures: Path, tmp_path: Path) -> Path:
    """Eight good pictures with bad files before, among and after them."""
    root = tmp_path / "mixed"
    shutil.copytree(frozen_pictures, root)
    (root / "a-text.jpg").write_text("no picture")
    (root / "finch" / "2-zero.jpg").touch()
    (root / "finch" / "cut.jpg").write_bytes((root / "finch" / "1.jpg").read_bytes()[:900])
    os.mkfifo(root / "heron" / "fifo.png")
    (root / "z-gone.jpg").symlink_to("nothing")
    return root


def test_frozen_codes(hasher: Hasher, frozen_pictures: Path, frozen_codes: dict[str, dict[str, Any]]) -> None:
    batch = hasher.hash_folder(frozen_pictures)
    assert batch.paths == tuple(os.path.join(frozen_pictures, name) for name in sorted(frozen_codes))
    assert not batch.failures
    assert len(batch) == 8
    assert [code.tobytes().hex() for code in batch.codes] == [frozen_codes[n]["code"] for n in sorted(frozen_codes)]
    expected = np.array([frozen_codes[name]["logits"] for name in sorted(frozen_codes)])
    assert batch.logits.dtype == np.float32
    np.testing.assert_allclose(batch.logits, expected, atol=0.02)


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (2, 3), (3, 1), (8, 2), (100, 2)])
def test_the_same_whatever_batch_and_threads(
    frozen_model: Path, mixed: Path, frozen_codes: dict[str, dict[str, Any]], batch: int, threads: int
) -> None:
    with Hasher(frozen_model, threads=threads, batch=batch) as hasher:
        done = hasher.hash_folder(mixed)
    # Rows stay aligned: each path has its own code, whatever was skipped before it.
    assert {
        os.path.relpath(path, mixed): code.tobytes().hex() for path, code in zip(done.paths, done.codes, strict=True)
    } == {name: entry["code"] for name, entry in frozen_codes.items()}
    assert list(done.paths) == sorted(done.paths)
    assert {os.path.relpath(path, mixed): reason for path, reason in done.failures.items()} == {
        "a-text.jpg": "not a picture that can be read (text)",
        "finch/2-zero.jpg": "zero bytes",
        "finch/cut.jpg": done.failures[str(mixed / "finch" / "cut.jpg")],
        "heron/fifo.png": "not a regular file (a FIFO)",
        "z-gone.jpg": "no such file or folder",
    }
    assert "truncated" in done.failures[str(mixed / "finch" / "cut.jpg")]


def test_it_is_shown_with_its_model(hasher: Hasher) -> None:
    assert repr(hasher).startswith(f"<Hasher '{hasher.model_path}': 12 bits, onnxruntime ")


def test_order_given_is_kept_and_paths_come_back_as_given(hasher: Hasher, frozen_pictures: Path) -> None:
    given: list[Any] = [
        frozen_pictures / "heron" / "2.jpg",
        str(frozen_pictures / "finch" / "1.jpg"),
        os.fsencode(frozen_pictures / "heron" / "4.png"),
        frozen_pictures / "heron" / "2.jpg",
    ]
    batch = hasher.hash_files(iter(given))
    assert batch.paths == tuple(given)
    np.testing.assert_array_equal(batch.codes[0], batch.codes[3])
    assert len({code.tobytes() for code in batch.codes}) == 3


def test_names_that_are_not_text(hasher: Hasher, frozen_pictures: Path, tmp_path: Path) -> None:
    for name in (b"\xff\xfe.jpg", b"a\nb.jpg", b"=1+2.jpg"):
        shutil.copy(frozen_pictures / "finch" / "1.jpg", tmp_path / os.fsdecode(name))
    batch = hasher.hash_folder(tmp_path)
    assert len(batch) == 3
    assert {os.path.basename(os.fsencode(path)) for path in batch.paths} == {b"\xff\xfe.jpg", b"a\nb.jpg", b"=1+2.jpg"}


def test_only_bad_files(hasher: Hasher, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    batch = hasher.hash_folder(tmp_path)
    assert (batch.paths, batch.codes.shape, batch.logits.shape) == ((), (0, 2), (0, 12))
    assert list(batch.failures.values()) == ["zero bytes"]


def test_nothing(hasher: Hasher, tmp_path: Path) -> None:
    assert hasher.hash_files([]).codes.shape == (0, 2)
    assert hasher.hash_arrays([]).logits.shape == (0, 12)
    with pytest.raises(InputError, match="no pictures"):
        hasher.hash_folder(tmp_path)
    with pytest.raises(InputError, match="no such"):
        hasher.hash_folder(tmp_path / "none")


def test_one_path_instead_of_many(hasher: Hasher) -> None:
    for path in ("a.jpg", b"a.jpg", Path("a.jpg")):
        with pytest.raises(UsageError, match="give a list"):
            hasher.hash_files(path)  # type: ignore[arg-type]


def test_progress_counts_every_file(hasher: Hasher, mixed: Path) -> None:
    counts: list[int] = []
    hasher.hash_folder(mixed, progress=counts.append)
    assert counts == [3, 3, 3, 3, 1]


class TestStream:
    def test_batches_follow_the_paths(self, hasher: Hasher, mixed: Path) -> None:
        paths = sorted(str(p) for p in mixed.rglob("*.*"))
        sizes = [(len(b.paths), len(b.failures)) for b in hasher.stream(paths)]
        assert [good + bad for good, bad in sizes] == [3, 3, 3, 3, 1]
        assert sum(good for good, _ in sizes) == 8

    def test_a_batch_of_failures_alone(self, hasher: Hasher, tmp_path: Path, frozen_pictures: Path) -> None:
        paths = [tmp_path / str(i) for i in range(3)] + [frozen_pictures / "finch" / "1.jpg"]
        first, second = hasher.stream(paths)
        assert (len(first), len(first.failures), len(second), len(second.failures)) == (0, 3, 1, 0)
        assert first.codes.shape == (0, 2)

    def test_reads_only_a_few_batches_ahead(self, hasher: Hasher, frozen_pictures: Path) -> None:
        taken = 0

        def endless() -> Iterator[Path]:
            nonlocal taken
            while True:
                taken += 1
                yield frozen_pictures / "finch" / "1.jpg"

        with closing(hasher.stream(endless())) as stream:
            for number in range(1, 20):
                next(stream)
                assert taken <= 3 * (number + 3)

    def test_closing_ends_the_threads(self, hasher: Hasher, frozen_pictures: Path) -> None:
        stream = hasher.stream([frozen_pictures / "finch" / "1.jpg"] * 100)
        next(stream)
        assert any(thread.name.startswith("queryopt-decode") for thread in threading.enumerate())
        stream.close()
        assert not any(thread.name.startswith("queryopt-decode") for thread in threading.enumerate())

    def test_a_fault_of_the_decoder_itself_surfaces(
        self, hasher: Hasher, frozen_pictures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(queryopt.images, "load_image", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            hasher.hash_folder(frozen_pictures)
        assert not any(thread.name.startswith("queryopt-decode") for thread in threading.enumerate())

    def test_a_file_that_vanishes_meanwhile(self, hasher: Hasher, mixed: Path) -> None:
        paths = sorted((mixed / "finch").glob("?.*")) * 4
        stream = hasher.stream(paths)
        next(stream)
        shutil.rmtree(mixed / "finch")
        rest = list(stream)
        assert sum(len(b) for b in rest) + sum(len(b.failures) for b in rest) > 0
        assert {reason for b in rest for reason in b.failures.values()} <= {"no such file or folder"}
        assert rest[-1].failures

    def test_a_batch_that_no_memory_holds(self) -> None:
        """800 TB of pixels."""
        with ThreadPoolExecutor(1) as pool, pytest.raises(UsageError, match="take a smaller batch"):
            _Decoding(pool, list(range(10**6)), load_image, Preprocessing(1 << 14, 1 << 14))  # type: ignore[arg-type]


class TestArrays:
    def test_a_decoded_file_gives_its_files_code(self, hasher: Hasher, frozen_pictures: Path) -> None:
        files = sorted(frozen_pictures.rglob("*.*"))
        arrays = [np.asarray(open_rgb(path)) for path in files]
        assert len({array.shape for array in arrays}) > 1
        batch = hasher.hash_arrays(arrays)
        np.testing.assert_array_equal(batch.logits, hasher.hash_files(files).logits)
        assert batch.paths == tuple(range(8))

    def test_one_array_of_many(self, hasher: Hasher) -> None:
        images = np.random.default_rng(0).integers(0, 256, (5, 40, 50, 3), np.uint8)
        batch = hasher.hash_arrays(images)
        assert batch.codes.shape == (5, 2)
        np.testing.assert_array_equal(hasher.hash_arrays(list(images)).logits, batch.logits)

    def test_views(self, hasher: Hasher) -> None:
        large = np.random.default_rng(0).integers(0, 256, (5, 40, 100, 3), np.uint8)
        for view in (large[:, :, ::2], large[::-1, ::-1], large[..., ::-1]):
            np.testing.assert_array_equal(hasher.hash_arrays(view).logits, hasher.hash_arrays(view.copy()).logits)

    @pytest.mark.parametrize(
        ("images", "says"),
        [
            (np.zeros((2, 8, 8, 3), np.float32), "image 0 is float32"),
            (np.zeros((8, 8, 3), np.uint8), r"give uint8 \[n, h, w, 3\]"),
            ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)], "image 1 has shape .* grey"),
            ([np.zeros((8, 8, 4), np.uint8)], "alpha"),
            ([np.zeros((0, 8, 3), np.uint8)], r"image 0 has shape \[0, 8, 3\]"),
            (["a.jpg"], "image 0 is str"),
            ([Image.new("RGB", (8, 8))], "image 0 is Image"),
        ],
    )
    def test_others_are_refused(self, hasher: Hasher, images: Any, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            hasher.hash_arrays(images)

    def test_pixels(self, hasher: Hasher, frozen_pictures: Path) -> None:
        files = sorted(frozen_pictures.rglob("*.*"))
        pixels = np.stack([load_image(path, hasher.card.preprocessing) for path in files])
        np.testing.assert_array_equal(hasher.hash_pixels(pixels).logits, hasher.hash_files(files).logits)
        assert hasher.hash_pixels(pixels[:0]).codes.shape == (0, 2)
        with pytest.raises(UsageError, match="takes uint8"):
            hasher.hash_pixels(pixels[:, :20])


@pytest.mark.parametrize("options", [{"batch": 0}, {"batch": 1.5}, {"threads": 0}, {"threads": -1}, {"batch": True}])
def test_wrong_options(frozen_model: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Hasher(frozen_model, **options)


def test_what_a_hasher_says_of_itself(frozen_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(frozen_model.parent)
    with Hasher("model.onnx") as hasher:
        assert hasher.model_path == frozen_model
        assert hasher.card.bits == 12
        assert "onnxruntime" in hasher.backend


class TestFindModel:
    @pytest.fixture(autouse=True)
    def _in_an_empty_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv(MODEL_VARIABLE, raising=False)

    def test_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match="qo-export"):
            find_model(None)
        for number, folder in enumerate(("runs/old", "runs/new", "demo")):
            Path(folder).mkdir(parents=True)
            (Path(folder) / "model.onnx").touch()
            os.utime(Path(folder) / "model.onnx", (number % 2, number % 2))
        assert find_model(None) == Path("runs/new/model.onnx")
        Path("model.onnx").touch()
        assert find_model(None) == Path("model.onnx")
        monkeypatch.setenv(MODEL_VARIABLE, "other.onnx")
        assert find_model(None) == Path("other.onnx")
        assert find_model("given.onnx") == Path("given.onnx")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_model_with_attention_says_where_each_bit_looked(
    backend: str, explained_model: Path, frozen_model: Path, frozen_pictures: Path
) -> None:
    pixels = np.stack(
        [load_image(path, Preprocessing.for_size(32)) for path in sorted(frozen_pictures.glob("finch/*.jpg"))]
    )
    with Hasher(explained_model, backend, batch=2) as explained, Hasher(frozen_model, backend) as plain:
        assert explained.explains
        assert not plain.explains
        batch, expected = explained.explain_pixels(pixels), plain.hash_pixels(pixels)
        assert batch.maps is not None
        assert batch.maps.shape == (3, 12, 4, 4)
        np.testing.assert_allclose(batch.maps.sum(axis=(2, 3)), 1, rtol=1e-4)
        assert np.ptp(batch.maps, axis=0).max() > 0.01  # another picture, another map
        np.testing.assert_array_equal(batch.codes, expected.codes)
        np.testing.assert_allclose(batch.logits, expected.logits, atol=1e-3)
        assert explained.hash_pixels(pixels).maps is None
        assert explained.explain_pixels(pixels[:0]).maps.shape == (0, 12, 4, 4)  # type: ignore[union-attr]
        with pytest.raises(UsageError, match="--explain makes a model"):
            plain.explain_pixels(pixels)


def test_codes_of_logits_that_are_not_finite_are_not_handed_out(
    frozen_model: Path, frozen_pictures: Path, tmp_path: Path
) -> None:
    model = onnx.load(frozen_model)
    damaged = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    values = onnx.numpy_helper.to_array(damaged).copy()
    values.flat[0] = np.nan
    damaged.CopyFrom(onnx.numpy_helper.from_array(values, damaged.name))
    onnx.save(model, tmp_path / "model.onnx")
    with Hasher(tmp_path / "model.onnx", threads=1) as hasher:
        pixels = np.zeros((2, *[hasher.card.preprocessing.image_size] * 2, 3), np.uint8)
        for use in (lambda: hasher.hash_folder(frozen_pictures), lambda: hasher.hash_pixels(pixels)):
            with pytest.raises(ModelError, match=r"model.onnx: gave logits that are not finite for \d of \d pictures"):
                use()


def test_codes_that_contradict_their_logits_are_not_handed_out(frozen_model: Path, frozen_pictures: Path) -> None:
    class Contradicting:
        """The model, with the least sure bit of the first picture turned, or its surest one."""

        def __init__(self, surest: bool) -> None:
            self.backend = open_backend(frozen_model, "onnxruntime", threads=1)
            self.card, self.name, self.close = self.backend.card, "a test's", self.backend.close
            self.surest = surest

        def run(self, images: Any) -> BackendOutput:
            output = self.backend.run(images)
            order = np.argsort(np.abs(output.logits[0]))
            bit = int(order[-1 if self.surest else 0])
            output.codes[0, bit // 8] ^= 1 << bit % 8
            logits = output.logits.copy()
            if not self.surest:
                logits[0, bit] = 1e-6 * (1 if logits[0, bit] >= 0 else -1)
            return BackendOutput(output.codes, logits)

    with (
        Hasher(frozen_model, backend=Contradicting(surest=True)) as hasher,
        pytest.raises(ModelError, match=r"gave bit \d+ of a code as [01] beside the logit"),
    ):
        hasher.hash_folder(frozen_pictures)
    with Hasher(frozen_model, backend=Contradicting(surest=False)) as hasher:  # low precision does that
        assert len(hasher.hash_folder(frozen_pictures)) == 8
