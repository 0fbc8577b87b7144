"""Compiling with NVRTC: no GPU, driver or toolkit is needed."""

from pathlib import Path

import pytest

from queryopt.errors import MissingError
from queryopt.runtime.cuda import nvrtc
from queryopt.runtime.cuda.nvrtc import CompileError, Nvrtc, load_nvrtc

SOURCE = 'extern "C" __global__ void twice(int* out) { out[threadIdx.x] *= 2; }'


def test_machine_code_of_a_known_architecture() -> None:
    made = load_nvrtc().compile(SOURCE, "twice.cu", (9, 0))
    assert made.kind == "cubin"
    assert made.image.startswith(b"\x7fELF")
    assert b"twice" in made.image


def test_ptx_for_an_architecture_that_is_newer_than_the_library() -> None:
    newest = load_nvrtc().architectures[-1]
    made = load_nvrtc().compile(SOURCE, "twice.cu", (newest // 10 + 1, 0))
    assert made.kind == "ptx"
    assert f".target sm_{newest}".encode() in made.image


def test_machine_code_of_the_same_major_version_for_a_newer_minor_one() -> None:
    assert load_nvrtc().compile(SOURCE, "twice.cu", (7, 9)).kind == "cubin"


def test_an_architecture_that_is_too_old() -> None:
    with pytest.raises(
        CompileError, match=r"compiles for compute capability \d\.\d and newer, and the device has 1\.3"
    ):
        load_nvrtc().compile(SOURCE, "twice.cu", (1, 3))


def test_a_program_that_is_wrong_shows_where() -> None:
    with pytest.raises(
        CompileError, match=r'(?s)wrong\.cu can\'t be compiled for sm_90.*wrong\.cu\(1\): error.*"missing"'
    ):
        load_nvrtc().compile('extern "C" __global__ void wrong(int* out) { out[0] = missing; }', "wrong.cu", (9, 0))


def test_a_library_that_is_too_new_for_the_driver_is_not_taken() -> None:
    with pytest.raises(MissingError, match=r"libnvrtc\.so\.\d+ is of CUDA \d+, and the driver of 9"):
        load_nvrtc(9)
    assert load_nvrtc(99).version == load_nvrtc().version


def test_no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nvrtc, "_libraries", lambda: iter(()))
    with pytest.raises(MissingError, match=r"there is none: .*pip install '\.\[gpu\]', or set CUDA_HOME"):
        load_nvrtc.__wrapped__()
    broken = tmp_path / "libnvrtc.so.13"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(nvrtc, "_libraries", lambda: iter((broken,)))
    with pytest.raises(MissingError, match=r"none can be used: .*libnvrtc\.so\.13"):
        load_nvrtc.__wrapped__()


def test_a_toolkits_library_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libnvrtc.so.99.1").symlink_to(load_nvrtc().path)
    (tmp_path / "lib64" / "libnvrtc.so").symlink_to(load_nvrtc().path)
    for builtins in load_nvrtc().path.parent.glob("libnvrtc-builtins*"):
        (tmp_path / "lib64" / builtins.name).symlink_to(builtins)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    found: Nvrtc = load_nvrtc.__wrapped__()
    assert found.path == tmp_path / "lib64" / "libnvrtc.so.99.1"
    assert found.compile(SOURCE, "twice.cu", (9, 0)).kind == "cubin"
