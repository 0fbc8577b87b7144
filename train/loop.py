"""The training loop: outer iterations of inner epochs and a solver step, saved so that it can be stopped at any moment.

What is learnt is the method's (queryopt.train.methods); the loop is the same for all.

Every random draw derives from (seed, outer, inner, sample), never from a generator's state, and learning rates from the
position, so a run that goes on from last.pt does on a CPU, with the same number of threads, bit for bit what it would
have done without the stop.

Saved are: after every outer iteration, everything; after an inner epoch, everything, unless saving took more than 3 %
of the time since the last save; within an epoch, everything after five minutes, and on Ctrl-C.
"""

import contextlib
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt import __version__
from queryopt.errors import DataError, UsageError
from queryopt.progress import Advance, Progress, no_progress
from queryopt.text import display_path
from queryopt.train.backbone_weights import load_backbone_weights
from queryopt.train.checkpoint import BEST
from queryopt.train.config import TrainConfig
from queryopt.train.data import DataSplits
from queryopt.train.distributed import Processes, joined
from queryopt.train.draws import epoch_order, iteration_samples
from queryopt.train.feature_cache import FeatureCache, user_cache
from queryopt.train.fine_tuning import CLOSED_FORM, FineTuning, Plan, check_fine_tuning
from queryopt.train.measuring import Measuring, Validation
from queryopt.train.methods import find_method
from queryopt.train.methods.linear import LinearMethod, LinearNetwork
from queryopt.train.open_set import hold_out_classes
from queryopt.train.run_pictures import RunPictures, SharedBatch
from queryopt.train.runs import OthersFolder, Position, RunFolder, RunState, check_unused
from queryopt.train.sources import absolute_source, load_run_data
from queryopt.train.starts import StartContext
from queryopt.train.state import State
from queryopt.train.step import TrainingStep
from queryopt.train.threads import torch_threads

__all__ = ["Report", "TrainResult", "train"]

_log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
"""Called with every line of metrics.jsonl, and with the forecast of a run that has a budget in minutes."""

