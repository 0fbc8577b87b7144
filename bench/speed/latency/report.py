"""qo-bench latency as a whole: contenders, batches, peaks, and what is said of them."""

import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from queryopt.bench.machine import describe_machine, load_average
from queryopt.bench.speed.latency.contenders import Contender
from queryopt.bench.speed.latency.layers import LayerGroup, profile_layers
from queryopt.bench.speed.latency.measure import Timing, time_contenders
from queryopt.bench.speed.latency.peak import Machine, Meter, Peaks

__all__ = ["LatencyReport", "Row", "measure_latency"]


@dataclass(frozen=True)
class Row:
    """A contender at a batch size. Seconds are of a call with the whole batch.

    runs_on: what ran it. p50, p95, p99, cpu (median CPU time), calls: how it was timed. first: the first call with this
    batch, which is in none of these (a model's file was tried with one picture before). images_per_second: from p50.
    multiply_adds: of a batch, None where there is no graph to count. flops: operations a second, two a multiply-add.
    peak_share: of the peak of its precision; memory_share: how much of p50 reading the graph's weights once would take
    at the measured speed of the memory. wall_ratio, cpu_ratio: how many times as fast as the reference, by p50 and by
    median CPU time.
    """

    name: str
    runs_on: str
    precision: str
    batch: int
    p50: float
    p95: float
    p99: float
    cpu: float
    first: float
    calls: int
    images_per_second: float
    multiply_adds: int | None
    flops: float | None
    peak_share: float | None
    memory_share: float | None
    wall_ratio: float
    cpu_ratio: float


@dataclass(frozen=True)
class LatencyReport:
    """What was measured. reference: the contender whose ratios are 1. layers: by contender, at the first batch size."""

    rows: tuple[Row, ...]
    reference: str
    threads: int
    rounds: int
    peaks: Peaks
    layers: dict[str, tuple[LayerGroup, ...]]
    load: tuple[float, float] | None
    machine: str
    versions: dict[str, str]
    date: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        from queryopt.bench.speed.flops import PAPER_TABLE_4

        return {
            **asdict(self),
            "layers": {name: [asdict(group) for group in groups] for name, groups in self.layers.items()},
            "paper_table_4": [asdict(row) for row in PAPER_TABLE_4],
        }


def measure_latency(
    contenders: Sequence[Contender],
    batches: Sequence[int],
    *,
    reference: int = 0,
    threads: int = 1,
    rounds: int = 10,
    seconds: float = 5.0,
    layers: bool = False,
    meter: Meter | None = None,
    progress: Callable[[int], object] | None = None,
) -> LatencyReport:
    """Time contenders at each batch size.

    reference: number of the contender that ratios are taken with. threads: what the contenders were opened with.
    seconds: of a contender at a batch size, over all rounds. layers: profile those that ONNX Runtime runs on the CPU.
    meter: of what they run on, by default of the CPU. progress: called with 1 after each part of a round:
    len(contenders) * rounds * len(batches) times.
    """
    machine = Machine({contender.precision for contender in contenders}, threads) if meter is None else meter
    before = load_average()
    timed: list[tuple[int, list[Timing]]] = []
    for batch in batches:
        timings = time_contenders(
            contenders, batch, rounds=rounds, seconds=seconds, beside=machine.measure, progress=progress
        )
        timed.append((batch, timings))
    after = load_average()
    peaks = machine.peaks()
    rows = [
        _row(contender, batch, timing, timings[reference], peaks)
        for batch, timings in timed
        for contender, timing in zip(contenders, timings, strict=True)
    ]
    profiled = {
        contender.name: profile_layers(contender.graph, batches[0], threads)
        for contender in contenders
        if layers and contender.graph is not None and contender.runs_on.startswith("onnxruntime")
    }
    return LatencyReport(
        rows=tuple(rows),
        reference=contenders[reference].name,
        threads=threads,
        rounds=rounds,
        peaks=peaks,
        layers=profiled,
        load=None if before is None or after is None else (before, after),
        machine=describe_machine(),
        versions=_versions(),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
    )


def _row(contender: Contender, batch: int, timing: Timing, reference: Timing, peaks: Peaks) -> Row:
    p50 = timing.percentile(50)
    multiply_adds, weights = _cost(contender.graph, batch)
    flops = None if multiply_adds is None else 2 * multiply_adds / p50
    peak = peaks.flops.get(contender.precision)
    return Row(
        name=contender.name,
        runs_on=contender.runs_on,
        precision=contender.precision,
        batch=batch,
        p50=p50,
        p95=timing.percentile(95),
        p99=timing.percentile(99),
        cpu=timing.cpu_median,
        first=timing.first,
        calls=len(timing.wall),
        images_per_second=batch / p50,
        multiply_adds=multiply_adds,
        flops=flops,
        peak_share=None if flops is None or peak is None else flops / peak,
        memory_share=None if weights is None else weights / peaks.bytes_per_second / p50,
        wall_ratio=reference.percentile(50) / p50,
        cpu_ratio=reference.cpu_median / timing.cpu_median,
    )


def _cost(graph: Path | None, batch: int) -> tuple[int | None, int | None]:
    """Multiply-adds of a batch and bytes of the file, whose bulk are the weights; None where they can't be told."""
    if graph is None:
        return None, None
    try:
        import onnx

        from queryopt.errors import ModelError
        from queryopt.export.count import count_multiply_adds
    except ImportError:
        return None, graph.stat().st_size
    try:
        return count_multiply_adds(onnx.load(graph), batch).total, graph.stat().st_size
    except ModelError:
        return None, graph.stat().st_size


def _versions() -> dict[str, str]:
    """Of what is imported by now, and so took part."""
    names = ("onnxruntime", "openvino", "torch", "tensorrt", "tensorrt_rtx", "numpy")
    versions = {name: str(sys.modules[name].__version__) for name in names if name in sys.modules}
    return {"python": platform.python_version(), **versions}
