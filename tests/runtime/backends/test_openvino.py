import json
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from queryopt.card import CARD_KEY
from queryopt.errors import MissingError, ModelError, UsageError
from queryopt.runtime import Hasher
from queryopt.runtime.backends import open_backend

pytest.importorskip("openvino")


def pixels(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def with_precision(precision: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        entry = next(p for p in model.metadata_props if p.key == CARD_KEY)
        entry.value = json.dumps(json.loads(entry.value) | {"precision": precision})

    return change


def test_same_codes_as_onnxruntime(frozen_model: Path) -> None:
    with (
        closing(open_backend(frozen_model, "openvino", threads=1)) as openvino,
        closing(open_backend(frozen_model, "onnxruntime", threads=1)) as onnxruntime,
    ):
        assert openvino.card == onnxruntime.card
        assert openvino.name.startswith("openvino 20")
        assert openvino.name.endswith("(CPU, 1 thread)")
        for count in (1, 7, 3, 0):  # any batch, in any order
            images = pixels(count, count)
            ours, theirs = openvino.run(images), onnxruntime.run(images)
            np.testing.assert_array_equal(ours.codes, theirs.codes)
            np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)
            assert (ours.codes.dtype, ours.logits.dtype) == (np.uint8, np.float32)


def test_results_are_the_callers_own(frozen_model: Path) -> None:
    with closing(open_backend(frozen_model, "openvino", threads=1)) as backend:
        first = backend.run(pixels(4, 1))
        kept = first.logits.copy()
        backend.run(pixels(4, 2))
        np.testing.assert_array_equal(first.logits, kept)


def test_read_only_pixels(frozen_model: Path) -> None:
    images = pixels(3)
    with closing(open_backend(frozen_model, "openvino", threads=1)) as backend:
        expected = backend.run(images).logits
        images.flags.writeable = False
        np.testing.assert_array_equal(backend.run(images).logits, expected)


def test_hasher(frozen_model: Path, frozen_pictures: Path, frozen_codes: dict[str, dict[str, Any]]) -> None:
    with Hasher(frozen_model, "openvino", threads=1) as hasher:
        assert (hasher.choice.name, hasher.choice.reason) == ("openvino", "asked for")
        batch = hasher.hash_folder(frozen_pictures)
    codes = {
        os.path.relpath(path, frozen_pictures): code.tobytes().hex()
        for path, code in zip(batch.paths, batch.codes, strict=True)
    }
    assert codes == {name: entry["code"] for name, entry in frozen_codes.items()}


def test_bf16_is_computed_as_the_card_says(changed_model: Any) -> None:
    path = changed_model(with_precision("bf16"))
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(MissingError, match=r"no bfloat16.*--precision fp32"):
            open_backend(path, "openvino", threads=1)
        return
    with closing(open_backend(path, "openvino", threads=1)) as backend:
        assert backend.name.endswith("(CPU, 1 thread, bf16)")
        logits = backend.run(pixels(8)).logits
    with closing(open_backend(path, "onnxruntime", threads=1)) as exact:
        difference = np.abs(logits - exact.run(pixels(8)).logits).max()
    assert 1e-5 < difference < 0.1


def test_faults(frozen_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    content = frozen_model.read_bytes()
    for broken, says in (
        (b"", "zero bytes"),
        (content[: len(content) // 2], "qo-export"),
        (b"hello\n" * 50, "qo-export"),
    ):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match=says) as caught:
            open_backend(path, "openvino", threads=1)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_other_inputs_are_refused(frozen_model: Path) -> None:
    backend = open_backend(frozen_model, "openvino", threads=1)
    with pytest.raises(UsageError, match=r"takes uint8 \[batch, 32, 32, 3\]"):
        backend.run(np.zeros((1, 3, 32, 32), np.uint8))
    backend.close()
    with pytest.raises(UsageError, match="was closed"):
        backend.run(pixels(1))
