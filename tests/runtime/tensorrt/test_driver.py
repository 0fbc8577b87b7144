"""Engines where there is a driver: one that stands in for NVIDIA's, in a process of its own. None is ever loaded."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DRIVER = Path(__file__).with_name("stand_in") / "driver.c"

Python = Callable[..., str]


@pytest.fixture
def with_driver(tmp_path: Path) -> Python:
    """(definitions, code, *arguments) runs code where there is such a driver: what it prints."""

    def run(definitions: dict[str, int], code: str, *arguments: object) -> str:
        compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
        assert compiler, "the stand-in is compiled with cc, gcc or clang"
        (tmp_path / "driver").mkdir()
        flags = ["-shared", "-fPIC", *(f"-D{name}={value}" for name, value in definitions.items())]
        subprocess.run([compiler, DRIVER, *flags, "-o", tmp_path / "driver" / "libcuda.so.1"], check=True)
        environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path / "driver")}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


FIND = """
from queryopt.errors import MissingError
from queryopt.runtime.cuda.driver import find_gpu
import sys
try:
    print(find_gpu(int(sys.argv[1])))
except MissingError as error:
    print(error)
"""

OPEN = """
from queryopt.errors import QueryOptError
from queryopt.runtime.tensorrt.fit import fitting_engine
import sys
try:
    print("fits", fitting_engine(sys.argv[1]).gpu.text)
except QueryOptError as error:
    print(type(error).__name__, error)
"""


def test_a_gpu(with_driver: Python) -> None:
    assert with_driver({"CAPABILITY": 121}, FIND, 0) == (
        "Gpu(name='NVIDIA Stand-in', capability=(12, 1), driver=(13, 2))"
    )


def test_a_gpu_that_is_not_there(with_driver: Python) -> None:
    assert with_driver({}, FIND, 1).startswith("no GPU 1: the driver has 1, numbered from 0")


def test_a_driver_without_a_gpu(with_driver: Python) -> None:
    said = with_driver({"STATUS": 100}, FIND, 0)
    assert "cuInit says no CUDA-capable device is detected (100); nvidia-smi" in said


def test_an_engine_that_fits(with_driver: Python, plan: Path) -> None:
    assert with_driver({"CAPABILITY": 86}, OPEN, plan) == "fits NVIDIA Stand-in (compute capability 8.6)"


def test_an_engine_for_other_gpus(with_driver: Python, plan: Path) -> None:
    said = with_driver({"CAPABILITY": 90}, OPEN, plan)
    assert said.startswith("MismatchError")
    assert "built for compute capabilities 8.6, 8.9, and this GPU is NVIDIA Stand-in (compute capability 9.0)" in said
    assert "--rebuild" in said


def test_rebuilt_for_the_gpu_that_is_here_too(
    with_driver: Python, plan: Path, built: object, frozen_model: Path
) -> None:
    shutil.copy(frozen_model, plan.with_suffix(".onnx"))
    code = """
from queryopt.runtime.tensorrt.build import refresh_engine
import sys
print(refresh_engine(sys.argv[1]).manifest.capabilities, refresh_engine(sys.argv[1]))
"""
    assert with_driver({"CAPABILITY": 120}, code, plan) == "((8, 6), (8, 9), (12, 0)) None"