_SAVE_SHARE = 0.03
_SAVE_SECONDS = 300.0
_CHECK_STEPS = 20


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    out: the run folder. checkpoint: its best.safetensors. iterations: outer iterations done. best_iteration: the one
    (from 1; 0 is the untrained network) that the checkpoint is of. validation_map: its deployed tie-aware map on the
    validation pictures, None where there are none. chance: the map of a random ranking. images, validation_images: how
    many pictures trained it and chose it. seconds: time spent, over all resumptions. skipped: unreadable pictures, by
    path, with the reason. already_finished: there was nothing left to do. fit: what a method in closed form chose.
    fine_tuning: what training on from there came to.
    found: for how many pictures the features that it was fitted to were kept from an earlier run. warnings: what is
    wrong with the checkpoint's codes of the training pictures, in sentences (`queryopt.bit_quality.code_warnings`);
    nothing where nothing is measured on the way.
    """

    out: Path
    checkpoint: Path
    iterations: int
    best_iteration: int
    validation_map: float | None
    chance: float | None
    images: int
    validation_images: int
    seconds: float
    skipped: dict[str, str]
    already_finished: bool = False
    fit: dict[str, Any] | None = None
    fine_tuning: dict[str, Any] | None = None
    found: int | None = None
    warnings: tuple[str, ...] = ()


def train(
    config: TrainConfig,
    data: "DataSplits | str | os.PathLike[str] | None" = None,
    out: str | os.PathLike[str] = "run",
    *,
    resume: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
    cache: bool = True,
) -> TrainResult:
    """Train a network and write its run folder.

    data: a data set, or where it lies (None: config.data); only its training part is touched, and of that only the
    classes that config.open_set doesn't hold out. out: the run folder;
    one that holds a run already is refused, unless `resume` is set. resume: go on from its last.pt, if there is one,
    else start. strict: stop at the first picture that can't be read, instead of leaving it out. progress, report: see
    queryopt.progress.Progress and `Report`. cache: take features of a frozen trunk from the user's cache, and keep them
    there (queryopt.train.feature_cache): the result is the same.

    Where torchrun started this process as one of several, or torch.distributed has several connected, they train
    together, each with its share of every batch: all must call this with the same arguments. The first one alone
    writes, reports and shows progress; the result is the same in all.

    Ctrl-C (and SIGTERM) saves and raises KeyboardInterrupt. Raises UsageError (a wrong option, a folder in use, a
    resumed run of another configuration or other pictures), DataError, MissingError (no GPU, no backbone weights),
    CheckpointError (a damaged last.pt), TrainingError (a loss that is not finite, a disk that is full, a process that
    was killed: the last good checkpoint is kept).
    """
    with joined(config.device) as processes:
        if processes.first:
            check_unused(Path(out), resume)
        else:
            progress = report = None
        config, splits = _with_data(config, data, progress, processes)
        divided = hold_out_classes(splits, config.open_set, config.seed)
        images, unseen = divided.seen.train, divided.unseen
        if len(images.classes) < 2 and not find_method(config.method).closed_form:
            raise DataError(
                f"{display_path(images.root)}: pictures without classes, of which the method {config.method} learns "
                "nothing: give --method linear"
            )
        if config.classification_weight:
            config = config.override(classes=len(images.classes))
        opened = RunFolder(Path(out), resume) if processes.first else OthersFolder(Path(out))
        with opened as folder, torch_threads(processes.threads(config.threads)):
            pictures = RunPictures(config, images, processes, strict)
            step = TrainingStep(config, pictures.images.labels, processes)
            about = _about(step, pictures, unseen.train.classes if unseen is not None else ())
            kept = user_cache() if cache else None
            return _Run(step, pictures, folder, about, progress or no_progress, report or _no_report, kept).start(
                resume
            )


def _with_data(
    config: TrainConfig,
    data: "DataSplits | str | os.PathLike[str] | None",
    progress: Progress | None,
    processes: Processes,
) -> tuple[TrainConfig, DataSplits]:
    """The configuration, which says where the data lies, and the data."""
    where = config.data if data is None or isinstance(data, DataSplits) else os.fspath(data)
    if where:
        # As it was typed, it would mean something else where the run is exported or continued from another folder.
        config = replace(config, data=absolute_source(where))
    if isinstance(data, DataSplits):
        return config, data
    if not where:
        raise UsageError(
            "there is nothing to train on: give a folder with one sub-folder a class, an official data set such as "
            "cub200:FOLDER, or synthetic:birds"
        )
    return config, processes.first_on_machine(partial(load_run_data, config, progress))


class _Run:
    """One run, from its start or its last.pt to its end."""

    def __init__(
        self,
        step: TrainingStep,
        pictures: RunPictures,
        folder: RunFolder,
        about: dict[str, Any],
        progress: Progress,
        report: Report,
        cache: FeatureCache | None,
    ) -> None:
        self.config, self.processes = step.config, step.processes
        self.step, self.pictures, self.folder, self.about = step, pictures, folder, about
        self.progress, self.report, self.cache = progress, report, cache
        self.found: int | None = None
        self.measuring = Measuring(step, pictures)
        self.state = State(step, pictures, folder.path)
        self.interrupted = threading.Event()
        self.saved_at, self.save_cost = time.monotonic(), 0.0

    def start(self, resume: bool) -> TrainResult:
        """Begin or go on, and run to the end."""
        _check_processes_agree(self.processes, self.config, self.pictures)
        last = self.processes.from_first(self.folder.load_last) if resume else None
        with contextlib.closing(self.pictures):
            if last is None:
                self._begin()
            else:
                self._restore(*last)
                if self.state.position.outer >= self.config.iterations:
                    return self._result(already_finished=True)
            with _interruptible(self.interrupted):
                self._go()
        return self._result()

    def _begin(self) -> None:
        network = self.step.network
        self.processes.first_on_machine(lambda: load_backbone_weights(network, self.config.weights))
        self.processes.copy_first(network.state_dict().values())
        if self._fine_tuned:
            check_fine_tuning(network, self.pictures, self.processes)
        self.state.codes = self._shared(torch.from_numpy(self.step.method.start(self._start_context())))
        features = None
        if self.step.method.closed_form:
            features = self.measuring.network_features(self.progress, self.cache)
            self.found = sum(part.found for part in features)
            labels = self.pictures.images.labels[features[0].rows]
            self.about |= {"fit": self.step.method.fit(network, features[0].values, labels)}
            self.processes.copy_first(network.state_dict().values())
        self.folder.write_config(self.config, self.about)
        self.folder.cut_metrics(Position())
        if not self.config.iterations or self._fine_tuned:  # whatever happens then, the run has a model
            validation = self.measuring.validate(self.state.codes, features)
            self._keep_if_best(Position(0), validation)
            if validation is None and features is not None:
                self.state.best["warnings"] = list(self.measuring.code_warnings(features[0]))
        self._save()
        if self._fine_tuned:
            self._fine_tune()

    @property
    def _fine_tuned(self) -> bool:
        """Whether the run trains on from a closed form."""
        return self.step.method.closed_form and bool(self.config.iterations or self.config.minutes)

    def _fine_tune(self) -> None:
        """Train on from the closed form, and keep what validation says is best. What Ctrl-C stops is not resumed."""
        network, method, state = self.step.network, self.step.method, self.state
        assert isinstance(network, LinearNetwork)
        assert isinstance(method, LinearMethod)
        device, stop, fit = self.step.device, self.interrupted.is_set, self.about["fit"]

        def report(line: dict[str, Any]) -> None:
            self._write_metrics({**line, "iterations": plan.passes, "seconds": round(state.seconds, 3)})

        with _interruptible(self.interrupted):
            tuning = FineTuning(network, method, fit, self.pictures, device, self.progress, stop, report)
            plan = Plan.of(self.config.iterations)
            if self.config.minutes:
                plan = tuning.plan(60 * self.config.minutes - state.seconds)
                self.report({"forecast": round(state.seconds + (plan.seconds or 0.0), 1), **asdict(plan)})
                # From here on the run is one of so many passes, however they were found.
                self.config = replace(self.config, iterations=plan.passes, minutes=0.0)
            outcome = tuning.run(plan)
        self.about |= {"fine_tuning": {"views": plan.views, **asdict(outcome)}}
        self.folder.write_config(self.config, self.about)
        if outcome.kept != CLOSED_FORM:
            state.position = Position(outcome.passes)
            state.best = {"map": 0.0}
            self._keep_if_best(state.position, self.measuring.validate(state.codes))
        else:
            self.folder.save_best(network.state_dict(), self.config)
        state.position = Position(outcome.passes)
        self._save()
        if stop():
            self.folder.draw_curves()
            raise KeyboardInterrupt

    def _restore(self, saved: RunState, begun: TrainConfig) -> None:
        _check_continues(self.folder.path, saved, begun, self.config, self.pictures)
        if saved.computed_on != (now := self.state.computed_on()):
            before = saved.computed_on
            _log.warning("this run began on %s and goes on on %s: results will differ by rounding", before, now)
        self.folder.require_best(saved)
        self.state.restore(saved)
        if self._fine_tuned and (self.config.minutes or saved.position.outer < self.config.iterations):
            raise UsageError(
                f"{display_path(self.folder.path)}: was stopped while it trained on from the closed form, which is not "
                f"resumed: {BEST} is the best it had (qo-export takes it); train anew into another --out"
            )
        self.folder.cut_metrics(saved.position)
        if begun != self.config:  # another environment
            self.folder.write_config(self.config, self.about)

    def _go(self) -> None:
        config, state, samples = self.config, self.state, self.step.samples
        done = self._pictures_before(state.position)
        with self.progress("train", config.iterations * config.epochs * samples - done, "images") as advance:
            while state.position.outer < config.iterations:
                drawn = iteration_samples(config.seed, state.position.outer, len(self.pictures.images), samples)
                while state.position.inner < config.epochs:
                    self._epoch(drawn, advance)
                    if state.position.inner < config.epochs:
                        if self.save_cost <= _SAVE_SHARE * (time.monotonic() - self.saved_at):
                            self._save()
                        self._stop_if_interrupted()
                self._finish_outer(drawn, advance)
                self._save()
                self._stop_if_interrupted()
        self.folder.draw_curves()

    def _epoch(self, drawn: npt.NDArray[np.int64], advance: Advance) -> None:
        """The rest of the inner epoch at the position. drawn: the iteration's pictures."""
        config, state = self.config, self.state
        outer, inner, first = state.position.outer, state.position.inner, state.position.step
        last_epoch = inner == config.epochs - 1
        if last_epoch and not first:
            state.outputs = state.no_outputs()
        order = epoch_order(config.seed, outer, inner, self.step.samples)  # positions in `drawn`
        rows = [order[batch.start : batch.stop] for batch in self.step.batches]
        self.step.network.train()
        state.meter.begin()
        views = self.pictures.views([drawn[row] for row in rows[first:]], outer, inner)
        for step, (row, batch) in enumerate(zip(rows[first:], views, strict=True), first):
            if batch.kept.any():
                kept = row[batch.kept]
                outputs = self._learn(batch, drawn[kept])
                if last_epoch:
                    state.outputs[torch.from_numpy(kept).to(self.step.device)] = outputs
            state.position = Position(outer, inner, step + 1)
            if self.step.device.type == "cpu" or step % _CHECK_STEPS == 0 or step + 1 == len(rows):
                state.require_finite_loss()
                advance(len(row), self._note())
            else:  # a look at the sums would wait for the GPU
                advance(len(row))
            if step + 1 < len(rows):
                if time.monotonic() - self.saved_at > _SAVE_SECONDS:
                    self._save()
                self._stop_if_interrupted()
        if not state.meter.sums[2]:  # codes can't be solved from nothing
            path, reason = next(iter(self.pictures.skipped.items()))
            raise DataError(
                f"{display_path(self.pictures.images.root)}: none of the {self.step.samples} pictures of an iteration "
                f"can be read ({display_path(path)}: {reason}): mend or remove such pictures, or draw more (--samples)"
            )
        if not last_epoch:
            self._write_metrics(self._epoch_line(inner))
        state.position = Position(outer, inner + 1)

    def _learn(self, batch: SharedBatch, index: npt.NDArray[np.int64]) -> Tensor:
        """Train on one batch, of the training pictures `index`. Returns their relaxed codes, [b, M]."""
        at, step = self.state.position, self.step
        number = (at.outer * self.config.epochs + at.inner) * len(step.batches) + at.step
        rows = torch.from_numpy(index).to(step.device)
        result = step(batch.pictures, rows, self.state.codes, at.outer, number, shares=batch.shares)
        self.state.meter.sums += result.sums
        return result.outputs

    def _finish_outer(self, drawn: npt.NDArray[np.int64], advance: Advance) -> None:
        """Let the method solve the codes, measure, keep what is best, write the iteration's line, and move on."""
        state, bits, solves = self.state, self.config.network.bits, self.step.method.solves_codes
        done = Position(state.position.outer + 1)
        line = self._epoch_line(self.config.epochs - 1)
        if solves:
            line |= self._solve(drawn)
        line["distinct_codes"] = len(torch.unique(state.codes[:, :bits] >= 0, dim=0))
        advance(0, "validation")
        validation = self.measuring.validate(state.codes)
        if validation is not None:
            paper = {"map_paper": validation.map_paper} if solves else {}
            line |= {"map": validation.map, **paper, "chance": validation.chance}
        state.require_finite_weights()
        self._keep_if_best(done, validation)
        line["seconds"] = round(state.seconds, 3)
        self._write_metrics(line)
        state.position = done
        advance(0, self._note())

    def _solve(self, drawn: npt.NDArray[np.int64]) -> dict[str, float]:
        """The codes after the outer iteration; returns what that changed, for its line."""
        state, method = self.state, self.step.method
        outer, bits, before = state.position.outer, self.config.network.bits, state.codes >= 0
        seen = ~state.outputs[:, 0].isnan()
        index, outputs = torch.from_numpy(drawn).to(self.step.device)[seen], state.outputs[seen]
        accuracy = float(((outputs >= 0) == before[index])[:, :bits].double().mean())
        restarted = method.restart(self._start_context(), outer)
        if restarted is None:
            state.codes = self._shared(method.solve(state.codes, outputs, index, self.step.labels, outer))
        else:
            state.codes = self._shared(torch.from_numpy(restarted))
        return {"bit_accuracy": accuracy, "codes_changed": float(((state.codes >= 0) != before).double().mean())}

    def _start_context(self) -> StartContext:
        network, features = self.config.network, self.measuring.trunk_features
        return StartContext(self.pictures.images, network.bits, network.branches, self.config.seed, features)

    def _shared(self, codes: Tensor) -> Tensor:
        """Codes on the device, as the first process has them: rounding could make a bit of another one's differ."""
        codes = codes.to(self.step.device)
        self.processes.copy_first([codes])
        return codes

    def _keep_if_best(self, position: Position, validation: Validation | None) -> None:
        """Write best.safetensors where validation says so, or, without validation, always: the last one is kept."""
        if validation is not None and validation.map < self.state.best.get("map", 0.0):
            return
        self.folder.save_best(self.step.network.state_dict(), self.config)
        self.state.best = {"iteration": position.outer}
        if validation is not None:
            warnings = list(validation.warnings)
            self.state.best |= {"map": validation.map, "chance": validation.chance, "warnings": warnings}

    def _save(self) -> None:
        if not self.processes.first:
            return
        begun = time.monotonic()
        self.folder.save_last(self.state.saved(), self.config)
        self.saved_at = time.monotonic()
        self.save_cost = self.saved_at - begun

    def _stop_if_interrupted(self) -> None:
        if self.processes.any(self.interrupted.is_set()):
            if self.state.position.step or self.state.position.inner:
                self._save()
            self.folder.draw_curves()
            self.processes.wait()  # the end of one ends them all
            raise KeyboardInterrupt

    def _pictures_before(self, position: Position) -> int:
        epochs = position.outer * self.config.epochs + position.inner
        return epochs * self.step.samples + sum(len(batch) for batch in self.step.batches[: position.step])

    def _epoch_line(self, inner: int) -> dict[str, Any]:
        return {"outer": self.state.position.outer, "inner": inner, **self.state.meter.line(self.state.lr)}

    def _write_metrics(self, line: dict[str, Any]) -> None:
        self.folder.append_metrics(line)
        self.report(line)

    def _note(self) -> str:
        """Where the run is, beside the progress bar."""
        state, iterations, loss = self.state, self.config.iterations, self.state.meter.loss
        parts = [f"iteration {min(state.position.outer + 1, iterations)}/{iterations}"]
        parts += [f"loss {loss:.3f}"] if loss is not None else []
        parts += [f"map {state.best['map']:.3f}"] if "map" in state.best else []
        return ", ".join(parts)

    def _result(self, already_finished: bool = False) -> TrainResult:
        state, pictures = self.state, self.pictures
        return TrainResult(
            out=self.folder.path,
            checkpoint=self.folder.path / BEST,
            iterations=state.position.outer,
            best_iteration=int(state.best["iteration"]),
            validation_map=state.best.get("map"),
            chance=state.best.get("chance"),
            images=len(pictures.images),
            validation_images=len(pictures.validation),
            seconds=state.earlier_seconds if already_finished else state.seconds,
            skipped=dict(pictures.skipped),
            already_finished=already_finished,
            fit=self.about.get("fit"),
            fine_tuning=self.about.get("fine_tuning"),
            found=self.found,
            warnings=tuple(state.best.get("warnings", ())),
        )


