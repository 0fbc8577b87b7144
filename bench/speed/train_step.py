"""Where the time of a training step goes: waiting for pictures, input, forward, backward, update, and solving codes.

The steps are those that the loop takes (train/step.py), on pictures from its own source (train/pictures.py), and the
codes are solved by the run's own method. The same batches are trained on in three ways, in turn: from their files, as
where pictures are met for the first time; from memory, where a run keeps what it decoded; and with the pictures ready,
which is the network alone: on a CPU, threads that decode take cores from it.
"""

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt.bench.machine import Head, Report, load_average, take_head
from queryopt.bench.speed.harness import Contender, Schedule, run_rounds
from queryopt.bench.speed.throughput import make_pictures
from queryopt.bench.tables import figures_table
from queryopt.errors import InputError, UsageError
from queryopt.progress import Advance, no_advance
from queryopt.text import counted, display_path
from queryopt.train.config import TrainConfig
from queryopt.train.data import LabelledImages, split_validation
from queryopt.train.draws import iteration_samples
from queryopt.train.open_set import hold_out_classes
from queryopt.train.pictures import Batch, PictureSource
from queryopt.train.sources import load_run_data
from queryopt.train.step import STEP_PARTS, TrainingStep
from queryopt.train.threads import torch_threads

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["PARTS", "WAYS", "StepTimes", "made_images", "measure_step", "training_images"]

PARTS = ("data", *STEP_PARTS)
"""Of a step, in their order. data: waiting for pictures."""
_LOADED = ("files", "memory")
WAYS = {"files": "from files", "memory": "from memory", "ready": "pictures ready"}
LOADING_SHARE = 0.1
"""Of a step, from which on waiting for pictures counts as the bottleneck."""

_IMAGES, _CLASSES = 5_994, 200
"""Of CUB-200-2011's training part."""
_FILES = 64
_WARM_UP = 3
"""Steps before those that count: memory is found, kernels are chosen, and the network is compiled in the first one."""

_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StepTimes:
    """Step by step, of all rounds.

    parts: seconds of each of PARTS; on a GPU they are those of its own time line.
    cpu: CPU seconds of all threads, those that decode included, which others' work on the machine leaves alone.
    """

    parts: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    cpu: list[float] = field(default_factory=list)

    @property
    def steps(self) -> tuple[float, ...]:
        """Seconds of each whole step."""
        return tuple(map(sum, zip(*self.parts.values(), strict=True)))

    def summary(self) -> dict[str, dict[str, float]]:
        """Median, 10th and 90th percentile in seconds, and share, of each part and of the whole step."""
        whole = sum(self.steps)
        parts = {part: _spread(seconds) | {"share": sum(seconds) / whole} for part, seconds in self.parts.items()}
        return parts | {"step": _spread(self.steps) | {"share": 1.0}}


def made_images(folder: Path) -> LabelledImages:
    """As many pictures, in as many classes, as CUB-200-2011 trains on: made JPEGs of about 500 x 400, in turn."""
    names = [path.name for path in make_pictures(folder, _FILES)]
    paths = tuple(names[number % _FILES] for number in range(_IMAGES))
    labels = np.arange(_IMAGES, dtype=np.int64) % _CLASSES
    return LabelledImages(folder, paths, labels, tuple(f"class {number}" for number in range(_CLASSES)))


def training_images(config: TrainConfig) -> LabelledImages:
    """The pictures that a run of this configuration trains on. Errors as queryopt.train.train."""
    seen = hold_out_classes(load_run_data(config), config.open_set, config.seed).seen
    return split_validation(seen.train, config.validation_fraction, config.seed)[0]


def measure_step(
    config: TrainConfig,
    images: LabelledImages,
    *,
    steps: int = 20,
    rounds: int = 3,
    progress: Advance = no_advance,
) -> Report:
    """Time `steps` steps of a run of this configuration on these pictures, in each way, `rounds` times in turn.

    The backbone's weights are random, whatever the configuration says: that takes as long. progress: called with 1 a
    round. UsageError for numbers below 1, InputError where a batch has no picture that can be read, and what
    TrainingStep raises.
    """
    if steps < 1 or rounds < 1:
        raise UsageError(f"{steps} steps in {rounds} rounds: at least one of each")
    if config.classification_weight:
        config = config.override(classes=len(images.classes))
    with (
        torch_threads(config.threads),
        contextlib.closing(PictureSource.for_training(config, images)) as source,
    ):
        before = load_average()
        bench = _Bench(TrainingStep(config, images.labels), images, source)
        first_step = bench.warm_up()
        contenders = bench.contenders(steps, rounds)
        # From memory come the pictures that were taken from files just before.
        timings = run_rounds(contenders, Schedule(rounds, rotate=False), beside=lambda: progress(1))
        wall = {contender.name: timing.calls.tolist() for contender, timing in zip(contenders, timings, strict=True)}
        head, values = take_head(before), _values(bench, first_step, wall, steps)
    return Report(head, values, list(_parts(head, values)))


