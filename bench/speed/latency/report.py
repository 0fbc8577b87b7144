"""qo-bench latency as a whole: contenders, batches, peaks, and what is said of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from queryopt.bench.machine import Head, load_average, take_head
from queryopt.bench.speed.harness import Contender, Schedule, Timing, run_rounds
from queryopt.bench.speed.latency.contenders import ModelContender
from queryopt.bench.speed.latency.layers import LayerGroup, profile_layers
from queryopt.bench.speed.latency.peak import Machine, Meter, Peaks
from queryopt.bench.tables import Columns, rows_table
from queryopt.errors import ModelError
from queryopt.progress import Advance, no_advance
from queryopt.text import counted

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["LatencyReport", "measure_latency", "time_models"]

_FIRST_CALLS = 3
"""Calls of a contender before the first round: sessions allocate and choose in them."""


_COLUMNS: Columns = {
    "": "{name}",
    "runs on": "{runs_on}",
    " ": "{precision}",
    "batch": "{batch}",
    "p50 ms": lambda row: _milliseconds(row["p50"]),
    "p95": lambda row: _milliseconds(row["p95"]),
    "p99": lambda row: _milliseconds(row["p99"]),
    "first": lambda row: _milliseconds(row["first"]),
    "CPU ms": lambda row: _milliseconds(row["cpu"]),
    "images/s": "{images_per_second:,.1f}",
    "x": "{wall_ratio:.2f}",
    "x CPU": "{cpu_ratio:.2f}",
    "GFLOP/s": lambda row: "" if row["flops"] is None else f"{row['flops'] / 1e9:,.0f}",
    "of peak": "{peak_share:.0%}",
    "weights read": "{memory_share:.0%}",
}


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.2f}"


@dataclass(frozen=True)
class LatencyReport:
    """What was measured. reference: the contender whose ratios are 1. layers: by contender, at the first batch size."""

    head: Head
    rows: tuple[dict[str, Any], ...]
    reference: str
    threads: int
    rounds: int
    peaks: Peaks
    layers: dict[str, tuple[LayerGroup, ...]]

    def to_dict(self) -> dict[str, Any]:
        from queryopt.bench.speed.flops import PAPER_TABLE_4

        values = asdict(self)
        del values["head"]
        return self.head.to_dict() | values | {"paper_table_4": [asdict(row) for row in PAPER_TABLE_4]}

    def render(self) -> "Iterator[RenderableType]":
        from queryopt.bench.speed.flops import PAPER_TABLE_4

        peaks = ", ".join(f"{name} {value / 1e9:,.0f} GFLOP/s" for name, value in self.peaks.flops.items())
        yield (
            f"{self.head.text}\n{counted(self.threads, 'thread', 'threads')}, {self.rounds} rounds\n"
            f"peak of a large product: {peaks or 'not measured'}; reading memory: "
            f"{self.peaks.bytes_per_second / 1e9:.1f} GB/s"
        )
        yield self.table()
        yield ""
        paper = {
            "method": lambda row: row.name,
            "parameters": lambda row: f"{row.parameters / 1e6:.2f} M",
            "multiply-adds": lambda row: f"{row.inference / 1e9:.2f} G",
        }
        yield rows_table("The paper's Table 4, which has no times", PAPER_TABLE_4, paper)
        yield ""

    def table(self) -> "Table":
        """A row a contender and batch size."""
        title = f"One call; x is beside {self.reference}"
        return rows_table(title, self.rows, _COLUMNS, words=3, group=lambda row: row["batch"])


def measure_latency(
    contenders: Sequence[ModelContender],
    batches: Sequence[int],
    *,
    reference: int = 0,
    threads: int = 1,
    rounds: int = 10,
    seconds: float = 5.0,
    layers: bool = False,
    meter: Meter | None = None,
    progress: Advance = no_advance,
) -> LatencyReport:
    """Time contenders at each batch size.

    reference: number of the contender that ratios are taken with.
    threads: what the contenders were opened with.
    seconds: of a contender at a batch size, over all rounds.
    layers: profile those that ONNX Runtime runs on the CPU.
    meter: of what they run on, by default of the CPU.
    progress: called with 1 after each part of a round: len(contenders) * rounds * len(batches) times.
    """
    machine = Machine({contender.precision for contender in contenders}, threads) if meter is None else meter
    schedule = Schedule(rounds, seconds, _FIRST_CALLS, warm_up=1)
    before = load_average()
    by_batch = {batch: time_models(contenders, batch, schedule, machine.measure, progress) for batch in batches}
    head = take_head(before)
    peaks = machine.peaks()
    rows = [
        _row(contender, batch, timing, timings[reference], peaks)
        for batch, timings in by_batch.items()
        for contender, timing in zip(contenders, timings, strict=True)
    ]
    profiled = {
        contender.name: profile_layers(contender.graph, batches[0], threads)
        for contender in contenders
        if layers and contender.graph is not None and contender.runs_on.startswith("onnxruntime")
    }
    return LatencyReport(head, tuple(rows), contenders[reference].name, threads, rounds, peaks, profiled)


def time_models(
    contenders: Sequence[ModelContender],
    batch: int,
    schedule: Schedule,
    beside: Callable[[], object] | None = None,
    progress: Advance = no_advance,
) -> list[Timing]:
    """Time contenders on one batch of random pixels: as many calls in a turn as its seconds allow."""
    rng = np.random.default_rng(0)
    sizes = sorted({contender.image_size for contender in contenders})
    pixels = {size: rng.integers(0, 256, (batch, size, size, 3), np.uint8) for size in sizes}
    prepared = [contender.prepare(pixels[contender.image_size]) for contender in contenders]
    works = [
        Contender(contender.name, contender.run, [ready], calls=None)
        for contender, ready in zip(contenders, prepared, strict=True)
    ]
    return run_rounds(works, schedule, beside=beside, progress=progress)


def _row(contender: ModelContender, batch: int, timing: Timing, reference: Timing, peaks: Peaks) -> dict[str, Any]:
    """A contender at a batch size. Seconds are of a call with the whole batch; cpu: the median of CPU time."""
    p50, p95, p99 = timing.quantiles(50, 95, 99)
    multiply_adds, weights = _cost(contender.graph, batch)
    flops = None if multiply_adds is None else 2 * multiply_adds / p50
    peak = peaks.flops.get(contender.precision)
    ratio = timing.ratio(reference)
    return {
        "name": contender.name,
        "runs_on": contender.runs_on,
        "precision": contender.precision,
        "batch": batch,
        "p50": p50,
        "p95": p95,
        "p99": p99,
        "cpu": timing.median.cpu,
        # With this batch, and in no other figure; a model's file was tried with one picture before.
        "first": timing.first or 0.0,
        "calls": len(timing.calls),
        "images_per_second": batch / p50,
        "multiply_adds": multiply_adds,
        "flops": flops,
        "peak_share": None if flops is None or peak is None else flops / peak,  # of the peak of its precision
        # How much of p50 reading the weights once would take at the measured speed of the memory.
        "memory_share": None if weights is None else weights / peaks.bytes_per_second / p50,
        "wall_ratio": ratio.wall,
        "cpu_ratio": ratio.cpu,
    }


def _cost(graph: Path | None, batch: int) -> tuple[int | None, int | None]:
    """Multiply-adds of a batch and bytes of the file, whose bulk are the weights; None where they can't be told."""
    if graph is None:
        return None, None
    size = graph.stat().st_size
    try:
        import onnx

        from queryopt.export.count import count_multiply_adds

        return count_multiply_adds(onnx.load(graph), batch).total, size
    except (ImportError, ModelError):
        return None, size
