"""The section `model`: the whole network in everything that runs it on the GPU, beside eager PyTorch and the peak."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.table import Table

from queryopt.bench.speed.gpu.engine import open_built_engine
from queryopt.bench.speed.gpu.models import load_subject
from queryopt.bench.speed.gpu.section import (
    Figure,
    GpuOptions,
    SectionReport,
    Turn,
    reason_of,
    training_packages,
)
from queryopt.bench.speed.latency.contenders import ModelContender, Pixels
from queryopt.bench.speed.latency.peak import Peaks
from queryopt.bench.speed.latency.report import LatencyReport, measure_latency
from queryopt.bench.tables import figures_table
from queryopt.errors import MissingError, QueryOptError
from queryopt.runtime.backends.base import PipelinedBackend
from queryopt.runtime.backends.onnxruntime import OnnxRuntimeBackend

__all__ = ["ENGINE", "measure_model"]

_T = TypeVar("_T")
ENGINE = "folded, engine, from the host"
_EAGER = ("PyTorch eager fp32, TF32 in convolutions", "PyTorch eager fp16")
"""Rows that goals are set against."""
_SECONDS = (0.2, 3.0)
"""Of a contender at a batch size, at least and at most."""
_REHEARSED = 0.02
_MEASURING = 0.6
"""Share of the time that is measured: the rest goes for first calls, in which libraries choose and allocate."""

_PEAK_GOAL = 0.35

_LeftOut = tuple[str, int | None, str]
"""Who did not take part, at which batch size (None: at all), and why."""


class EngineContender:
    """An engine, on pixels that lie in the host's memory: their copy is in its time."""

    name = ENGINE

    def __init__(self, backend: PipelinedBackend, graph: Path | None) -> None:
        self._backend = backend
        self.runs_on = backend.name
        self.precision = backend.card.precision
        self.image_size = backend.card.preprocessing.image_size
        self.graph = graph
        self.run = backend.run
        self.close = backend.close

    def prepare(self, pixels: Pixels) -> Pixels:
        self._backend.check_batch(len(pixels))
        return np.ascontiguousarray(pixels)


class BoundContender:
    """A model.onnx in ONNX Runtime's CUDA provider, with IO binding: pixels, codes and logits stay on the device.

    device: cuda, or cpu for rehearsals. channels_last: the layout of the convolutions ("NHWC").
    """

    def __init__(self, path: Path, device: str, channels_last: bool) -> None:
        backend = OnnxRuntimeBackend(path, cuda=device == "cuda", channels_last=channels_last)
        self._session, self._device = backend.session, device
        self.name = "folded" + (", NHWC" if channels_last else "")
        self.runs_on = backend.name
        self.precision = backend.card.precision
        self.image_size = backend.card.preprocessing.image_size
        self.graph = path
        self.close = backend.close

    def prepare(self, pixels: Pixels) -> Any:
        """The session's binding of these pixels."""
        import onnxruntime

        binding = self._session.io_binding()
        images = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(pixels), self._device, 0)
        binding.bind_ortvalue_input("images", images)
        for name in ("codes", "logits"):
            binding.bind_output(name, self._device, 0)
        return binding

    def run(self, batch: Any) -> object:
        self._session.run_with_iobinding(batch)
        batch.synchronize_outputs()
        return batch


def measure_model(options: GpuOptions, turn: Turn) -> SectionReport:
    """Time the network at each batch size, the largest first. MissingError without PyTorch, or a GPU that it sees."""
    with training_packages():
        import torch

        from queryopt.bench.speed.gpu.peak import GpuMachine
        from queryopt.bench.speed.gpu.pytorch import settings_of_torch
    if options.device == "cuda" and not torch.cuda.is_available():
        raise MissingError(f"PyTorch {torch.__version__} sees no GPU")
    # What is measured comes before how it is chosen: the fastest that cuDNN finds for a shape.
    torch.backends.cudnn.benchmark = True
    settings = settings_of_torch()  # before contenders change them for themselves, as their names say
    left_out: list[_LeftOut] = []
    latency: LatencyReport | None = None

    def attempt(name: str, batch: int | None, work: Callable[[], _T]) -> _T | None:
        what = name if batch is None else f"{name}, batch {batch}"
        return turn.attempt(what, work, lambda error: left_out.append((name, batch, reason_of(error))))

    with contextlib.ExitStack() as stack:
        contenders = [opened for name, opening in _contenders(options) if (opened := attempt(name, None, opening))]
        for contender in contenders:
            stack.callback(contender.close)
        meter = GpuMachine(options.device)
        for number, batch in enumerate(sorted(options.model_batches, reverse=True)):
            if number and not turn.has(2.0 * len(contenders), f"batch {batch}"):
                continue
            taking = [
                contender
                for contender in contenders
                # Memory may not suffice.
                if attempt(f"{contender.name} ({contender.runs_on})", batch, partial(_try, contender, batch))
            ]
            share = turn.left / (len(options.model_batches) - number) * _MEASURING / max(1, len(taking))
            seconds = _REHEARSED if options.rehearse else min(max(share, _SECONDS[0]), _SECONDS[1])
            measure = partial(measure_latency, taking, [batch], rounds=options.rounds, seconds=seconds, meter=meter)
            now = attempt("all", batch, measure) if taking else None
            if now is not None:
                turn.log(f"batch {batch}: up to {max(row['images_per_second'] for row in now.rows):,.0f} images/s")
                rows = now.rows if latency is None else (*now.rows, *latency.rows)
                latency = replace(now, rows=tuple(sorted(rows, key=lambda row: row["batch"])))
                turn.keep(_report(latency, settings, left_out))
    if latency is None:
        raise QueryOptError(
            f"nothing could run the network: {'; '.join(f'{name}: {reason}' for name, _, reason in left_out)}"
        )
    return _report(latency, settings, left_out)


