"""What building a searcher costs, measured in a fresh process: seconds, memory at the worst moment, memory held.

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

from queryopt.bench.speed.search.data import DataSpec, make_data
from queryopt.bench.speed.search.peers import Task, UnavailableError, open_searcher
from queryopt.errors import QueryOptError

__all__ = ["Build", "measure_build"]


@dataclass(frozen=True)
class Build:
    """seconds: median of the processes, fewest: the fastest of them. result: bytes that the searcher says it holds.
    peak, held: resident memory at the worst moment of the build, and after it, less that before it, in bytes (None
    where the system doesn't tell); the largest of the processes. The codes themselves were there before.
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
    """Build the searcher `name` over the codes of a specification, each time in a new process.

    UnavailableError says why it can't be built.
    """
    order = json.dumps({"name": name, "spec": asdict(spec)})
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-m", "queryopt.bench.speed.search.build"], input=order, capture_output=True, text=True
        )
        if done.returncode:
            raise UnavailableError(f"its process failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
        runs.append(json.loads(done.stdout))
        if "unavailable" in runs[-1]:
            raise UnavailableError(runs[-1]["unavailable"])

    def largest(key: str) -> int | None:
        values = [run[key] for run in runs]
        return None if None in values else max(values)

    seconds = [run["seconds"] for run in runs]
    return Build(
        searcher=runs[0]["label"],
        bits=runs[0]["bits"],
        n=runs[0]["n"],
        seconds=statistics.median(seconds),
        fewest=min(seconds),
        result=largest("result"),
        peak=largest("peak"),
        held=largest("held"),
    )


def _build_here(name: str, spec: DataSpec) -> dict[str, Any]:
    data = make_data(spec)
    codes = data.codes
    # Once with next to nothing: imports are no part of a build.
    open_searcher(name, codes[:1], data.bits, Task()).close()
    gc.collect()
    before, reset = _resident("VmRSS"), _reset_peak()
    searcher = open_searcher(name, codes, data.bits, Task())
    peak, after = _resident("VmHWM"), _resident("VmRSS")
    known = None not in (before, peak, after) and reset
    return {
        "label": searcher.label,
        "bits": data.bits,
        "n": len(codes),
        "seconds": searcher.build_seconds,
        "result": searcher.nbytes,
        "peak": peak - before if known else None,  # type: ignore[operator]
        "held": after - before if known else None,  # type: ignore[operator]
    }


def _reset_peak() -> bool:
    """Make the resident memory of now the highest so far (Linux); whether that was done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(key: str) -> int | None:
    """Bytes of resident memory: VmRSS now, VmHWM at the most (Linux)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


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
