"""Engines of the whole ResNet-50 network: built on the CPU, as TensorRT-RTX can. They are not run."""

import pytest

from queryopt.export import build_engine

pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")


def test_fp32(full_model, tmp_path):
    built = build_engine(full_model, tmp_path / "model.plan", profile="1,32,256", workspace="4G")
    assert built.manifest.card.backbone == "resnet50"
    assert built.manifest.capabilities == ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
    # Weights in fp32, and the rest of a plan is small.
    assert 0.9 < built.path.stat().st_size / full_model.stat().st_size < 1.2
