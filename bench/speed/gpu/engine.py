"""The section `engine`: a model on a GPU, fed with pixels: images a second, alone and with batches on their way while
others are computed.
"""

import contextlib
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.gpu.section import Figure, GpuOptions, SectionReport, Turn
from queryopt.bench.speed.harness import Contender, Schedule, run_rounds
from queryopt.bench.tables import figures_table
from queryopt.errors import MismatchError, MissingError, UsageError
from queryopt.runtime.backends import BackendOutput, open_backend
from queryopt.runtime.backends.base import PipelinedBackend, in_flight
from queryopt.runtime.tensorrt.profile import DEFAULT_PROFILE, Profile

__all__ = ["EngineRow", "build_here", "measure_batches", "measure_engine", "open_built_engine", "open_engine"]

_BATCHES = 20
"""Batches of a timed pass."""


@dataclass(frozen=True)
class EngineRow:
    """One batch size.

    alone: seconds of a batch that is waited for, from pixels on the host to codes on the host; the median of each pass.
    overlapped: seconds a batch, with the backend's `depth` of them on their way, one pass a round, in turn.
    same: whether both gave the same codes.
    """

    batch: int
    alone: tuple[float, ...]
    overlapped: tuple[float, ...]
    same: bool

    @property
    def images_per_second(self) -> float:
        """With batches on their way: from the median of the rounds."""
        return self.batch / statistics.median(self.overlapped)

    @property
    def latency(self) -> float:
        """Seconds of a batch alone, the median of the rounds."""
        return statistics.median(self.alone)

    @property
    def gain(self) -> float:
        """How many times as many images a second the overlap gives: the median of the rounds' own ratios."""
        return statistics.median(a / b for a, b in zip(self.alone, self.overlapped, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """All fields and figures, JSON-serialisable."""
        figures = {"images_per_second": self.images_per_second, "latency": self.latency, "gain": self.gain}
        return asdict(self) | figures


def open_engine(plan: Path, options: GpuOptions) -> PipelinedBackend:
    """A model.plan on the GPU; in a rehearsal the model.onnx of that name, as if on one.

    Raises as TensorRtBackend, or as open_backend for a model.onnx.
    """
    if options.rehearse:
        return _RehearsedEngine(plan.with_suffix(".onnx"))
    from queryopt.runtime.backends.tensorrt import TensorRtBackend

    return TensorRtBackend(plan, options.runtime or "auto")


@dataclass(frozen=True)
class _Done:
    output: BackendOutput

    def result(self) -> BackendOutput:
        return self.output


class _RehearsedEngine:
    """A model.onnx in ONNX Runtime in its engine's place: a batch is done before it is waited for."""

    depth = 2

    def __init__(self, path: Path) -> None:
        self._model = open_backend(path, "onnxruntime", 1)
        self.card = self._model.card
        self.name = f"{self._model.name}, as if on a GPU"
        self.close = self._model.close

    def check_batch(self, batch: int) -> None:
        if batch > DEFAULT_PROFILE.largest:
            raise MismatchError(f"batches of {batch:,}, and the profile goes to {DEFAULT_PROFILE.largest:,}")

    def start(self, images: npt.NDArray[np.uint8]) -> _Done:
        self.check_batch(len(images))
        return _Done(self._model.run(images))

    def run(self, images: npt.NDArray[np.uint8]) -> BackendOutput:
        return self.start(images).result()


def open_built_engine(options: GpuOptions) -> PipelinedBackend:
    """The engine of --engine, or that which the section `engine` built; MissingError where it built none."""
    plan = options.engine or options.model("fp16", ".plan")
    if not options.rehearse and not plan.is_file():
        raise MissingError("the section engine built no engine")
    return open_engine(plan, options)


def build_here(onnx: Path, plan: Path, profile: Profile) -> float:
    """Build an engine for this GPU; returns the seconds. MissingError where no TensorRT here builds one for it."""
    from queryopt.runtime.cuda.driver import find_gpu
    from queryopt.runtime.tensorrt.build import build_engine
    from queryopt.runtime.tensorrt.flavours import load_flavour

    package = load_flavour()
    major, minor = find_gpu().capability
    targets = (f"sm_{major}{minor}",) if package.portable else ()
    try:
        return build_engine(onnx, plan, profile=profile, targets=targets, flavour=package.name).seconds
    except UsageError as error:  # TensorRT-RTX doesn't know every GPU
        raise MissingError(str(error)) from None


def measure_engine(options: GpuOptions, turn: Turn) -> SectionReport:
    """Measure the engine of --engine, or one of the section `models`' model, which is built here.

    MissingError where no TensorRT here builds one.
    """
    if options.engine is None:
        model = options.need_model("fp16")
        if not options.rehearse:  # which runs the model itself
            largest = max(*options.engine_batches, *options.model_batches)
            seconds = build_here(model, options.model("fp16", ".plan"), Profile(1, largest, largest))
            turn.log(f"built in {seconds:.1f} s")
    with contextlib.closing(open_built_engine(options)) as backend:
        return measure_batches(backend, options.engine_batches, rounds=options.rounds, turn=turn)


def measure_batches(
    backend: PipelinedBackend, batches: Sequence[int], *, rounds: int = 7, turn: Turn | None = None
) -> SectionReport:
    """Run random pixels through a backend, in batches of each size, the largest first.

    rounds: timed passes of 20 batches each way, after one that isn't. MismatchError for a batch outside of the profile.
    """
    turn = turn or Turn()
    for batch in batches:
        backend.check_batch(batch)

    def measure(batch: int) -> EngineRow:
        row = _measure(backend, batch, rounds)
        turn.log(f"batches of {batch}: {row.images_per_second:,.0f} images/s, {row.latency * 1e3:.2f} ms alone")
        return row

    jobs = [(f"batch {batch}", partial(measure, batch)) for batch in sorted(batches, reverse=True)]
    return turn.attempt_all(jobs, partial(_report, backend))


def _measure(backend: PipelinedBackend, batch: int, rounds: int) -> EngineRow:
    size = backend.card.preprocessing.image_size
    pixels = np.random.default_rng(batch).integers(0, 256, (2, batch, size, size, 3), np.uint8)
    codes: tuple[set[bytes], set[bytes]] = (set(), set())  # of each half of the pixels, however they were run

    def keep(number: int, output: BackendOutput) -> None:
        codes[number % 2].add(output.codes.tobytes())

    def keep_all(_: int, outputs: list[BackendOutput]) -> None:
        for number, output in enumerate(outputs):
            keep(number, output)

    feed = [pixels[number % 2] for number in range(_BATCHES)]
    alone = Contender("alone", backend.run, feed, calls=_BATCHES, keep=keep)
    overlapped = Contender("overlapped", lambda _: list(in_flight(backend, feed)), keep=keep_all)
    one, many = run_rounds([alone, overlapped], Schedule(rounds + 1))
    return EngineRow(
        batch,
        tuple(median.wall for median in one.rounds[1:]),
        tuple(median.wall / _BATCHES for median in many.rounds[1:]),
        all(len(different) == 1 for different in codes),
    )


def _report(backend: PipelinedBackend, rows: Sequence[EngineRow]) -> SectionReport:
    rows = sorted(rows, key=lambda row: row.batch)
    card = backend.card
    columns = ("images a batch", "ms alone", "images/s, overlapped", "gain of overlap", "same codes")
    table = figures_table(f"{backend.name}, {card.precision}", *columns, words=0, plain=True)
    for row in rows:
        figures = (f"{row.latency * 1e3:.3f}", f"{row.images_per_second:,.0f}", f"{row.gain:.2f}")
        table.add_row(f"{row.batch:,}", *figures, "yes" if row.same else "NO")
    best = rows[-1]
    what = f"images/s, engine from the host, batch {best.batch}, with others on their way"
    values = {
        "backend": backend.name,
        "precision": card.precision,
        "fingerprint": card.fingerprint,
        "rows": [row.to_dict() for row in rows],
    }
    problems = [
        f"batches of {row.batch}: the codes depend on how batches are run: this is a bug"
        for row in rows
        if not row.same
    ]
    rate = best.images_per_second
    return SectionReport(values, [table], [Figure(what, f"{rate:,.0f}", rate)], problems)
