"""The section `model`: the whole network in everything that runs it on the GPU, beside eager PyTorch and the peak."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from rich.table import Table

from queryopt.bench.speed.gpu.engine import open_engine
from queryopt.bench.speed.gpu.models import BITS, need_model
from queryopt.bench.speed.gpu.section import Figure, GpuOptions, Turn, left_out_tables, reason_of
from queryopt.bench.speed.latency.contenders import ModelContender, Pixels
from queryopt.bench.speed.latency.report import LatencyReport, Row, measure_latency
from queryopt.errors import MissingError, QueryOptError
from queryopt.runtime.backends.base import PipelinedBackend
from queryopt.text import install_extra

__all__ = ["ENGINE", "ModelReport", "measure_model"]

ENGINE = "folded, engine, from the host"
_SECONDS = (0.2, 3.0)
"""Of a contender at a batch size, at least and at most."""
_REHEARSED = 0.02
_MEASURING = 0.6
"""Share of the time that is measured: the rest goes for first calls, in which libraries choose and allocate."""

_GOALS = {"onnxruntime": (2.5, 1.2), ENGINE: (8.0, 3.0)}
_PEAK_GOAL = 0.35


@dataclass(frozen=True)
class ModelReport:
    """What was measured. latency: see there; its peaks are the GPU's. torch: PyTorch's settings. left_out: who did not
    take part, at which batch size (None: at all), and why.
    """

    latency: LatencyReport
    torch: dict[str, Any]
    eager: tuple[str, str]
    """Names of the rows that goals are set against: eager in fp32, and in fp16."""
    left_out: tuple[tuple[str, int | None, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        left_out = [{"name": name, "batch": batch, "reason": reason} for name, batch, reason in self.left_out]
        return self.latency.to_dict() | {"torch": self.torch, "left_out": left_out}

    def tables(self) -> list[Table]:
        """All rows, what the GPU can do, and who did not take part."""
        tables = [self.latency.table()] if self.latency.rows else []
        peaks = self.latency.peaks
        table = Table(
            box=None, header_style="dim", title="The GPU's peaks and PyTorch's settings", title_justify="left"
        )
        table.add_column("")
        table.add_column("", justify="right")
        for name, flops in peaks.flops.items():
            table.add_row(f"large product, {name}", f"{flops / 1e12:,.1f} TFLOP/s")
        table.add_row("copy in memory, read and written", f"{peaks.bytes_per_second / 1e9:,.0f} GB/s")
        for setting, value in self.torch.items():
            table.add_row(setting, str(value))
        tables.append(table)
        out = [(name, "" if batch is None else f"batch {batch:,}", reason) for name, batch, reason in self.left_out]
        return [*tables, *left_out_tables(out)]

    def figures(self) -> list[Figure]:
        """At the largest batch: how many times as fast as eager PyTorch each is, and its share of the fp16 peak."""
        if not self.latency.rows:
            return []
        batch = max(row.batch for row in self.latency.rows)
        rows = [row for row in self.latency.rows if row.batch == batch]
        eager = {row.name: row for row in rows}
        figures = []
        for row in rows:
            if not row.name.startswith("folded") or row.precision == "fp32":
                continue
            who = f"{row.name}, {row.precision}, {row.runs_on.partition(' ')[0]}, batch {batch}"
            goals = next((goal for kind, goal in _GOALS.items() if kind in (row.name, _library(row))), (None, None))
            figures.append(Figure(f"images/s, {who}", f"{row.images_per_second:,.0f}", row.images_per_second))
            for name, goal in zip(self.eager, goals, strict=True):
                if name in eager:
                    ratio = eager[name].p50 / row.p50
                    figures.append(Figure(f"{who}: times as fast as {name}", f"{ratio:.2f}", ratio, goal))
            if row.peak_share is not None:
                goal = _PEAK_GOAL if row.name == ENGINE else None
                figures.append(
                    Figure(f"{who}: share of the {row.precision} peak", f"{row.peak_share:.1%}", row.peak_share, goal)
                )
        return figures

    def problems(self) -> list[str]:
        """None: what didn't take part is named in the table."""
        return []


class EngineContender:
    """An engine, on pixels that lie in the host's memory: their copy is in its time."""

    name = ENGINE

    def __init__(self, backend: PipelinedBackend, graph: Any) -> None:
        self._backend = backend
        self.runs_on = backend.name
        self.precision = backend.card.precision
        self.image_size = backend.card.preprocessing.image_size
        self.graph = graph

    def prepare(self, pixels: Pixels) -> Pixels:
        """The pixels themselves."""
        self._backend.check_batch(len(pixels))
        return np.ascontiguousarray(pixels)

    def run(self, batch: Pixels) -> object:
        """Pixels to codes and logits."""
        return self._backend.run(batch)

    def close(self) -> None:
        """Free the engine."""
        self._backend.close()


