import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from queryopt.runtime.tensorrt import BuiltEngine, Manifest, build_engine, manifest_path, read_manifest

pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")


@pytest.fixture(scope="session")
def built(frozen_model: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """An engine of the frozen model for two kinds of GPU, with the model.onnx beside it. Not to be changed."""
    source = tmp_path_factory.mktemp("engine") / "model.onnx"
    shutil.copy(frozen_model, source)
    return build_engine(source, profile="1,4,8", workspace="1G", targets=["sm_89", "sm_86"])


@pytest.fixture
def plan(built: BuiltEngine, tmp_path: Path) -> Path:
    """A copy of that engine, with its manifest and no model.onnx."""
    path = tmp_path / "model.plan"
    shutil.copy(built.path, path)
    shutil.copy(manifest_path(built.path), manifest_path(path))
    return path


@pytest.fixture
def change_manifest(plan: Path) -> Callable[..., Manifest]:
    """(field=value, …) writes `plan`'s manifest with other values."""

    def change(**values: object) -> Manifest:
        manifest = replace(read_manifest(plan), **values)  # type: ignore[arg-type]
        manifest.write(plan)
        return manifest

    return change
