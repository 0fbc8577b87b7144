"""Engines of the whole ResNet-50 network in each precision: built on the CPU, as TensorRT-RTX can. They are not run.

The graphs of lower precision are ONNX Runtime's own making.
"""

import numpy as np
import onnx
import pytest
from onnxruntime import quantization
from onnxruntime.transformers.float16 import convert_float_to_float16

from queryopt.export import build_engine
from queryopt.runtime.onnx_file import read_card

pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")

TARGETS = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))


def build(path, folder):
    built = build_engine(path, folder / "model.plan", profile="1,32,256", workspace="4G")
    assert built.manifest.card == read_card(path.read_bytes(), "the model")
    assert built.manifest.card.backbone == "resnet50"
    assert built.manifest.capabilities == TARGETS
    return built


def share(built, model):
    """Bytes of the engine for each byte of the fp32 model: nearly all of both is weights."""
    return built.manifest.plan_bytes / model.stat().st_size


def test_fp32(full_model, tmp_path):
    assert 0.9 < share(build(full_model, tmp_path), full_model) < 1.2


@pytest.mark.filterwarnings("ignore:the float32 number")
def test_fp16(full_model, tmp_path, capfd):
    half = tmp_path / "model.onnx"
    onnx.save(convert_float_to_float16(onnx.load(full_model), keep_io_types=True), half)
    assert 0.4 < share(build(half, tmp_path), full_model) < 0.6
    assert capfd.readouterr().out == "", "TensorRT prints of this graph, and JSON goes to standard output"


class Noise(quantization.CalibrationDataReader):  # type: ignore[misc]
    """One picture."""

    def __init__(self):
        self.left = [{"images": np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)}]

    def get_next(self):
        return self.left.pop() if self.left else None


def test_int8(full_model, tmp_path):
    quantised = tmp_path / "model.onnx"
    quantization.quantize_static(
        full_model,
        quantised,
        Noise(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    assert 0.2 < share(build(quantised, tmp_path), full_model) < 0.5