def _about(step: TrainingStep, pictures: RunPictures, unseen_classes: tuple[str, ...]) -> dict[str, Any]:
    """What config.json says of a run beside its configuration."""
    return {
        "data_root": display_path(pictures.images.root.absolute()),
        "classes": len(pictures.images.classes),
        "class_names": [display_path(name) for name in pictures.images.classes],
        **({"unseen_classes": list(unseen_classes)} if unseen_classes else {}),
        "images": len(pictures.images),
        "validation_images": len(pictures.validation),
        "samples": step.samples,
        **step.method.about(),
        "device": str(step.device),
        "threads": torch.get_num_threads(),
        **({"processes": step.processes.count} if step.processes.count > 1 else {}),
        "versions": {
            "queryopt": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "platform": platform.platform(),
    }


def _check_processes_agree(processes: Processes, config: TrainConfig, pictures: RunPictures) -> None:
    """UsageError or DataError where processes on other machines were given other options or pictures."""
    for rank, (theirs, digest) in enumerate(processes.gather_values((config, pictures.digest))):
        if differences := theirs.differences(config):
            raise UsageError(
                f"process {rank} of this run has other options than process {processes.launch.rank}: "
                f"{'; '.join(differences)}: give the same command on all machines"
            )
        if digest != pictures.digest:
            raise DataError(
                f"{display_path(pictures.images.root)}: process {rank} of this run has other training pictures: all "
                "machines need the same"
            )


def _check_continues(
    folder: Path, saved: RunState, begun: TrainConfig, config: TrainConfig, pictures: RunPictures
) -> None:
    """UsageError where the run in `folder`, which began as `begun`, is not the one of `config` and `pictures`."""
    where = display_path(folder)
    if differences := begun.differences(config):
        raise UsageError(
            f"{where}: this run has another configuration: {'; '.join(differences)}. Leave these options out to "
            "continue it, or choose another --out"
        )
    if saved.data != pictures.digest:
        raise UsageError(
            f"{where}: the training pictures are not those that this run began with ({len(pictures.images):,} now, "
            f"{len(saved.codes):,} then): restore them to continue it, or choose another --out"
        )


@contextlib.contextmanager
def _interruptible(event: threading.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM sets the event, so that the run stops where it can be saved; a second one stops it at
    once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default if earlier is None else earlier)


def _no_report(line: dict[str, Any]) -> None:
    pass
