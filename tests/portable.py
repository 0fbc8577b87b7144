"""The tests as another processor would run them: make test-portable [SETTINGS="plain busy"] [TESTS=tests/train].

The libraries take the widest instructions that there are, and another width sums in another order. Each setting limits
them by the variables that they document; what ONNX Runtime takes can't be limited. A line a setting says how many tests
passed; what pytest said lies beside it in build/portable/.
"""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from queryopt.runtime.search.core import NUMPY, PATH_VARIABLE, paths

LOGS = Path("build", "portable")
# OpenVINO asks the processor whether it has bfloat16, and its oneDNN then obeys the limit all the same.
BFLOAT16 = (
    "tests/runtime/backends/test_openvino.py::test_bf16_is_computed_as_the_card_says",
    "tests/export/test_gate.py::test_one_that_cannot_run_it_is_left_out_with_its_reason",
    "tests/bench/cli/test_latency.py::test_an_untrained_network_in_other_precisions",
)


@dataclass(frozen=True)
class Setting:
    """variables: of the environment. path: of the search core. numpy: the instructions that NumPy goes without, by how
    their names begin. without: tests that the limit itself breaks. one_core, busy: on one processor only, or while
    another job takes all of them.
    """

    variables: dict[str, str] = field(default_factory=dict)
    path: str = ""
    numpy: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    one_core: bool = False
    busy: bool = False


def limits(aten: str, onednn: str, openblas: str, mkl: str) -> dict[str, str]:
    """The variables of PyTorch, its and OpenVINO's oneDNN, NumPy's OpenBLAS, and PyTorch's MKL."""
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "MKL_CBWR")
    return dict(zip(names, (aten, onednn, openblas, mkl), strict=True))


SETTINGS = {
    "native": Setting(),
    # As few as there can be; OpenVINO gives models of this project no rows at all below AVX.
    "plain": Setting(limits("default", "AVX", "Nehalem", "COMPATIBLE"), "plain", ("",), BFLOAT16),
    "avx2": Setting(limits("avx2", "AVX2", "Haswell", "AVX2"), "avx2", ("AVX512", "X86_V4"), BFLOAT16),
    # Neither AMX nor bfloat16, which are rounded and summed apart from the rest.
    "avx512": Setting(limits("avx512", "AVX512_CORE_VNNI", "SkylakeX", "AVX512"), "avx512", ("AVX512_SPR",), BFLOAT16),
    "numpy": Setting(path=NUMPY),
    "one-core": Setting(one_core=True),
    "busy": Setting(busy=True),
}


def environment(setting: Setting) -> dict[str, str]:
    """What the tests of a setting run in."""
    arrays = importlib.import_module("numpy._core._multiarray_umath")  # no public name says it without printing
    dispatched = [name for name in arrays.__cpu_dispatch__ if arrays.__cpu_features__.get(name)]
    limited = " ".join(name for name in dispatched if setting.numpy and name.startswith(setting.numpy))
    variables = dict(setting.variables)
    if setting.path:
        variables[PATH_VARIABLE] = setting.path
    if limited:
        variables["NPY_DISABLE_CPU_FEATURES"] = limited
    return os.environ | variables


@contextmanager
def surroundings(setting: Setting) -> Iterator[None]:
    """One processor alone, or all of them taken by others, for what is started meanwhile."""
    processors = os.sched_getaffinity(0)
    if setting.one_core:
        os.sched_setaffinity(0, {min(processors)})
    spin = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(spin) for _ in processors] if setting.busy else []
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
        os.sched_setaffinity(0, processors)


def run(name: str, tests: tuple[str, ...]) -> bool:
    """Run the tests in a setting and print its line. Whether all passed."""
    setting = SETTINGS[name]
    left_out = [f"--deselect={test}" for test in setting.without]
    spread = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    command = [sys.executable, "-P", "-m", "pytest", "-q", *spread, *left_out, *tests]
    log = LOGS / f"{name}.log"
    with surroundings(setting), open(log, "w") as file:
        status = subprocess.run(command, env=environment(setting), stdout=file, stderr=subprocess.STDOUT).returncode
    counts = dict.fromkeys(("passed", "failed", "error"), 0)
    last = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
    counts |= {kind: int(count) for count, kind in re.findall(r"(\d+) (passed|failed|error)", last)}
    failed = counts["failed"] + counts["error"]
    why = "" if status == 0 or failed else f" (pytest ended with {status})"
    print(f"{name}: {counts['passed']} passed, {failed} failed{why}", "" if status == 0 else f"see {log}", flush=True)
    return status == 0


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--settings", default=" ".join(SETTINGS), help="Which, with spaces between them; all unless told.")
@click.argument("tests", nargs=-1)
def main(settings: str, tests: tuple[str, ...]) -> None:
    """Run pytest in each setting, with TESTS as its arguments."""
    names = settings.split()
    if unknown := [name for name in names if name not in SETTINGS]:
        raise click.UsageError(f"no setting is called {unknown[0]}: there are {', '.join(SETTINGS)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    passed = True
    for name in names:
        path = SETTINGS[name].path
        if path and path not in paths():
            print(f"{name}: left out, this processor and build have {', '.join(paths())}", flush=True)
        else:
            passed = run(name, tests) and passed
    sys.exit(not passed)


if __name__ == "__main__":
    main()
