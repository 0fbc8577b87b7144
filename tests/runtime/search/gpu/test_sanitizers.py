"""The kernels under the sanitizers: no access outside of what they were given, and no two that no barrier orders."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import emulated_cuda
from emulated_cuda import CHECK_MEMORY, CHECK_RACES
from queryopt.runtime.search.gpu.index import PROGRAM

SCRIPT = Path(__file__).with_name("sanitized.py")
SOURCE = PROGRAM.source.read_text()
CHANGES = {
    "as it is": ("", ""),
    "a row too many": ("row < piece.count ? codes[row]", "row <= piece.count ? codes[row]"),
    "without __syncthreads": ("__syncthreads();  // every warp has read the sums", ""),
    "without __syncwarp": ("__syncwarp();  // every lane has read the last step's limits", ""),
}
RUNS = [("memory", "as it is"), ("memory", "a row too many")] + [
    ("races", change) for change in ("as it is", "without __syncthreads", "without __syncwarp")
]
Result = tuple[int, str, str]


def watched(check: str, change: str, folder: Path) -> Result:
    """Exit status, stdout and stderr of searches on the changed kernels."""
    compiler = shutil.which("g++")
    assert compiler, "the sanitizers are tested with g++"
    old, new = CHANGES[change]
    assert not old or SOURCE.count(old) == 1
    source = folder / f"{change.replace(' ', '_')}.cu"
    source.write_text(SOURCE.replace(old, new) if old else SOURCE)
    library, flags = ("libasan.so", CHECK_MEMORY) if check == "memory" else ("libtsan.so", CHECK_RACES)
    found = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True)
    environment = {
        **os.environ,
        "CXX": compiler,
        "PYTHONPATH": str(Path(emulated_cuda.__file__).parent),
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command: list[str | Path] = [sys.executable, SCRIPT, source, folder, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "unexpected memory mapping" in done.stderr:  # the sanitizer can't live with that much address randomisation
        command = ["setarch", platform.machine(), "-R", *command]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Result]:
    """(check, change) -> what came of it; all of them run side by side."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running: dict[tuple[str, str], Future[Result]] = {
            run: pool.submit(watched, *run, tmp_path_factory.mktemp(run[0])) for run in RUNS
        }
    return lambda check, change: running[check, change].result()


@pytest.mark.parametrize("check", ["memory", "races"])
def test_clean(result: Callable[[str, str], Result], check: str) -> None:
    status, output, errors = result(check, "as it is")
    assert (status, output) == (0, "as on the CPU\n"), errors


def test_an_access_outside_is_caught(result: Callable[[str, str], Result]) -> None:
    status, _, errors = result("memory", "a row too many")
    assert status
    assert re.search(r"heap-buffer-overflow(?s:.*)#0 .*a_row_too_many\.cu:\d+", errors), errors


@pytest.mark.parametrize("barrier", ["__syncthreads", "__syncwarp"])
def test_a_removed_barrier_is_caught(result: Callable[[str, str], Result], barrier: str) -> None:
    status, _, errors = result("races", f"without {barrier}")
    assert status
    assert re.search(rf"data race(?s:.*)#\d .*without_{barrier}\.cu:\d+", errors), errors
