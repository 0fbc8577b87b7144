import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from queryopt.card import CARD_KEY, FORMAT_KEY, FORMAT_VERSION
from queryopt.cores import usable_cores
from queryopt.errors import MissingError, ModelError, UsageError
from queryopt.runtime.backends import BACKENDS, open_backend

Change = Callable[[Callable[[Any], None]], Path]


def refused(path: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        open_backend(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def metadata(model: Any, key: str) -> Any:
    return next(p for p in model.metadata_props if p.key == key)


def test_frozen_model(frozen_model: Path) -> None:
    backend = open_backend(frozen_model, threads=1)
    assert (backend.card.bits, backend.card.preprocessing.image_size, backend.card.format_version) == (12, 32, 1)
    assert backend.name.endswith("(CPU, 1 thread)")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    output = backend.run(pixels)
    assert (output.codes.dtype, output.codes.shape) == (np.uint8, (5, 2))
    assert (output.logits.dtype, output.logits.shape) == (np.float32, (5, 12))
    np.testing.assert_array_equal(output.codes, np.packbits(output.logits >= 0, axis=1, bitorder="little"))
    backend.close()


def test_any_batch_gives_the_same_codes(frozen_model: Path) -> None:
    backend = open_backend(frozen_model, threads=1)
    pixels = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), np.uint8)
    whole = backend.run(pixels)
    single = [backend.run(pixels[i : i + 1]) for i in range(7)]
    np.testing.assert_allclose(np.concatenate([s.logits for s in single]), whole.logits, atol=1e-5)
    empty = backend.run(pixels[:0])
    assert (empty.codes.shape, empty.logits.shape) == ((0, 2), (0, 12))


def test_views_of_pixels(frozen_model: Path) -> None:
    backend = open_backend(frozen_model, threads=1)
    large = np.random.default_rng(2).integers(0, 256, (4, 64, 32, 3), np.uint8)
    view = large[::2, ::-2]
    np.testing.assert_array_equal(backend.run(view).logits, backend.run(view.copy()).logits)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 32, 32, 3), np.float32),
        np.zeros((1, 3, 32, 32), np.uint8),
        np.zeros((1, 31, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        [[1]],
    ],
)
def test_other_inputs_are_refused(frozen_model: Path, pixels: Any) -> None:
    with pytest.raises(UsageError, match=r"takes uint8 \[batch, 32, 32, 3\]"):
        open_backend(frozen_model, threads=1).run(pixels)


def test_a_closed_one_says_so(frozen_model: Path) -> None:
    backend = open_backend(frozen_model, threads=1)
    backend.close()
    with pytest.raises(UsageError, match="was closed"):
        backend.run(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_model_that_fails_while_it_runs(changed_model: Change) -> None:
    """Its declared shapes are right: only running it shows that rows are taken which are not there, or left out."""

    def take_row_5(model: Any) -> None:
        node = next(node for node in model.graph.node if "logits" in node.output)
        node.output[:] = ["all" if name == "logits" else name for name in node.output]
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([5]), "five"))
        model.graph.node.append(onnx.helper.make_node("Gather", ["all", "five"], ["logits"], axis=0))
        for other in model.graph.node:
            if other.output != ["logits"]:
                other.input[:] = ["all" if name == "logits" else name for name in other.input]

    backend = open_backend(changed_model(take_row_5), threads=1)
    with pytest.raises(ModelError, match=r"changed\.onnx: failed on a batch of 4 \(.*smaller batch"):
        backend.run(np.zeros((4, 32, 32, 3), np.uint8))
    with pytest.raises(ModelError, match=r"gave codes \[8, 2\] and logits \[1, 12\] for 8 images of 12 bits"):
        backend.run(np.zeros((8, 32, 32, 3), np.uint8))


