"""Engines of the whole ResNet-50 network in each precision: built on the CPU, as TensorRT-RTX can. They are not run."""

import numpy as np
import onnx
import pytest

from queryopt.export import build_engine
from queryopt.export.onnx import with_card
from queryopt.export.precision import lower_precision
from queryopt.export.quantize import Quantiser
from queryopt.runtime.onnx_file import read_card

pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")

TARGETS = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))


def build(path, folder):
    built = build_engine(path, folder / "model.plan", profile="1,32,256", workspace="4G")
    assert built.manifest.card == card_of(path)
    assert built.manifest.card.backbone == "resnet50"
    assert built.manifest.capabilities == TARGETS
    return built


def card_of(path):
    return read_card(path.read_bytes(), "the model")


def share(built, model):
    """Bytes of the engine for each byte of the fp32 model: nearly all of both is weights."""
    return built.manifest.plan_bytes / model.stat().st_size


def test_fp32(full_model, tmp_path):
    assert 0.9 < share(build(full_model, tmp_path), full_model) < 1.2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_lower_precision(full_model, tmp_path, capfd, precision):
    lowered = tmp_path / "model.onnx"
    lowered.write_bytes(with_card(lower_precision(onnx.load(full_model), precision), card_of(full_model)))
    assert 0.4 < share(build(lowered, tmp_path), full_model) < 0.6
    assert capfd.readouterr().out == "", "whatever TensorRT prints: JSON goes to standard output"


def test_int8(full_model, tmp_path):
    model = onnx.load(full_model)
    del model.metadata_props[:]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    quantised, report = Quantiser(model, pixels, 1, "int8", target_flip_rate=1.0).quantise()
    assert (len(report.layers), report.kept) == (70, ())
    path = tmp_path / "model.onnx"
    path.write_bytes(with_card(quantised, card_of(full_model)))
    assert 0.2 < share(build(path, tmp_path), full_model) < 0.5
