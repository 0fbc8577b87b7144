"""A model on a GPU, fed with pixels: images a second, alone and with batches on their way while others are computed."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from queryopt.bench.speed.gpu.section import Figure, GpuOptions, Turn
from queryopt.errors import MismatchError, MissingError, UsageError
from queryopt.runtime.backends import BackendOutput, open_backend
from queryopt.runtime.backends.base import PipelinedBackend, in_flight
from queryopt.runtime.tensorrt.profile import DEFAULT_PROFILE, Profile

__all__ = ["EngineReport", "EngineRow", "build_here", "measure_engine", "open_engine"]

_BATCHES = 20
"""Batches of a timed pass."""


@dataclass(frozen=True)
class EngineRow:
    """One batch size. alone: seconds of a batch that is waited for, from pixels on the host to codes on the host; each
    the median of a pass. overlapped: seconds a batch, with the backend's `depth` of them on their way. One of each a
    round, in turn. same: whether both gave the same codes.
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
        return asdict(self) | {
            "images_per_second": self.images_per_second,
            "latency": self.latency,
            "gain": self.gain,
        }


@dataclass(frozen=True)
class EngineReport:
    """What was measured. backend: what ran it. precision, fingerprint: of the model."""

    backend: str
    precision: str
    fingerprint: str
    rows: tuple[EngineRow, ...]

    @property
    def wrong(self) -> tuple[EngineRow, ...]:
        """Rows whose codes depend on how they were run."""
        return tuple(row for row in self.rows if not row.same)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self) | {"rows": [row.to_dict() for row in self.rows]}

    def tables(self) -> list[Table]:
        """A row for each batch size."""
        title = f"{self.backend}, {self.precision}"
        table = Table(box=None, header_style="dim", title=title, title_justify="left")
        for name in ("images a batch", "ms alone", "images/s, overlapped", "gain of overlap", "same codes"):
            table.add_column(name, justify="right")
        for row in self.rows:
            figures = (f"{row.latency * 1e3:.3f}", f"{row.images_per_second:,.0f}", f"{row.gain:.2f}")
            table.add_row(f"{row.batch:,}", *figures, "yes" if row.same else "NO")
        return [table]

    def figures(self) -> list[Figure]:
        """Images a second of the largest batch."""
        return [
            Figure(
                f"images/s, engine from the host, batch {row.batch}, with others on their way",
                f"{row.images_per_second:,.0f}",
                row.images_per_second,
            )
            for row in self.rows[-1:]
        ]

    def problems(self) -> list[str]:
        """Batches whose codes depend on how they were run."""
        return [f"batches of {row.batch}: the codes depend on how batches are run: this is a bug" for row in self.wrong]


def open_engine(path: Path, options: GpuOptions) -> PipelinedBackend:
    """A model.plan on the GPU; in a rehearsal the model.onnx of that name, as if on one.

    Raises as TensorRtBackend, or as open_backend for a model.onnx.
    """
    if options.rehearse:
        return _RehearsedEngine(path.with_suffix(".onnx"))
    from queryopt.runtime.backends.tensorrt import TensorRtBackend

    return TensorRtBackend(path, options.runtime or "auto")


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


def measure_engine(
    backend: PipelinedBackend,
    batches: Sequence[int],
    *,
    rounds: int = 7,
    turn: Turn | None = None,
) -> EngineReport:
    """Run random pixels through a backend, in batches of each size.

    rounds: timed passes of 20 batches each way, after one that isn't. turn: the largest batch is measured first, and
    what it has no time for is left out. MismatchError for a batch outside of the profile.
    """
    turn = turn or Turn()
    for batch in batches:
        backend.check_batch(batch)
    card = backend.card
    report = EngineReport(backend.name, card.precision, card.fingerprint, ())
    took = 0.0
    for batch in sorted(batches, reverse=True):
        if report.rows and not turn.has(took, f"batch {batch}"):
            continue
        before = turn.spent
        row = _measure(backend, batch, rounds)
        took = turn.spent - before
        report = replace(report, rows=(row, *report.rows))
        turn.log(f"batches of {batch}: {row.images_per_second:,.0f} images/s, {row.latency * 1e3:.2f} ms alone")
        turn.keep(report)
    return report


def _measure(backend: PipelinedBackend, batch: int, rounds: int) -> EngineRow:
    size = backend.card.preprocessing.image_size
    pixels = np.random.default_rng(batch).integers(0, 256, (2, batch, size, size, 3), np.uint8)
    feed = [pixels[number % 2] for number in range(_BATCHES)]
    alone, overlapped = [], []
    same = True
    for _ in range(rounds + 1):
        waited, codes = [], []
        for images in feed:
            started = time.perf_counter()
            codes.append(backend.run(images).codes)
            waited.append(time.perf_counter() - started)
        alone.append(statistics.median(waited))
        started = time.perf_counter()
        outputs = list(in_flight(backend, feed))
        overlapped.append((time.perf_counter() - started) / _BATCHES)
        same &= all(np.array_equal(one, other.codes) for one, other in zip(codes, outputs, strict=True))
    return EngineRow(batch, tuple(alone[1:]), tuple(overlapped[1:]), same)
