"""Engines are built, here and without a GPU; that they run is not what these tests can show."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from queryopt.errors import MismatchError, MissingError, ModelError, UsageError
from queryopt.runtime import Hasher
from queryopt.runtime.tensorrt import (
    BuiltEngine,
    Manifest,
    Profile,
    build_engine,
    manifest_path,
    read_manifest,
    rebuild_engine,
)
from queryopt.runtime.tensorrt.build import parse_bytes
from queryopt.runtime.tensorrt.messages import stdout_kept_clean

tensorrt_rtx = pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")

Change = Callable[..., Manifest]
LEAST = {"profile": "1", "targets": ["sm_86"]}


def test_the_manifest_says_what_was_built(built: BuiltEngine, frozen_model: Path) -> None:
    values = json.loads(manifest_path(built.path).read_text())
    assert values["flavour"] == "tensorrt_rtx"
    assert values["version"] == tensorrt_rtx.__version__
    assert values["gpu"] is None
    assert values["capabilities"] == ["8.6", "8.9"]
    assert values["precision"] == "fp32"
    assert values["profile"] == {"smallest": 1, "best": 4, "largest": 8}
    assert values["workspace"] == 1 << 30
    assert values["plan"]["sha256"] == hashlib.sha256(built.path.read_bytes()).hexdigest()
    assert values["onnx"]["sha256"] == hashlib.sha256(frozen_model.read_bytes()).hexdigest()


def test_the_card_is_the_models_own(built: BuiltEngine, frozen_model: Path) -> None:
    with Hasher(frozen_model) as hasher:
        assert read_manifest(built.path).card == hasher.card


def test_the_plan_is_what_tensorrt_gave(built: BuiltEngine) -> None:
    content = built.path.read_bytes()
    assert content[1:4] == b"trt", "trtexec loads it: nothing of ours lies around it"
    assert tuple(content[24:28]) == tuple(int(part) for part in tensorrt_rtx.__version__.split("."))


def test_every_target_by_default_but_turing(frozen_model: Path, tmp_path: Path) -> None:
    built = build_engine(frozen_model, tmp_path / "a.plan", profile="1")
    assert built.manifest.capabilities == ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
    assert built.manifest.gpu is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"profile": "1,8,4"}, "must ascend"),
        ({"profile": "0,8,8"}, "from 1"),
        ({"profile": "1,8"}, "smallest, best and largest"),
        ({"profile": [1, 2.5, 4]}, "whole numbers"),
        ({"workspace": "much"}, "no size"),
        ({"workspace": "-4G"}, "no size"),
        ({"targets": ["sm_90"]}, r"no target 'sm_90': it has sm_75, .* did you mean"),
        ({"timing_cache": "cache"}, "no timing cache"),
        ({"flavour": "tensort"}, "did you mean tensorrt"),
        ({"plan": "model.engine"}, r"ends in \.plan"),
        ({"plan": "nowhere/model.plan"}, "make it first"),
    ],
)
def test_wrong_arguments(frozen_model: Path, tmp_path: Path, options: dict[str, object], says: str) -> None:
    given = {"plan": "model.plan", **LEAST, **options}
    with pytest.raises(UsageError, match=says):
        build_engine(frozen_model, tmp_path / str(given.pop("plan")), **given)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_what_tensorrt_says_is_the_reason(frozen_model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"for sm_75 \(.*FP32 GEMM is not supported.*leave that target out, or build with tensorrt"
    ):
        build_engine(frozen_model, tmp_path / "a.plan", profile="1", targets=["sm_75"])
    with pytest.raises(ModelError, match=r"for sm_86 \(.*give more --workspace"):
        build_engine(frozen_model, tmp_path / "a.plan", workspace=16, **LEAST)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_graph_that_tensorrt_cannot_read(frozen_model: Path, tmp_path: Path) -> None:
    model = onnx.load(frozen_model)
    model.graph.node[1].op_type = "Rubbish"
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"can't read it \(.*Rubbish.*qo-export"):
        build_engine(tmp_path / "a.onnx", **LEAST)  # type: ignore[arg-type]


def test_a_uint8_input_that_is_not_cast_first(frozen_model: Path, tmp_path: Path) -> None:
    # What TensorRT refuses, and qo-export therefore never writes.
    model = onnx.load(frozen_model)
    cast = next(node for node in model.graph.node if node.op_type == "Cast" and node.input[0] == "images")
    transpose = next(node for node in model.graph.node if node.op_type == "Transpose")
    transpose.input[0], transpose.output[0], cast.input[0] = "images", "turned", "turned"
    after = next(node for node in model.graph.node if node.name != cast.name and cast.output[0] in node.input)
    assert after is not transpose
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="can't"):
        build_engine(tmp_path / "a.onnx", **LEAST)  # type: ignore[arg-type]


def test_tensorrt_is_not_here(frozen_model: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"tensorrt can't be loaded .*\[trt\]"):
        build_engine(frozen_model, tmp_path / "a.plan", flavour="tensorrt")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x0a\x12"])
def test_no_onnx_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.onnx: .*with qo-export|no queryopt model card"):
        build_engine(tmp_path / "a.onnx")


def test_a_cut_off_onnx_file(frozen_model: Path, tmp_path: Path) -> None:
    content = frozen_model.read_bytes()
    for size in (len(content) - 1, len(content) // 2, 100):
        (tmp_path / "a.onnx").write_bytes(content[:size])
        with pytest.raises(ModelError, match=r"with qo-export|no queryopt model card"):
            build_engine(tmp_path / "a.onnx")


def test_a_file_that_is_no_engine_of_ours_is_not_replaced(frozen_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_bytes(b"something that took hours")
    with pytest.raises(UsageError, match="move it away"):
        build_engine(frozen_model, tmp_path / "a.plan")


class TestRebuild:
    def test_with_what_the_old_one_had(self, plan: Path, built: BuiltEngine, change_manifest: Change) -> None:
        shutil.copy(built.path.with_suffix(".onnx"), plan.parent)
        change_manifest(version="1.0.0.0")
        plan.write_bytes(b"damaged")
        again = rebuild_engine(plan)
        assert again.path == plan
        assert again.manifest.version == tensorrt_rtx.__version__
        assert again.manifest.profile == Profile(1, 4, 8)
        assert again.manifest.workspace == 1 << 30
        assert again.manifest.capabilities == ((8, 6), (8, 9))
        assert read_manifest(plan) == again.manifest

    def test_without_a_manifest(self, frozen_model: Path, tmp_path: Path) -> None:
        shutil.copy(frozen_model, tmp_path / "model.onnx")
        (tmp_path / "model.plan").write_bytes(b"whatever")
        assert rebuild_engine(tmp_path / "model.plan").manifest.profile == Profile(1, 32, 256)

    def test_without_the_onnx_file(self, plan: Path) -> None:
        with pytest.raises(ModelError, match=r"no model\.onnx beside it"):
            rebuild_engine(plan)

    def test_from_another_checkpoint(self, plan: Path, built: BuiltEngine, change_manifest: Change) -> None:
        shutil.copy(built.path.with_suffix(".onnx"), plan.parent)
        change_manifest(card=replace(read_manifest(plan).card, fingerprint="0" * 64))
        before = plan.read_bytes()
        with pytest.raises(MismatchError, match=r"of another checkpoint .*delete model\.plan\.json first"):
            rebuild_engine(plan)
        assert plan.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "size"), [("4G", 4 << 30), ("512M", 512 << 20), ("1.5GiB", 3 << 29), ("64kb", 64 << 10), ("7", 7), (9, 9)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_bytes(text) == size


def test_a_package_that_is_too_old_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("__version__ = '8.6.1'\nclass IExecutionContext: pass\n")
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom queryopt.runtime.tensorrt import load_flavour\n"
        "from queryopt.errors import MissingError\n"
        "try:\n    load_flavour()\nexcept MissingError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("TensorRT 8.6.1 is too old, or too new: it lacks IExecutionContext.set_device_memory")


def test_what_native_code_prints_stays_off_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_kept_clean():
        os.write(1, b"past every logger\n")
    os.write(1, b"the result\n")
    assert capfd.readouterr().out == "the result\n"