def test_threads(frozen_model: Path) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    assert f"{usable_cores()} threads" in open_backend(frozen_model).name


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        assert "no such model" in refused(tmp_path / "none.onnx")

    def test_folder(self, tmp_path: Path) -> None:
        assert "no model.onnx or model.plan in this folder: qo-export RUN makes one" in refused(tmp_path)
        (tmp_path / "model.onnx").touch()
        assert "did you mean" in refused(tmp_path)

    def test_fifo_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "model.onnx")
        assert "no such model" in refused(tmp_path / "model.onnx")

    def test_zero_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a.onnx").touch()
        assert "zero bytes" in refused(tmp_path / "a.onnx")

    @pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
    def test_cut_off(self, frozen_model: Path, tmp_path: Path, share: float) -> None:
        content = frozen_model.read_bytes()
        (tmp_path / "a.onnx").write_bytes(content[: int(len(content) * share)])
        assert "qo-export" in refused(tmp_path / "a.onnx")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"hello\n" * 50, "qo-export"),
            (bytes(4096), "qo-export"),
            (b"\x89PNG\r\n\x1a\n" + bytes(100), "a picture, not a model: search with it: qo-search"),
        ],
    )
    def test_something_else(self, tmp_path: Path, content: bytes, words: str) -> None:
        (tmp_path / "a.onnx").write_bytes(content)
        assert words in refused(tmp_path / "a.onnx")

    def test_plan(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"no such engine: put the model\.onnx"):
            open_backend(tmp_path / "model.plan")

    @pytest.mark.parametrize("where", ["../secret.bin", "secret.bin", "link.bin"])
    @pytest.mark.parametrize("key_first", [True, False])
    def test_external_data_is_never_read(
        self, frozen_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, key_first: bool
    ) -> None:
        model = onnx.load(frozen_model)
        weight = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path / "below")  # onnxruntime looks for the file from here
        for path in ("../secret.bin", "secret.bin"):
            Path(path).write_bytes(weight.raw_data)
        Path("link.bin").symlink_to("../secret.bin")
        onnx.external_data_helper.set_external_data(weight, where)
        weight.ClearField("raw_data")
        content = model.SerializeToString()
        if not key_first:  # the same entry with its value first: allowed, if never seen
            key, value = b"\x0a\x08location", bytes([0x12, len(where)]) + where.encode()
            assert content.count(key + value) == 1
            content = content.replace(key + value, value + key)
        Path("a.onnx").write_bytes(content)
        assert "weights in other files" in refused("a.onnx")


class TestCard:
    def test_foreign_model(self, changed_model: Change) -> None:
        path = changed_model(lambda model: model.ClearField("metadata_props"))
        assert "no queryopt model card" in refused(path)

    def test_newer_format(self, changed_model: Change) -> None:
        def newer(model: Any) -> None:
            metadata(model, FORMAT_KEY).value = str(FORMAT_VERSION + 1)

        assert "upgrade queryopt" in refused(changed_model(newer))

    def test_damaged(self, changed_model: Change) -> None:
        def damage(model: Any) -> None:
            metadata(model, CARD_KEY).value = '{"format_version": 1'

        assert "damaged" in refused(changed_model(damage))

    def test_that_is_no_text(self, frozen_model: Path, tmp_path: Path) -> None:
        content = frozen_model.read_bytes()
        (tmp_path / "a.onnx").write_bytes(content.replace(b'"bits": 12', b'"b\xe9ts": 12'))
        assert "damaged" in refused(tmp_path / "a.onnx")

    @pytest.mark.parametrize(("field", "value", "says"), [("bits", 24, "outputs"), ("bits", 8, "outputs")])
    def test_that_promises_other_outputs(self, changed_model: Change, field: str, value: int, says: str) -> None:
        def change(model: Any) -> None:
            entry = metadata(model, CARD_KEY)
            entry.value = json.dumps(json.loads(entry.value) | {field: value})

        assert says in refused(changed_model(change))

    def test_that_promises_other_inputs(self, changed_model: Change) -> None:
        def change(model: Any) -> None:
            entry = metadata(model, CARD_KEY)
            card = json.loads(entry.value)
            card["preprocessing"] |= {"image_size": 64, "resize_size": 73}
            entry.value = json.dumps(card)

        assert "uint8 [batch, 64, 64, 3]" in refused(changed_model(change))

    def test_output_under_another_name(self, changed_model: Change) -> None:
        def rename(model: Any) -> None:
            for node in model.graph.node:
                node.output[:] = ["scores" if name == "logits" else name for name in node.output]
                node.input[:] = ["scores" if name == "logits" else name for name in node.input]
            next(o for o in model.graph.output if o.name == "logits").name = "scores"

        assert "promises codes and logits" in refused(changed_model(rename))

    def test_fixed_batch(self, changed_model: Change) -> None:
        def fix(model: Any) -> None:
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = 2

        assert "one size only" in refused(changed_model(fix))


def test_wrong_backend_name(frozen_model: Path) -> None:
    with pytest.raises(UsageError, match="did you mean onnxruntime"):
        open_backend(frozen_model, "onxruntime")
    assert set(BACKENDS) >= {"auto", "onnxruntime"}


def test_without_onnxruntime_it_says_what_to_install(frozen_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r"pip install '\.\[cpu\]'"):
        open_backend(frozen_model, "onnxruntime")


def test_a_provider_that_is_not_the_asked_one_is_noticed(frozen_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(MissingError, match="OtherExecutionProvider instead of CPUExecutionProvider"):
        open_backend(frozen_model)


def test_the_terminal_stays_clean_over_a_damaged_model(tmp_path: Path) -> None:
    # ONNX Runtime writes its own logs from C++, straight to the file descriptor.
    (tmp_path / "a.onnx").write_bytes(b"hello" * 100)
    code = (
        "from queryopt.runtime import open_backend\nfrom queryopt.errors import ModelError\n"
        "try:\n    open_backend('a.onnx')\nexcept ModelError:\n    pass"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