def measure_model(options: GpuOptions, turn: Turn) -> ModelReport:
    """Time the network at each batch size, the largest first. MissingError without PyTorch, or a GPU that it sees."""
    try:
        import torch

        from queryopt.bench.speed.gpu.peak import GpuMachine
        from queryopt.bench.speed.gpu.torch_network import EAGER, settings_of_torch
    except ImportError as error:
        raise MissingError(f"PyTorch ({error}): {install_extra('train')}") from None
    if options.device == "cuda" and not torch.cuda.is_available():
        raise MissingError(f"PyTorch {torch.__version__} sees no GPU")
    # What is measured comes before how it is chosen: for every peer, too, the fastest that cuDNN finds for a shape.
    torch.backends.cudnn.benchmark = True
    settings = settings_of_torch()  # before contenders change them for themselves, as their names say
    left_out: list[tuple[str, int | None, str]] = []
    with contextlib.ExitStack() as stack:
        contenders = []
        for name, opening in _contenders(options):
            try:
                contenders.append(opening())
                stack.callback(contenders[-1].close)
            except (QueryOptError, RuntimeError, ImportError, ValueError) as error:
                left_out.append((name, None, reason_of(error)))
                turn.log(f"without {name}: {left_out[-1][2]}")
        meter = GpuMachine(options.device)
        report = None
        for number, batch in enumerate(sorted(options.model_batches, reverse=True)):
            if number and not turn.has(2.0 * len(contenders), f"batch {batch}"):
                continue
            taking = list(_taking(contenders, batch, left_out, turn.log))
            if not taking:
                continue
            share = turn.left / (len(options.model_batches) - number) * _MEASURING / len(taking)
            seconds = _REHEARSED if options.rehearse else min(max(share, _SECONDS[0]), _SECONDS[1])
            try:
                now = measure_latency(taking, [batch], rounds=options.rounds, seconds=seconds, meter=meter)
            except RuntimeError as error:
                left_out.append(("all", batch, reason_of(error)))
                continue
            rows = now.rows if report is None else (*now.rows, *report.latency.rows)
            report = ModelReport(
                replace(now, rows=_in_order(rows)), settings, (EAGER[0].name, EAGER[2].name), tuple(left_out)
            )
            best = max(row.images_per_second for row in now.rows)
            turn.log(f"batch {batch}: up to {best:,.0f} images/s")
            turn.keep(report)
    if report is None:
        reasons = "; ".join(f"{name}: {reason}" for name, _, reason in left_out)
        raise QueryOptError(f"nothing could run the network: {reasons}")
    return replace(report, left_out=tuple(left_out))


def _contenders(options: GpuOptions) -> Iterator[tuple[str, Callable[[], ModelContender]]]:
    """Who is measured, by name, and how each is opened."""
    from queryopt.bench.speed.gpu.network import load_subject
    from queryopt.bench.speed.gpu.provider import BoundContender
    from queryopt.bench.speed.gpu.torch_network import EAGER, EagerContender, FoldedTorchContender

    checkpoint, _ = load_subject(options.checkpoint, options.backbone, BITS)
    device = options.device
    for way in EAGER:
        yield way.name, partial(EagerContender, checkpoint, way, device)
    fp16 = options.model("fp16")
    graph = fp16 if fp16.is_file() else None
    yield "folded, PyTorch", partial(FoldedTorchContender, checkpoint, device, graph)

    def bound(precision: str, channels_last: bool) -> ModelContender:
        need_model(options, precision)
        return BoundContender(options.model(precision), device, channels_last)

    for precision, channels_last in (("fp32", False), ("fp16", False), ("fp16", True)):
        name = f"onnxruntime, {precision}" + (", NHWC" if channels_last else "")
        yield name, partial(bound, precision, channels_last)

    def engine() -> ModelContender:
        plan = options.engine or options.model("fp16", ".plan")
        if not options.rehearse and not plan.is_file():
            raise MissingError("the section engine built none")
        return EngineContender(open_engine(plan, options), fp16 if options.engine is None else None)

    yield ENGINE, engine


def _taking(
    contenders: Sequence[ModelContender],
    batch: int,
    left_out: list[tuple[str, int | None, str]],
    log: Callable[[str], object],
) -> Iterator[ModelContender]:
    """Those that can take batches of this size: memory may not suffice."""
    for contender in contenders:
        size = contender.image_size
        try:
            contender.run(contender.prepare(np.zeros((batch, size, size, 3), np.uint8)))
        except (QueryOptError, RuntimeError) as error:
            left_out.append((f"{contender.name} ({contender.runs_on})", batch, reason_of(error)))
            log(f"batch {batch} without {contender.name}: {left_out[-1][2]}")
        else:
            yield contender


def _in_order(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: row.batch))


def _library(row: Row) -> str:
    """What runs a row: the name before the version; NHWC alone has ONNX Runtime's goals."""
    return row.runs_on.partition(" ")[0] if "NHWC" in row.name else ""
