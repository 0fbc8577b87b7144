"""All that qo-bench gpu found: one JSON, and one table of what there are goals for."""

import datetime
import importlib.metadata
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.table import Table

import queryopt
from queryopt.bench.machine import describe_machine
from queryopt.bench.speed.gpu.section import Figure, Outcome
from queryopt.runtime.cuda.driver import Gpu

__all__ = ["FORMAT", "GpuBenchmark", "default_path", "state_of_gpu"]

FORMAT: Final = 1
"""Version of the JSON's layout."""

_PACKAGES: Final = (
    *(
        "numpy",
        "torch",
        "torchvision",
        "onnx",
        "onnxruntime",
        "onnxruntime-gpu",
        "openvino",
        "tensorrt",
        "tensorrt-rtx",
    ),
    *("cuda-core", "cuda-bindings", "pycuda", "nvidia-cuda-nvrtc", "faiss-cpu", "faiss-gpu-cu12"),
)


@dataclass(frozen=True)
class GpuBenchmark:
    """What was run on what. rehearsal: everything ran on the CPU, with small sizes: no figure is a GPU's. gpu: None in
    a rehearsal.
    """

    rehearsal: bool
    gpu: Gpu | None
    outcomes: tuple[Outcome, ...]
    seconds: float
    state: str | None = None
    """Of the GPU before the first section: see state_of_gpu."""
    machine: str = field(default_factory=describe_machine)
    version: str = queryopt.__version__
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    def figures(self) -> list[tuple[str, Figure]]:
        """Of all sections, each with its section's name."""
        return [
            (outcome.section, figure)
            for outcome in self.outcomes
            if outcome.report is not None
            for figure in outcome.report.figures()
        ]

    def problems(self, wanted: Sequence[str] = ()) -> list[str]:
        """What is wrong, in words. That something isn't installed is a problem only of a section in `wanted`."""
        problems = []
        for outcome in self.outcomes:
            if outcome.state == "failed" or (outcome.state == "missing" and outcome.section in wanted):
                problems.append(f"without the section {outcome.section}: {outcome.reason}")
            if outcome.report is not None:
                problems += outcome.report.problems()
        return problems

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable. Of a rehearsal, the figures are left out of the summary."""
        figures = [] if self.rehearsal else self.figures()
        return {
            "format": FORMAT,
            "rehearsal": self.rehearsal,
            "gpu": None if self.gpu is None else asdict(self.gpu),
            "gpu_state": self.state,
            "machine": self.machine,
            "version": self.version,
            "date": self.date,
            "packages": {name: _version(name) for name in _PACKAGES},
            "seconds": self.seconds,
            "figures": [
                {"section": section} | asdict(figure) | {"reached": figure.reached} for section, figure in figures
            ],
            "sections": {outcome.section: outcome.to_dict() for outcome in self.outcomes},
        }

    def table(self) -> Table:
        """The one table: figures with their goals, and what came of each section."""
        where = "REHEARSAL on the CPU, no figure of a GPU" if self.gpu is None else self.gpu.text
        title = f"{where}; {self.machine}; {self.seconds:.0f} s"
        table = Table(title=title, title_justify="left")
        table.add_column("section")
        table.add_column("what")
        for name in ("measured", "goal", "reached"):
            table.add_column(name, justify="right")
        for outcome in self.outcomes:
            state = outcome.state + (f": {outcome.reason}" if outcome.reason else "")
            table.add_row(outcome.section, state, f"{outcome.seconds:.0f} s", "", "", style="dim")
            for figure in [] if outcome.report is None else outcome.report.figures():
                goal = "" if figure.goal is None else f"{figure.goal:g}"
                reached = {None: "", True: "yes", False: "NO"}[figure.reached]
                if self.rehearsal:
                    reached = "" if figure.goal is None else "-"
                table.add_row("", figure.what, figure.value, goal, reached)
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
