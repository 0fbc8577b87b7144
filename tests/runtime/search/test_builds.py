"""The search core with sanitizers, with another compiler and for another processor than the ones at hand.

Where the tools of one are not there, it is left out, and the end of the test run says so (tests/conftest.py).
"""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

import queryopt.runtime.search
from queryopt.runtime.search import core

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
QUICK = ("-DCMAKE_CXX_FLAGS_RELEASE=-O1",)
STRICT = ("-DCMAKE_COMPILE_WARNING_AS_ERROR=ON",)


def run(command: Sequence[object], folder: Path, **variables: str) -> str:
    """The output of a command that must end well."""
    scripts = sysconfig.get_path("scripts")
    environment = {k: v for k, v in os.environ.items() if k not in ("CXX", "CXXFLAGS", "CFLAGS", "LDFLAGS")}
    environment |= {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"} | variables
    done = subprocess.run([str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def build(source: Path, folder: Path, *options: str, compiler: str = "c++") -> None:
    run(["cmake", "-S", source, "-B", folder, "-G", "Ninja", *STRICT, *options], folder.parent, CXX=compiler)
    run(["cmake", "--build", folder], folder.parent)


def build_extension(folder: Path, *options: str, compiler: str) -> Path:
    python = f"-DPython_EXECUTABLE={sys.executable}"
    build(ROOT, folder / "build", python, *QUICK, *options, compiler=compiler)
    (extension,) = (folder / "build").glob("_core*.so")
    return extension


def run_driver(
    folder: Path,
    *options: str,
    compiler: str = "c++",
    emulator: Sequence[str] = (),
    arguments: Sequence[str] = ("500",),
) -> list[str]:
    """Builds native/driver.cpp, which compares searches with brute force, runs it; the paths that it went."""
    build(HERE / "native", folder / "build", *options, compiler=compiler)
    output = run([*emulator, folder / "build" / "driver", *arguments], folder)
    assert output.startswith("right: ")
    return output.split(" paths ")[1].split()


def paths() -> list[str]:
    return list(core.paths()[:-1])


def view(folder: Path, extension: Path) -> Path:
    """What is installed, as links, with another search core."""
    packages: list[tuple[ModuleType, set[str]]] = [
        (queryopt, {"runtime"}),
        (queryopt.runtime, {"search"}),
        (queryopt.runtime.search, {"native"}),
    ]
    for package, left_out in packages:
        made = folder.joinpath(*package.__name__.split("."))
        made.mkdir(parents=True)
        for entry in Path(package.__path__[0]).iterdir():
            if entry.name not in left_out and not entry.name.startswith("_core."):
                (made / entry.name).symlink_to(entry.resolve())
    (made / extension.name).symlink_to(extension)
    return folder


def pytest_against(extension: Path, folder: Path, *groups: Sequence[Path], **variables: str) -> None:
    """Runs the tests of each group in a process of its own, all at once, with this search core."""
    path = str(view(folder / "view", extension))
    command = [sys.executable, "-P", "-m", "pytest", "-qs", "-p", "no:cacheprovider", "--rootdir", ROOT]
    command += ["-k", "not numpy or equals_numpy or opens"]  # searches in NumPy alone don't come to it
    with ThreadPoolExecutor() as pool:
        for output in pool.map(lambda tests: run([*command, *tests], ROOT, PYTHONPATH=path, **variables), groups):
            assert " passed" in output.splitlines()[-1]


@pytest.mark.needs("g++ -fsanitize=address")
def test_address_and_undefined_behaviour_sanitizers(tmp_path: Path, tools: dict[str, str]) -> None:
    """Every structure on every path: an access out of bounds ends the process."""
    (compiler,) = tools.values()
    extension = build_extension(tmp_path, "-DQO_SANITIZE=address;undefined", compiler=compiler)
    libraries = [
        run([compiler, f"-print-file-name={name}"], tmp_path).strip() for name in ("libasan.so", "libubsan.so")
    ]
    tests = sorted(p for p in HERE.glob("test_*.py") if p.name not in ("test_builds.py", "test_device.py"))
    assert len(tests) > 4
    # Python itself lets go of memory only as its process ends.
    variables = {"LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}
    pytest_against(extension, tmp_path, tests[::2], tests[1::2], **variables)


@pytest.mark.needs("g++ -fsanitize=thread")
def test_thread_sanitizer(tmp_path: Path, tools: dict[str, str]) -> None:
    (compiler,) = tools.values()
    assert (
        run_driver(tmp_path, "-DQO_SANITIZE=thread", *QUICK, compiler=compiler, arguments=["50000", "threads"])
        == paths()
    )


@pytest.mark.needs("clang++")
def test_clang(tmp_path: Path, tools: dict[str, str]) -> None:
    extension = build_extension(tmp_path, compiler=tools["clang++"])
    pytest_against(extension, tmp_path, [HERE / "test_core.py"])


def test_the_default_compiler_without_warnings_at_full_optimisation(tmp_path: Path) -> None:
    assert run_driver(tmp_path) == paths()


@pytest.mark.needs("aarch64-linux-gnu-g++", "qemu-aarch64")
def test_arm(tmp_path: Path, tools: dict[str, str]) -> None:
    target = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_EXE_LINKER_FLAGS=-static")
    compiler, emulator = tools["aarch64-linux-gnu-g++"], tools["qemu-aarch64"]
    assert run_driver(tmp_path, *target, compiler=compiler, emulator=[emulator], arguments=["300"]) == ["plain"]
