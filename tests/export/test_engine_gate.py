"""The gate of an engine, on an emulated device: it runs the model.onnx that the engine is built of, or another one.

That TensorRT gives the same codes on a GPU, these tests can't show.
"""

import json
import shutil

import pytest

from emulated_cuda import EmulatedRuntime
from emulated_tensorrt import EmulatedBackend
from queryopt.errors import MissingError, ParityError
from queryopt.export.gate import Comparison, build_gated_engine
from queryopt.export.parity import ParitySide
from queryopt.export.pictures import labelled_in
from queryopt.export.torch_backend import TorchBackend
from queryopt.runtime.tensorrt import Profile, manifest_path, read_manifest

pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")


@pytest.fixture
def onnx(model_path, tmp_path):
    folder = tmp_path / "engine"
    folder.mkdir()
    return shutil.copy(model_path, folder / "birds.onnx")


@pytest.fixture
def build(network, onnx, picture_folder):
    """build(model, …) -> the engine of `onnx`, its codes those of `model` on an emulated device."""

    def gated(model, **limits):
        def compare():
            return Comparison(ParitySide("the network", TorchBackend(network)), labelled_in(picture_folder), **limits)

        def open_engine(plan):
            assert plan.parent != onnx.parent, "it is not in its place before it was compared"
            assert read_manifest(plan).parity is None
            return EmulatedBackend(model, Profile.of("1,4,8"), EmulatedRuntime())

        return build_gated_engine(onnx, compare, open_engine=open_engine, profile="1,4,8", targets=["sm_86"])

    return gated


def names(onnx):
    return sorted(path.name for path in onnx.parent.iterdir())


def test_an_engine_that_agrees_is_written_with_its_report(build, onnx):
    gated = build(onnx)
    assert gated.built.path == onnx.with_suffix(".plan")
    assert names(onnx) == ["birds.onnx", "birds.plan", "birds.plan.json"]
    assert (gated.parity.flipped, gated.note) == (0, "")
    assert gated.parity.bits_compared >= 20_000
    assert gated.parity.map.queries == 8
    manifest = read_manifest(gated.built.path)
    assert manifest == gated.built.manifest
    assert manifest.parity["flipped"] == 0
    assert "as if on a GPU" in manifest.parity["backend"]
    assert (manifest.parity["max_flip_rate"], manifest.parity["source"]) == (1e-3, "the given folder")


def test_an_engine_that_differs_is_refused_and_the_old_one_stays(build, onnx, perturbed_path):
    assert build(perturbed_path, max_flip_rate=1.0).parity.flipped > 0
    old = {name: (onnx.parent / name).read_bytes() for name in names(onnx)}
    with pytest.raises(ParityError, match=r"birds\.plan: no engine was written: .* bits differ"):
        build(perturbed_path)
    assert {name: (onnx.parent / name).read_bytes() for name in names(onnx)} == old


def test_an_engine_that_cannot_be_run_says_so(onnx):
    def missing(plan):
        raise MissingError("neither cuda-core nor PyCUDA")

    options = {"profile": "1,2,4", "targets": ["sm_86"]}
    gated = build_gated_engine(onnx, lambda: pytest.fail("compared without a GPU"), **options)
    assert gated.parity is None
    assert gated.note.startswith("built, not run here: ")
    for words, compare, opened in (
        ("built, and not compared: give pictures", lambda: "give pictures", missing),
        ("built, not run here: neither cuda-core nor PyCUDA", lambda: Comparison(None, None), missing),
    ):
        gated = build_gated_engine(onnx, compare, open_engine=opened, **options)
        assert (gated.parity, gated.note) == (None, words)
        assert json.loads(manifest_path(gated.built.path).read_text())["parity_note"] == words


def test_the_manifest_of_an_earlier_version_is_read(build, onnx):
    plan = build(onnx).built.path
    values = json.loads(manifest_path(plan).read_text())
    del values["parity"], values["parity_note"]
    manifest_path(plan).write_text(json.dumps(values))
    assert (read_manifest(plan).parity, read_manifest(plan).parity_note) == (None, "")