def _values(bench: "_Bench", first_step: float, wall: dict[str, list[float]], steps: int) -> dict[str, Any]:
    """For JSON. wall: seconds of each contender, a number a round."""
    step, config, images = bench.step, bench.step.config, bench.images
    network, batch = config.network, len(step.batches[0])
    solver = wall.get("solver", [])
    # The codes are solved once, after the steps of an outer iteration.
    solver_a_step = statistics.median(solver or [0.0]) / (config.epochs * len(step.batches))
    return {
        "preset": config.preset,
        "method": config.method,
        "backbone": network.backbone,
        "image_size": network.image_size,
        "bits": network.bits,
        "columns": network.bits * network.branches,  # M
        "amp": config.amp,
        "compile": config.compile,
        "channels_last": step.channels_last,
        "device": torch.cuda.get_device_name() if step.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "loaders": bench.source.threads,  # that decode
        "batch": batch,
        "images": len(images),  # n
        "classes": len(images.classes),
        "epoch_steps": len(step.batches),  # of an inner epoch
        "epochs": config.epochs,
        "ways": {way: asdict(times) for way, times in bench.times.items()},
        # Pictures a second that the source makes while nothing else runs.
        "loading": {way: [steps * batch / seconds for seconds in wall[f"loading {way}"]] for way in _LOADED},
        "kept": bench.source.share_kept,  # of the pictures, which stay in memory once decoded
        "solver": solver,  # empty where the method, or the run, solves none
        "first_step": first_step,  # in which the network is compiled
        "solver_a_step": solver_a_step,
        "summary": _summary(bench.times, batch, solver_a_step),
    }


def _summary(ways: dict[str, StepTimes], batch: int, solver_a_step: float) -> dict[str, dict[str, Any]]:
    """Of each way; images_per_second: of the median step, with its share of the solver; slowdown: how many times as
    long a step takes as with its pictures ready, by the medians.
    """
    ready = ways["ready"]
    summary: dict[str, dict[str, Any]] = {}
    for way, times in ways.items():
        parts, median = times.summary(), statistics.median(times.steps)
        summary[way] = {
            "parts": parts,
            "cpu": _spread(times.cpu),
            "images_per_second": batch / (median + solver_a_step),
            "slowdown": median / statistics.median(ready.steps),
            "cpu_slowdown": statistics.median(times.cpu) / statistics.median(ready.cpu),
            "loading_is_the_bottleneck": parts["data"]["share"] > LOADING_SHARE,
        }
    return summary


def _parts(head: Head, values: dict[str, Any]) -> "Iterator[RenderableType]":
    flags = {"compiled": "compile", "channels last": "channels_last"}
    how = ", ".join([f"amp {values['amp']}", *(name for name, key in flags.items() if values[key])])
    yield (
        "{method}, {backbone}, {image_size} px, {bits} bits, {columns} columns, batches of {batch}; {how}; preset "
        "{preset}\n{images:,} pictures in {classes:,} classes; {device}, {counted}, {loaders} to decode\n"
    ).format(how=how, counted=counted(values["threads"], "thread", "threads"), **values) + head.text
    yield _table(values)
    files, memory = (statistics.median(values["loading"][way]) for way in _LOADED)
    yield (
        f"loading alone: {files:,.0f} images/s from files, {memory:,.0f} from memory, which has room for "
        f"{values['kept']:.0%} of the pictures"
    )
    for way in _LOADED:
        summary = values["summary"][way]
        verdict = "is" if summary["loading_is_the_bottleneck"] else "is not"
        yield (
            f"from {way}: {summary['parts']['data']['share']:.1%} of a step is waiting for pictures, and a step "
            f"takes {summary['slowdown']:.2f} x as long ({summary['cpu_slowdown']:.2f} x the CPU time) as with its "
            f"pictures ready: loading {verdict} the bottleneck"
        )
    if values["solver"]:
        seconds = statistics.median(values["solver"])
        yield f"solver: {seconds:.3f} s after an iteration of {values['epochs']} x {values['epoch_steps']} steps"
    yield f"first step{', compiling included' if values['compile'] else ''}: {values['first_step']:.1f} s"


def _table(values: dict[str, Any]) -> "Table":
    columns = [column for way in WAYS.values() for column in (way, "share")]
    table = figures_table("Milliseconds of a step: median (10th to 90th percentile), and share", "", *columns)
    summaries = values["summary"].values()
    for part in (*PARTS, "step"):
        spreads = [summary["parts"][part] for summary in summaries]
        table.add_row(part, *(text for one in spreads for text in (_cell(one), f"{one['share']:.1%}")))
    solver = f"{1000 * values['solver_a_step']:,.1f}" if values["solver"] else "none"
    rows = {
        "CPU, all threads": [_cell(summary["cpu"]) for summary in summaries],
        "solver, divided by the steps": [solver for _ in summaries],
        "images/s": [f"{summary['images_per_second']:,.1f}" for summary in summaries],
    }
    for name, cells in rows.items():
        table.add_row(name, *(text for cell in cells for text in (cell, "")))  # they have no share
    return table


