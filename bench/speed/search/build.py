"""What building a contender costs, measured in a fresh process: seconds, memory at the worst moment, memory held.

Run as a module, it is that process: it reads what to build as JSON on stdin and prints the figures as JSON.
"""

import gc
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from queryopt.bench.speed.search.contender import Task, UnavailableError, open_contender
from queryopt.bench.speed.search.data import DataSpec, make_data
from queryopt.errors import QueryOptError

__all__ = ["Build", "measure_build"]


@dataclass(frozen=True)
class Build:
    """Memory is in bytes, the most of all processes; None where the system, or the contender, doesn't tell.

    seconds: median of the processes. fewest: the fastest of them.
    result: what the contender says it holds.
    peak: resident memory at the worst moment of the build less that before it, when the codes were there already.
    held: the same after the build.
    """

    searcher: str
    bits: int
    n: int
    seconds: float
    fewest: float
    result: int | None
    peak: int | None
    held: int | None

    @property
    def peak_ratio(self) -> float | None:
        """Memory while building, the result included, in multiples of the result."""
        return None if self.peak is None or not self.result else self.peak / self.result

    def to_dict(self) -> dict[str, Any]:
        """All fields and peak_ratio, JSON-serialisable."""
        return asdict(self) | {"peak_ratio": self.peak_ratio}


def measure_build(name: str, spec: DataSpec, repeats: int = 3) -> Build:
    """Build the contender `name` over the codes of a specification, each time in a new process.

    UnavailableError says why it can't be built.
    """
    order = json.dumps({"name": name, "spec": asdict(spec)})
    runs = [_build_elsewhere(order) for _ in range(repeats)]

    def largest(key: str) -> int | None:
        values = [run[key] for run in runs]
        return None if None in values else max(values)

    seconds = [run["seconds"] for run in runs]
    return Build(
        searcher=runs[0]["searcher"],
        bits=runs[0]["bits"],
        n=runs[0]["n"],
        seconds=statistics.median(seconds),
        fewest=min(seconds),
        result=largest("result"),
        peak=largest("peak"),
        held=largest("held"),
    )


def _build_elsewhere(order: str) -> dict[str, Any]:
    # Not -m alone: that would look for packages in the current folder first.
    command = [sys.executable, "-P", "-m", "queryopt.bench.speed.search.build"]
    done = subprocess.run(command, input=order, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(f"its process failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    run: dict[str, Any] = json.loads(done.stdout)
    if "unavailable" in run:
        raise UnavailableError(run["unavailable"])
    return run


def _build_here(name: str, spec: DataSpec) -> dict[str, Any]:
    data = make_data(spec)
    # Once with next to nothing: imports are no part of a build.
    open_contender(name, data.codes[:1], data.bits, Task()).close()
    gc.collect()
    before, reset = _resident("VmRSS"), _reset_peak()
    contender = open_contender(name, data.codes, data.bits, Task())
    peak, after = _resident("VmHWM"), _resident("VmRSS")
    known = reset and before is not None
    return {
        "searcher": contender.label,
        "bits": data.bits,
        "n": len(data.codes),
        "seconds": contender.build_seconds,
        "result": contender.nbytes,
        "peak": peak - before if known else None,
        "held": after - before if known else None,
    }


def _reset_peak() -> bool:
    """Make the resident memory of now the highest so far (Linux); whether that was done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(key: str) -> Any:
    """Bytes of resident memory: VmRSS now, VmHWM at the most; None where this isn't Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _main() -> int:
    order = json.load(sys.stdin)
    try:
        result = _build_here(order["name"], DataSpec(**order["spec"]))
    except UnavailableError as error:
        result = {"unavailable": str(error)}
    except QueryOptError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
