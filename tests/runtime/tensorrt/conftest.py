import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from emulated_cuda import EmulatedRuntime
from emulated_tensorrt import EmulatedBackend
from queryopt.runtime.tensorrt import BuiltEngine, Manifest, Profile, build_engine, manifest_path, read_manifest


@pytest.fixture(scope="session")
def built(frozen_model: Path, tmp_path_factory: pytest.TempPathFactory) -> BuiltEngine:
    """An engine of the frozen model for two kinds of GPU, with the model.onnx beside it. Not to be changed."""
    pytest.importorskip("tensorrt_rtx", reason="there are wheels for Linux on x86-64 alone")
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


@pytest.fixture
def opened(frozen_model: Path) -> Callable[..., EmulatedBackend]:
    """(profile, memory=…, deferred=…, capturable=…, scratch=…) opens the frozen model on an emulated device.

    Its streams do nothing before they are waited for, unless deferred is False. An image takes 1000 bytes of scratch.
    """

    def make(
        profile: str = "1,4,8",
        memory: int = 1 << 30,
        deferred: bool = True,
        capturable: bool = True,
        scratch: Callable[[int], int] = lambda batch: 1000 * batch,
    ) -> EmulatedBackend:
        cuda = EmulatedRuntime(memory=memory, deferred=deferred)
        return EmulatedBackend(frozen_model, Profile.of(profile), cuda, capturable=capturable, scratch=scratch)

    return make
