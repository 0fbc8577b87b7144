"""Compiled kernels are kept beside the engine; TensorRT-RTX itself, which needs a GPU for it, is stood in for."""

from pathlib import Path

import pytest

from queryopt.runtime.tensorrt.kernel_cache import KernelCache, cache_path


class Cache:
    """An IRuntimeCache of one version: it refuses what doesn't begin with that."""

    def __init__(self, version: bytes) -> None:
        self.version, self.kernels = version, b""

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(self.version):
            return False
        self.kernels = content.removeprefix(self.version)
        return True

    def serialize(self) -> bytes:
        return self.version + self.kernels


class Configuration:
    """An IRuntimeConfig."""

    def __init__(self, version: bytes = b"1.7:") -> None:
        self.version = version
        self.cache: Cache | None = None

    def create_runtime_cache(self) -> Cache:
        return Cache(self.version)

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.cache = cache
        return True


def compile_kernels(path: Path, kernels: bytes, version: bytes = b"1.7:") -> bytes:
    """A process that runs an engine: what was there, before it compiled `kernels`."""
    cache = KernelCache(Configuration(version), path)
    configuration = Configuration(version)
    cache.use(configuration)
    assert configuration.cache is not None
    found = configuration.cache.kernels
    configuration.cache.kernels += kernels
    cache.save()
    return found


def test_the_next_process_has_what_was_compiled(tmp_path: Path) -> None:
    path = cache_path(tmp_path / "model.plan")
    assert path.name == "model.plan.cache"
    assert compile_kernels(path, b"conv ") == b""
    assert compile_kernels(path, b"softmax") == b"conv "
    before = path.stat()
    assert compile_kernels(path, b"") == b"conv softmax"
    assert path.stat().st_mtime_ns == before.st_mtime_ns, "nothing new is not written"


@pytest.mark.parametrize("content", [b"", b"damaged", b"1.6:conv"])
def test_what_does_not_fit_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.plan.cache"
    path.write_bytes(content)
    assert compile_kernels(path, b"conv") == b""
    assert path.read_bytes() == b"1.7:conv"


def test_an_engine_runs_where_nothing_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.plan.cache"
    path.mkdir()  # like a folder that may not be written in, which root may
    assert compile_kernels(path, b"conv") == b""
    assert compile_kernels(tmp_path / "none" / "model.plan.cache", b"conv") == b""
