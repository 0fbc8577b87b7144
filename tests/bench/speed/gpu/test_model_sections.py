"""The sections that run the network, as rehearsals on the CPU: what they do, not how fast."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emulated_cuda import EmulatedRuntime
from queryopt.bench.machine import take_head
from queryopt.bench.speed.gpu.files import measure_files
from queryopt.bench.speed.gpu.model import ENGINE, measure_model
from queryopt.bench.speed.gpu.parity import measure_parity
from queryopt.bench.speed.gpu.pytorch import FoldedTorchBackend
from queryopt.bench.speed.gpu.report import GpuBenchmark
from queryopt.bench.speed.gpu.section import Figure, GpuOptions, Outcome, SectionReport, Turn
from queryopt.bench.speed.gpu.steps import measure_steps
from queryopt.bench.speed.untrained import in_precision
from queryopt.codes import pack_codes
from queryopt.export.torch_backend import network_logits
from queryopt.runtime.backends.base import in_flight
from queryopt.runtime.cuda.driver import Gpu
from queryopt.train.checkpoint import load_checkpoint

DATA = Path(__file__).parents[3] / "data" / "v1"


@pytest.fixture
def options(tmp_path: Path) -> GpuOptions:
    (tmp_path / "fp32.onnx").write_bytes((DATA / "model.onnx").read_bytes())
    in_precision(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx", "fp16")
    return GpuOptions(
        EmulatedRuntime(),
        1,
        rehearse=True,
        checkpoint=DATA / "best.safetensors",
        folder=tmp_path,
        model_batches=(1, 2),
        images=5,
    )


def test_the_model(options: GpuOptions) -> None:
    kept: list[int] = []
    report = measure_model(options, Turn(keep=lambda report: kept.append(len(report.values["rows"]))))
    rows = report.values["rows"]
    assert kept == [10, 20], "the larger batch is kept before the smaller one is measured"
    assert [row["batch"] for row in rows] == [1] * 10 + [2] * 10
    names = [row["name"] for row in rows[10:]]
    assert names[0] == report.values["reference"] == "PyTorch eager fp32, TF32 in convolutions"
    assert names[5:] == ["folded, PyTorch", "folded", "folded", "folded, NHWC", ENGINE]
    assert [row["precision"] for row in rows[15:]] == ["bf16", "fp32", "fp16", "fp16", "fp16"]
    assert report.values["left_out"] == []
    assert {"cudnn.allow_tf32", "matmul.allow_tf32", "cudnn.benchmark"} <= set(report.values["torch"])
    p50 = {(row["name"], row["precision"]): row["p50"] for row in rows[10:]}
    nhwc = [figure for figure in report.figures if figure.what.startswith("folded, NHWC")]
    assert [figure.goal for figure in nhwc] == [2.5, 1.2]
    assert [figure.number for figure in nhwc] == pytest.approx(
        [p50[name] / p50["folded, NHWC", "fp16"] for name in ((names[0], "tf32"), ("PyTorch eager fp16", "fp16"))]
    )
    engine = [figure for figure in report.figures if figure.what.startswith(ENGINE)]
    assert [figure.goal for figure in engine] == [8.0, 3.0]
    json.dumps(report.values)


def test_what_can_not_run_the_model_is_named(options: GpuOptions) -> None:
    options.model("fp16").unlink()
    report = measure_model(replace(options, model_batches=(1,)), Turn())
    out = {one["name"]: one["reason"] for one in report.values["left_out"]}
    assert set(out) == {"onnxruntime, fp16", "onnxruntime, fp16, NHWC", ENGINE}
    assert out["onnxruntime, fp16"] == "the section models left no model in fp16"
    assert len(report.values["rows"]) == 7


def test_files(options: GpuOptions) -> None:
    report = measure_files(options, Turn())
    rows = report.values["rows"]
    assert [row["precision"] for row in rows] == ["fp16", "fp16", "bf16"]
    assert all(row["pictures"] == 5 and row["batch"] == 2 for row in rows)
    assert all(row["copy_alone"] is not None and len(row["rounds"]) == 3 for row in rows)
    shares = {figure.what for figure in report.figures if "share of decoding, the bound" in figure.what}
    assert len(shares) == sum(row["decode_alone"] < row["model_alone"] for row in rows)


def test_parity(tmp_path: Path) -> None:
    options = GpuOptions(None, rehearse=True, folder=tmp_path)
    report = measure_parity(options, Turn())
    rows = report.values["rows"]
    compared = [(row["backend"].split()[0], row["precision"]) for row in rows]
    assert compared[:2] == [("torch", "fp32"), ("torch", "bf16")]
    assert {("onnxruntime", "fp32"), ("onnxruntime", "fp16")} <= set(compared)
    assert all(row["bits_compared"] >= 500 for row in rows)
    assert all(row["flipped"] == 0 for row in rows if row["precision"] == "fp32")
    assert {"cuda, fp32", "cuda, fp16"} <= dict(report.values["left_out"]).keys(), "no CUDA provider here"
    assert report.problems == []


def test_the_folded_network_in_pytorch_gives_the_networks_codes() -> None:
    checkpoint = load_checkpoint(DATA / "best.safetensors")
    network = checkpoint.network()
    backend = FoldedTorchBackend(checkpoint, "cpu")
    size = backend.card.preprocessing.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), np.uint8)
    expected = network_logits(network, pixels, backend.card.preprocessing)
    outputs = list(in_flight(backend, [pixels[:4], pixels[4:8], pixels[8:], pixels[:0]]))
    logits = np.concatenate([output.logits for output in outputs])
    # bfloat16 has 8 bits; the head, in float32, adds nothing to that.
    assert np.abs(logits - expected).max() < 0.03 * backend.card.logit_scale
    codes = np.concatenate([output.codes for output in outputs])
    np.testing.assert_array_equal(codes, pack_codes(logits >= 0))
    assert logits.dtype == np.float32
    backend.close()


def test_training_steps(tmp_path: Path) -> None:
    report = measure_steps(GpuOptions(rehearse=True, folder=tmp_path), Turn())
    (row,) = report.values["rows"]
    (figure,) = report.figures
    assert figure.what == "training, images/s, fp32, pictures ready"
    assert figure.number == row["summary"]["ready"]["images_per_second"]
    json.dumps(report.values)


def test_a_rehearsal_has_no_figures_for_a_gpu() -> None:
    outcome = Outcome("engine", "done", 1.0, SectionReport({}, figures=[Figure("images/s", "5,120", 5120.0)]))
    head, gpu = take_head(None), Gpu("NVIDIA H100", (9, 0), (13, 0))
    assert GpuBenchmark(head, True, None, (outcome,), 1.0).to_dict()["figures"] == []
    assert GpuBenchmark(head, False, gpu, (outcome,), 1.0).to_dict()["figures"] != []
    missing = Outcome("search", "missing", 1.0, None, "it needs cuda-core")
    assert GpuBenchmark(head, False, gpu, (missing, outcome), 1.0).problems() == []
    assert GpuBenchmark(head, False, gpu, (missing, outcome), 1.0).problems(["search"]) == [
        "without the section search: it needs cuda-core"
    ]