class _Bench:
    """The loop's pieces, put to work on full batches of the first outer iteration. times: of the steps, by WAYS."""

    def __init__(self, step: TrainingStep, images: LabelledImages, source: PictureSource) -> None:
        self.step, self.images, self.source = step, images, source
        self.times = {way: StepTimes() for way in WAYS}
        config = step.config
        drawn = iteration_samples(config.seed, 0, len(images), step.samples)
        self.drawn = torch.from_numpy(drawn).to(step.device)
        full = len(step.batches[0])
        self.full = [drawn[batch.start : batch.stop] for batch in step.batches if len(batch) == full]
        generator = torch.Generator().manual_seed(config.seed)

        def random(rows: int) -> Tensor:
            return torch.randn(rows, config.network.bits * config.network.branches, generator=generator)

        # Of the size that a run has, after an iteration or two: what is in them changes no time.
        self.codes = random(len(images)).sign().to(step.device)
        self.outputs = random(step.samples).tanh().to(step.device)
        step.network.train()

    def batches(self, first: int, count: int) -> list[_Rows]:
        """So many full batches of an epoch, from this one on; where there are fewer, they come again."""
        return [self.full[number % len(self.full)] for number in range(first, first + count)]

    def load(self, batches: list[_Rows], inner: int, fresh: bool = False) -> Iterator[Batch]:
        """Views of the pictures of these batches. inner: the epoch that they are drawn for. fresh: from files."""
        if fresh:
            self.source.close()
        return self.source.view_batches(batches, self.step.config.seed, 0, inner)

    def warm_up(self) -> float:
        """Take the steps that don't count. Returns the seconds of the first one."""
        batches = self.batches(-_WARM_UP, _WARM_UP)
        times = StepTimes()
        self.train(times, (batches, iter(list(self.load(batches, 0)))))
        return times.steps[0]

    def contenders(self, steps: int, rounds: int) -> list[Contender]:
        """Training in each of WAYS, loading alone, and solving; the batches are others in each round."""
        inputs = [self.batches(number * steps, steps) for number in range(rounds)]

        def ready(batches: list[_Rows]) -> Iterator[Batch]:
            return iter(list(self.load(batches, 2)))

        loads = {"files": partial(self.load, inner=0, fresh=True), "memory": partial(self.load, inner=1)}

        def training(way: str, load: Any) -> Contender:
            train = partial(self.train, self.times[way])
            return Contender(way, train, inputs, prepare=lambda batches: (batches, load(batches)))

        def loading(way: str) -> Contender:
            return Contender(f"loading {way}", lambda made: deque(made, maxlen=0), inputs, prepare=loads[way])

        contenders = [training(way, load) for way, load in (loads | {"ready": ready}).items()]
        contenders += [loading("files"), loading("memory")]
        if self.step.method.solves_codes and not self.step.config.hold_solver:
            contenders.append(Contender("solver", self.solve))
        return contenders

    def train(self, times: StepTimes, loaded: tuple[list[_Rows], Iterator[Batch]]) -> None:
        """Take a step on each batch, and add what it took to `times`."""
        watch = _Stopwatch(self.step.device)
        cpu = [time.process_time()]
        for number, rows in enumerate(loaded[0]):
            batch = next(loaded[1])
            watch.mark("data")
            if not batch.kept.any():
                raise InputError(f"{display_path(self.images.root)}: a batch of {len(rows)} pictures, none readable")
            index = torch.from_numpy(rows[batch.kept]).to(self.step.device)
            self.step(batch.pictures, index, self.codes, 0, number, watch.mark)
            cpu.append(time.process_time())
        for part, seconds in watch.seconds():
            times.parts[part].append(seconds)
        times.cpu.extend(np.diff(cpu).tolist())

    def solve(self, _: None) -> None:
        """One solution of the codes."""
        config = self.step.config
        self.step.method.solve(self.codes, self.outputs, self.drawn, self.step.labels, config.warm_up + config.hold)
        if self.step.device.type == "cuda":
            torch.cuda.synchronize()


class _Stopwatch:
    """Moments on the device's own time line: work is given to a GPU before it is done, and waiting for it would add."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._parts: list[str] = []
        self._moments = [self._now()]

    def mark(self, part: str) -> None:
        """A part ends here, once all work that was given out before is done."""
        self._parts.append(part)
        self._moments.append(self._now())

    def seconds(self) -> list[tuple[str, float]]:
        """Of each part that was marked, in their order."""
        if self._on_gpu:
            torch.cuda.synchronize()
        return [
            (part, start.elapsed_time(end) / 1000 if self._on_gpu else end - start)
            for part, start, end in zip(self._parts, self._moments, self._moments[1:], strict=False)
        ]

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return dict(zip(("p10", "median", "p90"), np.percentile(seconds, (10, 50, 90)).tolist(), strict=True))


def _cell(spread: dict[str, float]) -> str:
    low, median, high = (1000 * spread[name] for name in ("p10", "median", "p90"))
    return f"{median:,.1f} ({low:,.1f} to {high:,.1f})"
