"""Compiled programs are kept, and never trusted when they changed."""

from pathlib import Path

import pytest

from queryopt.runtime.cuda import Program
from queryopt.runtime.cuda.images import cache_folder, device_image
from queryopt.runtime.cuda.nvrtc import load_nvrtc


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "queryopt" / "cuda"


@pytest.fixture
def small(tmp_path: Path) -> Program:
    (tmp_path / "small.cu").write_text('extern "C" __global__ void small(int* out) { out[0] = 1; }\n')
    return Program(tmp_path / "small.cu", ("small",))


def test_compiled_once(cache: Path, small: Program) -> None:
    newest = load_nvrtc().version[0]
    first = device_image(small, (9, 0), newest)
    (kept,) = cache.iterdir()
    stamp = kept.stat().st_mtime_ns
    assert device_image(small, (9, 0), newest).image == first.image
    assert kept.stat().st_mtime_ns == stamp
    device_image(small, (8, 0), newest)
    small.source.write_text('extern "C" __global__ void small(int* out) { out[0] = 2; }\n')
    assert device_image(small, (9, 0), newest).image != first.image
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"too short", b"\0" * 5000])
def test_a_damaged_file_is_compiled_again(cache: Path, small: Program, damage: bytes) -> None:
    first = device_image(small, (9, 0), 99)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert device_image(small, (9, 0), 99).image == first.image
    assert kept.read_bytes() == whole


def test_ptx_is_kept_as_ptx(cache: Path, small: Program) -> None:
    for _ in range(2):
        assert device_image(small, (99, 0), 99).kind == "ptx"
    assert [path.suffix for path in cache.iterdir()] == [".ptx"]


def test_a_cache_that_cannot_be_written_only_costs_time(cache: Path, small: Program) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert device_image(small, (9, 0), 99).kind == "cubin"
    assert cache.read_text() == "a file where the folder should be"


def test_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "queryopt" / "cuda"
