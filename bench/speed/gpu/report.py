"""All that qo-bench gpu found: one JSON, and one table of what there are goals for."""

import importlib.metadata
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import queryopt
from queryopt.bench.machine import Head
from queryopt.bench.speed.gpu.section import Figure, Outcome
from queryopt.bench.tables import figures_table
from queryopt.runtime.cuda.driver import Gpu

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["FORMAT", "GpuBenchmark", "default_path", "state_of_gpu"]

FORMAT: Final = 1
"""Version of the JSON's layout."""

_PACKAGES: Final = (
    *("numpy", "torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt"),
    *("tensorrt-rtx", "cuda-core", "cuda-bindings", "pycuda", "nvidia-cuda-nvrtc", "faiss-cpu", "faiss-gpu-cu12"),
)


@dataclass(frozen=True)
class GpuBenchmark:
    """What was run on what.

    rehearsal: everything ran on the CPU, with small sizes: no figure is a GPU's.
    gpu: None in a rehearsal.
    state: of the GPU before the first section: see state_of_gpu.
    """

    head: Head
    rehearsal: bool
    gpu: Gpu | None
    outcomes: tuple[Outcome, ...]
    seconds: float
    state: str | None = None

    @property
    def figures(self) -> list[tuple[Outcome, Figure]]:
        """Of all sections."""
        reports = [(outcome, outcome.report) for outcome in self.outcomes]
        return [(outcome, figure) for outcome, report in reports if report is not None for figure in report.figures]

    def problems(self, wanted: Sequence[str] = ()) -> list[str]:
        """What is wrong, in words. That something isn't installed is a problem only of a section in `wanted`."""
        problems: list[str] = []
        for outcome in self.outcomes:
            if outcome.state == "failed" or (outcome.state == "missing" and outcome.section in wanted):
                problems.append(f"without the section {outcome.section}: {outcome.reason}")
            problems += [] if outcome.report is None else outcome.report.problems
        return problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable. Of a rehearsal, the figures are left out of the summary."""
        figures = [] if self.rehearsal else self.figures
        return self.head.to_dict() | {
            "format": FORMAT,
            "rehearsal": self.rehearsal,
            "gpu": None if self.gpu is None else asdict(self.gpu),
            "gpu_state": self.state,
            "version": queryopt.__version__,
            "packages": {name: _version(name) for name in _PACKAGES},
            "seconds": self.seconds,
            "figures": [{"section": outcome.section} | figure.to_dict() for outcome, figure in figures],
            "sections": {outcome.section: outcome.to_dict() for outcome in self.outcomes},
        }

    def render(self) -> "Iterator[RenderableType]":
        for outcome in self.outcomes:
            for table in () if outcome.report is None else outcome.report.all_tables():
                yield table
                yield ""
        yield self.table()

    def table(self) -> "Table":
        """The one table: figures with their goals, and what came of each section."""
        where = "REHEARSAL on the CPU, no figure of a GPU" if self.gpu is None else self.gpu.text
        title = f"{where}; {self.head.machine}; {self.seconds:.0f} s"
        table = figures_table(title, "section", "what", "measured", "goal", "reached", words=2)
        for outcome in self.outcomes:
            state = outcome.state + (f": {outcome.reason}" if outcome.reason else "")
            table.add_row(outcome.section, state, f"{outcome.seconds:.0f} s", "", "", style="dim")
            for figure in () if outcome.report is None else outcome.report.figures:
                goal = "" if figure.goal is None else f"{figure.goal:g}"
                reached = {None: "", True: "yes", False: "NO"}[figure.reached]
                table.add_row("", figure.what, figure.value, goal, "-" if self.rehearsal and goal else reached)
        return table


def state_of_gpu() -> str | None:
    """What nvidia-smi says of driver, clocks and power, in one line; None where it isn't there."""
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu,memory.used"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv", "--id=0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    names, _, values = said.strip().partition("\n")
    return "; ".join(
        f"{name.strip()}: {value.strip()}" for name, value in zip(names.split(","), values.split(","), strict=False)
    )


def default_path(gpu: Gpu) -> Path:
    """Where the JSON of a GPU goes: bench/results/, named after it."""
    name = "".join(c if c.isalnum() else "-" for c in gpu.name.lower()).strip("-") or "unknown"
    return Path("bench", "results", f"gpu-{name}.json")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
