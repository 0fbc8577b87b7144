"""What all tests share."""

import atexit
import functools
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A test run that a shell started in the background ignores Ctrl-C, and so would every process that a test starts and
# interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that tests start take the installed package, not the folder that they are started in.
os.environ["PYTHONSAFEPATH"] = "1"

# Features of pictures are kept in a folder of the tests' own, not in that of whoever runs them.
os.environ["QUERYOPT_CACHE"] = tempfile.mkdtemp(prefix="queryopt-cache-")
atexit.register(shutil.rmtree, os.environ["QUERYOPT_CACHE"], ignore_errors=True)

# By default OpenMP's threads spin at every barrier: with anything else running on the machine, what computes with two
# of them took many times as long. Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# The same examples in every run, so that a test fails with the change that broke it; HYPOTHESIS_PROFILE=explore draws
# new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Tests marked needs(…) are left out where a tool isn't there, and the summary of the run says which, and why.

_PROBE = "int main() { return 0; }"


def _program(*names: str) -> str:
    return next((found for name in names if (found := shutil.which(name))), "")


def _sanitizer(name: str) -> str:
    """The path of g++, if its programs run with this sanitizer here: its library and the kernel may be in the way."""
    compiler = _program("g++")
    with tempfile.TemporaryDirectory() as folder:
        command = [compiler, f"-fsanitize={name}", "-x", "c++", "-", "-o", f"{folder}/probe"]
        if compiler and subprocess.run(command, input=_PROBE, capture_output=True, text=True).returncode == 0:
            return compiler if subprocess.run([f"{folder}/probe"], capture_output=True).returncode == 0 else ""
    return ""


def _browser() -> str:
    """The path of a Chromium, if Playwright is there to drive it."""
    if importlib.util.find_spec("playwright") is None:
        return ""
    return _program("chromium", "chromium-browser", "google-chrome")


def _exact_int8() -> str:
    """What adds products of uint8 and int8 in 32 bits here. x86 without VNNI adds pairs of them in 16 bits, which
    saturate, in oneDNN as in ONNX Runtime: a quantised model has other codes there.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    exact = limit in ("ALL", "DEFAULT") or any(name in limit for name in ("VNNI", "BF16", "FP16", "AMX", "AVX10"))
    flags = Path("/proc/cpuinfo").read_text() if exact and Path("/proc/cpuinfo").exists() else ""
    return next((name for name in ("avx512_vnni", "avx_vnni") if name in flags), "")


_TOOLS: dict[str, Callable[[], str]] = {
    "VNNI": _exact_int8,
    "clang++": lambda: _program("clang++", *(f"clang++-{version}" for version in range(40, 6, -1))),
    "aarch64-linux-gnu-g++": lambda: _program("aarch64-linux-gnu-g++"),
    "qemu-aarch64": lambda: _program("qemu-aarch64", "qemu-aarch64-static"),
    "g++ -fsanitize=address": lambda: _sanitizer("address,undefined"),
    "g++ -fsanitize=thread": lambda: _sanitizer("thread"),
    "chromium": _browser,
    "curl": lambda: _program("curl"),
}
_FIRST = {"test_builds.py", "test_sanitizers.py", "test_cuda_core.py", "test_install.py"}
"""Files of few tests, of tens of seconds each."""

_left_out: list[str] = []


@functools.cache
def _find_tool(name: str) -> str:
    return _TOOLS[name]()


@pytest.fixture
def tools(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where the tools of the test's mark needs(…) are: {name: path}."""
    return {name: _find_tool(name) for name in _needs(request.node)}


def _needs(item: pytest.Item) -> tuple[str, ...]:
    marker = item.get_closest_marker("needs")
    return marker.args if marker else ()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*tools): left out, and said so, where one of them is not there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept: list[pytest.Item] = []
    missed: list[pytest.Item] = []
    for item in items:
        missing = [name for name in _needs(item) if not _find_tool(name)]
        (missed if missing else kept).append(item)
        if missing:
            _left_out.append(f"{item.nodeid}: there is no {' and no '.join(missing)} here")
    if missed:
        config.hook.pytest_deselected(items=missed)
    # Begun last, one of these would hold one process up while the other has nothing left to do.
    items[:] = sorted(kept, key=lambda item: item.path.name not in _FIRST)


# With pytest-xdist its workers collect, and hand over what they left out: the same lines each.
def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = _left_out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _left_out[:] = dict.fromkeys([*_left_out, *getattr(node, "workeroutput", {}).get("left_out", [])])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _left_out:
        terminalreporter.write_line(f"LEFT OUT {line}", yellow=True)