def _contenders(options: GpuOptions) -> Iterator[tuple[str, Callable[[], ModelContender]]]:
    """Who is measured, by name, and how each is opened."""
    from queryopt.bench.speed.gpu.pytorch import EAGER, EagerContender, FoldedTorchContender

    checkpoint = load_subject(options)
    device = options.device
    for way in EAGER:
        yield way.name, partial(EagerContender, checkpoint, way, device)
    fp16 = options.model("fp16")
    graph = fp16 if fp16.is_file() else None
    yield "folded, PyTorch", partial(FoldedTorchContender, checkpoint, device, graph)

    def bound(precision: str, channels_last: bool) -> ModelContender:
        return BoundContender(options.need_model(precision), device, channels_last)

    for precision, channels_last in (("fp32", False), ("fp16", False), ("fp16", True)):
        name = f"onnxruntime, {precision}" + (", NHWC" if channels_last else "")
        yield name, partial(bound, precision, channels_last)
    yield ENGINE, lambda: EngineContender(open_built_engine(options), fp16 if options.engine is None else None)


def _try(contender: ModelContender, batch: int) -> bool:
    size = contender.image_size
    contender.run(contender.prepare(np.zeros((batch, size, size, 3), np.uint8)))
    return True


def _report(latency: LatencyReport, settings: dict[str, Any], left_out: list[_LeftOut]) -> SectionReport:
    """All rows, what the GPU can do, and who did not take part."""
    names = [{"name": name, "batch": batch, "reason": reason} for name, batch, reason in left_out]
    return SectionReport(
        latency.to_dict() | {"torch": settings, "left_out": names},
        [latency.table(), _peaks_table(latency.peaks, settings)],
        list(_figures(latency)),
        left_out=[(name, "" if batch is None else f"batch {batch:,}", reason) for name, batch, reason in left_out],
    )


def _peaks_table(peaks: Peaks, settings: dict[str, Any]) -> Table:
    table = figures_table("The GPU's peaks and PyTorch's settings", "", "", plain=True)
    for name, flops in peaks.flops.items():
        table.add_row(f"large product, {name}", f"{flops / 1e12:,.1f} TFLOP/s")
    table.add_row("copy in memory, read and written", f"{peaks.bytes_per_second / 1e9:,.0f} GB/s")
    for setting, value in settings.items():
        table.add_row(setting, str(value))
    return table


def _figures(latency: LatencyReport) -> Iterator[Figure]:
    """At the largest batch: how many times as fast as eager PyTorch each is, and its share of the fp16 peak."""
    batch = max(row["batch"] for row in latency.rows)
    rows = {row["name"]: row for row in latency.rows if row["batch"] == batch}
    for row in (row for row in latency.rows if row["batch"] == batch):
        if not row["name"].startswith("folded") or row["precision"] == "fp32":
            continue
        who = f"{row['name']}, {row['precision']}, {row['runs_on'].partition(' ')[0]}, batch {batch}"
        yield Figure(f"images/s, {who}", f"{row['images_per_second']:,.0f}", row["images_per_second"])
        for name, goal in zip(_EAGER, _goals(row), strict=True):
            if name in rows:
                ratio = rows[name]["p50"] / row["p50"]
                yield Figure(f"{who}: times as fast as {name}", f"{ratio:.2f}", ratio, goal)
        if row["peak_share"] is not None:
            what = f"{who}: share of the {row['precision']} peak"
            goal = _PEAK_GOAL if row["name"] == ENGINE else None
            yield Figure(what, f"{row['peak_share']:.1%}", row["peak_share"], goal)


def _goals(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """Times as fast as each of _EAGER."""
    if row["name"] == ENGINE:
        return 8.0, 3.0
    if row["runs_on"].startswith("onnxruntime") and "NHWC" in row["name"]:
        return 2.5, 1.2
    return None, None
