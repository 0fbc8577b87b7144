"""qo-export --engine. What TensorRT makes of it is tested in tests/runtime/tensorrt."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from queryopt.export import build_engine
from queryopt.export.cli import main
from queryopt.runtime.tensorrt import read_manifest

pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")

LEAST = ("--engine", "--profile", "1,2,4", "--target", "sm_86, sm_89")


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def onnx(model_path, tmp_path):
    return Path(shutil.copy(model_path, tmp_path / "birds.onnx"))


def test_of_a_checkpoint(network, save_run):
    run = save_run(network)
    result = invoke("--ckpt", run, "--no-parity", *LEAST, "--workspace", "1G", "--json")
    assert result.exit_code == 0, result.stderr
    values = json.loads(result.stdout)
    assert values["engine"]["engine"] == str(run / "model.plan")
    assert values["engine"]["capabilities"] == ["8.6", "8.9"]
    manifest = read_manifest(run / "model.plan")
    assert manifest.card.fingerprint == values["fingerprint"]
    assert manifest.workspace == 1 << 30
    assert (manifest.parity, values["engine"]["parity"]) == (None, None)
    assert manifest.parity_note == values["engine"]["parity_note"]
    assert manifest.parity_note.startswith("built, not run here: ")


def test_of_a_model_on_a_machine_without_torch(onnx, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "queryopt.train.checkpoint", None)
    result = invoke("--onnx", onnx, *LEAST)
    assert result.exit_code == 0, result.stderr
    assert f"engine:   {onnx.with_suffix('.plan')}" in result.stdout
    assert "for compute capabilities 8.6, 8.9; batches of 1 to 4, best at 2" in result.stdout
    assert "          built, not run here: " in result.stdout
    assert read_manifest(onnx.with_suffix(".plan")).profile.best == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "qo-export RUN"),
        (("--ckpt", "a", "--onnx", "b"), "one of the two"),
        (("--onnx", "a"), "--engine builds a TensorRT engine of it"),
        (("--onnx", "a", "--engine", "--explain"), "go with --ckpt"),
        (("--onnx", "a", "--engine", "--precision", "fp16"), "go with --ckpt"),
        (("--onnx", "a", "--engine", "--no-parity"), "go with --ckpt"),
        (("--ckpt", "a", "--profile", "1,2,3"), "--profile is for the engine"),
        (("--ckpt", "a", "--target", "sm_86"), "--target is for the engine"),
        (("--onnx", "a", "--engine", "--profile", "3,2"), "smallest, best and largest"),
        (("--onnx", "a", "--engine", "--workspace", "none"), "no size"),
    ],
)
def test_wrong_options(options, says):
    result = invoke(*options)
    assert result.exit_code == 2, result.output
    assert says in result.stderr


def test_a_missing_package_is_said_before_anything_is_exported(network, save_run, picture_folder):
    run = save_run(network)
    result = invoke("--ckpt", run, "--images", picture_folder, "--engine", "--flavour", "tensorrt")
    assert result.exit_code == 4
    assert "[trt]" in result.stderr
    assert not (run / "model.onnx").exists()


def test_build_engine_is_the_librarys_too(onnx):
    assert build_engine(onnx, profile=(1, 1, 1), targets=["sm_86"]).path == onnx.with_suffix(".plan")
