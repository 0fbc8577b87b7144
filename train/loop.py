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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from queryopt import __version__
from queryopt.errors import CheckpointError, DataError, TrainingError, UsageError
from queryopt.progress import Advance, Progress, no_progress
from queryopt.text import display_path
from queryopt.train.backbone_weights import load_backbone_weights
from queryopt.train.checkpoint import BEST, LAST
from queryopt.train.config import TrainConfig
from queryopt.train.data import DataSplits, LabelledImages, split_validation
from queryopt.train.distributed import Processes, joined
from queryopt.train.draws import Stream, epoch_order, iteration_samples, sample_rng
from queryopt.train.inputs import to_input
from queryopt.train.open_set import hold_out_classes
from queryopt.train.pictures import Batch, PictureSource
from queryopt.train.runs import OthersFolder, Position, RunFolder, RunState, check_unused
from queryopt.train.sources import absolute_source, load_data
from queryopt.train.starts import StartContext
from queryopt.train.step import TrainingStep
from queryopt.train.threads import torch_threads
from queryopt.train.validate import Validation, network_codes, validate
from queryopt.train.visual_codes import ImageFeatures, pool_features

__all__ = ["Report", "TrainResult", "train"]

_log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
"""Called with every line of metrics.jsonl."""

_SAVE_SHARE = 0.03
_SAVE_SECONDS = 300.0
_CHECK_STEPS = 20
_VALIDATION_GALLERY = 10_000
"""Training pictures, at most, that validation searches: more would cost more than they tell."""
_VALIDATION_BATCH = 64


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    out: the run folder. checkpoint: its best.safetensors. iterations: outer iterations done. best_iteration: the one
    (from 1; 0 is the untrained network) that the checkpoint is of. validation_map: its deployed tie-aware map on the
    validation pictures, None where there are none. chance: the map of a random ranking. images, validation_images: how
    many pictures trained it and chose it. seconds: time spent, over all resumptions. skipped: unreadable pictures, by
    path, with the reason. already_finished: there was nothing left to do.
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


def train(
    config: TrainConfig,
    data: "DataSplits | str | os.PathLike[str] | None" = None,
    out: str | os.PathLike[str] = "run",
    *,
    resume: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
) -> TrainResult:
    """Train a network and write its run folder.

    data: a data set, or where it lies (None: config.data); only its training part is touched, and of that only the
    classes that config.open_set doesn't hold out. out: the run folder;
    one that holds a run already is refused, unless `resume` is set. resume: go on from its last.pt, if there is one,
    else start. strict: stop at the first picture that can't be read, instead of leaving it out. progress, report: see
    queryopt.progress.Progress and `Report`.

    Where torchrun started this process as one of several, or torch.distributed has several connected, they train
    together, each with its share of every batch: all must call this with the same arguments. The first one alone
    writes, reports and shows progress; the result is the same in all.

    Ctrl-C (and SIGTERM) saves and raises KeyboardInterrupt. Raises UsageError (a wrong option, a folder in use, a
    resumed run of another configuration or other pictures), DataError, MissingError (no GPU, no backbone weights),
    CheckpointError (a damaged last.pt), TrainingError (a loss that is not finite, a disk that is full, a process that
    was killed: the last good checkpoint is kept).
    """
    with joined(config.device) as processes:
        return _train(config, data, Path(out), resume, strict, progress, report, processes)


def _train(
    config: TrainConfig,
    data: "DataSplits | str | os.PathLike[str] | None",
    out: Path,
    resume: bool,
    strict: bool,
    progress: Progress | None,
    report: Report | None,
    processes: Processes,
) -> TrainResult:
    if processes.first:
        check_unused(out, resume)
    else:
        progress = report = None
    where = config.data if data is None or isinstance(data, DataSplits) else os.fspath(data)
    if where:
        # As it was typed, it would mean something else where the run is exported or continued from another folder.
        config = replace(config, data=absolute_source(where))
    if not isinstance(data, DataSplits):
        if not where:
            raise UsageError(
                "there is nothing to train on: give a folder with one sub-folder a class, an official data set such as "
                "cub200:FOLDER, or synthetic:birds"
            )
        load = partial(load_data, config.data, seed=config.seed, test_fraction=config.test_fraction, progress=progress)
        data = processes.first_on_machine(load)
    divided = hold_out_classes(data, config.open_set, config.seed)
    images, unseen = divided.seen.train, divided.unseen
    if config.classification_weight:
        config = config.override(classes=len(images.classes))
    opened = RunFolder(out, resume) if processes.first else OthersFolder(out)
    with opened as folder, torch_threads(processes.threads(config.threads)):
        run = _Run(config, images, folder, strict, progress or no_progress, report or _no_report, processes)
        run.unseen_classes = unseen.train.classes if unseen is not None else ()
        return run.start(resume)


class _Run:
    """One run, from its start or its last.pt to its end."""

    def __init__(
        self,
        config: TrainConfig,
        images: LabelledImages,
        folder: RunFolder,
        strict: bool,
        progress: Progress,
        report: Report,
        processes: Processes,
    ) -> None:
        self.config, self.folder, self.strict, self.progress, self.report = config, folder, strict, progress, report
        self.processes = processes
        self.images, self.validation = split_validation(images, config.validation_fraction, config.seed)
        if config.validation_fraction and not len(self.validation):
            _log.warning("too few pictures to set some aside for validation: the last iteration will be kept")
        self.step = TrainingStep(config, self.images.labels, processes)
        self.network, self.method, self.optimizer = self.step.network, self.step.method, self.step.optimizer
        self.device, self.labels = self.step.device, self.step.labels
        self.preprocessing, self.channels_last = self.step.preprocessing, self.step.channels_last
        self.samples, self.batches = self.step.samples, self.step.batches
        here = replace(config, threads=processes.threads(config.threads))
        self.pictures = PictureSource.for_training(here, self.images)
        self.validation_pictures = PictureSource(self.validation, self.preprocessing, threads=here.threads)
        self.unseen_classes: tuple[str, ...] = ()
        self.digest = self.images.digest()
        self.codes = torch.zeros(0)  # B [n, M], the method's; _begin or _restore sets it
        self.columns = config.network.bits * config.network.branches
        self.outputs = self._no_outputs()
        self.position = Position()
        self.sums = self.step.no_sums()  # of the current epoch
        self.best: dict[str, float] = {}
        self.skipped: dict[str, str] = {}
        self.earlier_seconds = 0.0
        self.started = self.saved_at = time.monotonic()
        self.save_cost = 0.0
        self.epoch_start = (self.started, 0.0)  # when, and pictures in `sums` by then: a resumed epoch has some

    def start(self, resume: bool) -> TrainResult:
        """Begin or go on, and run to the end."""
        self._require_same_run()
        last = self.processes.from_first(self.folder.load_last) if resume else None
        if last is None:
            self._begin()
        else:
            self._restore(*last)
            if self.position.outer >= self.config.iterations:
                return self._result(already_finished=True)
        with contextlib.closing(self.pictures), contextlib.closing(self.validation_pictures):
            with _interruptible() as interrupted:
                self._go(interrupted)
            return self._result()

    # Start and state

    def _begin(self) -> None:
        config = self.config
        self.processes.first_on_machine(lambda: load_backbone_weights(self.network, config.weights))
        self.processes.copy_first(self.network.state_dict().values())
        self.codes = self._shared(torch.from_numpy(self.method.start(self._start_context())))
        self.folder.write_config(config, self._about())
        self.folder.cut_metrics(Position())
        if not config.iterations:
            self._keep_if_best(Position(0), self._validate())
        self._save()

    def _restore(self, state: RunState, config: TrainConfig) -> None:
        where = display_path(self.folder.path)
        if differences := config.differences(self.config):
            raise UsageError(
                f"{where}: this run has another configuration: {'; '.join(differences)}. Leave these options out to "
                "continue it, or choose another --out"
            )
        if state.data != self.digest:
            raise UsageError(
                f"{where}: the training pictures are not those that this run began with ({len(self.images):,} now, "
                f"{len(state.codes):,} then): restore them to continue it, or choose another --out"
            )
        if state.computed_on != self._computed_on():
            before, now = state.computed_on, self._computed_on()
            _log.warning("this run began on %s and goes on on %s: results will differ by rounding", before, now)
        if self.processes.first and state.best and not (self.folder.path / BEST).is_file():
            raise CheckpointError(
                f"{where}: {BEST} is gone, and {LAST} holds other weights (after outer iteration "
                f"{state.position.outer}): put it back, export {LAST} instead, or train anew into another --out"
            )
        try:
            self.network.load_state_dict(state.weights)
            self.optimizer.load_state_dict(state.optimizer)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1].strip()[:200]
            raise CheckpointError(
                f"{display_path(self.folder.path / LAST)}: damaged, or of another network ({reason}): remove it to "
                "start the run anew"
            ) from None
        self.codes = state.codes.to(self.device)
        self.outputs = state.outputs.to(self.device)
        self.position, self.best, self.skipped = state.position, state.best, state.skipped
        self.sums = torch.tensor(state.sums, dtype=torch.float64, device=self.device)
        self.earlier_seconds = state.seconds
        self.folder.cut_metrics(self.position)
        if config != self.config:  # another environment
            self.folder.write_config(self.config, self._about())

    def _save(self) -> None:
        if not self.processes.first:
            return
        begun = time.monotonic()
        self._require_finite_weights()
        state = RunState(
            weights={k: v.cpu() for k, v in self.network.state_dict().items()},
            optimizer=self.optimizer.state_dict(),
            codes=self.codes.cpu(),
            outputs=self.outputs.cpu(),
            position=self.position,
            sums=self.sums.tolist(),
            data=self.digest,
            computed_on=self._computed_on(),
            best=self.best,
            skipped=self.skipped,
            seconds=self._seconds(),
        )
        self.folder.save_last(state, self.config)
        self.saved_at = time.monotonic()
        self.save_cost = self.saved_at - begun

    # The loop

    def _go(self, interrupted: threading.Event) -> None:
        config = self.config
        done = self._pictures_before(self.position)
        total = config.iterations * config.epochs * self.samples
        with self.progress("train", total - done, "images") as advance:
            while self.position.outer < config.iterations:
                outer = self.position.outer
                drawn = iteration_samples(config.seed, outer, len(self.images), self.samples)
                while self.position.inner < config.epochs:
                    self._epoch(drawn, interrupted, advance)
                    if self.position.inner < config.epochs:
                        self._save_if_cheap()
                        self._stop_if(interrupted)
                self._finish_outer(drawn, advance)
                self._save()
                self._stop_if(interrupted)
        self.folder.draw_curves()

    def _epoch(self, drawn: npt.NDArray[np.int64], interrupted: threading.Event, advance: Advance) -> None:
        """The rest of the inner epoch at the position."""
        config, (outer, inner) = self.config, (self.position.outer, self.position.inner)
        last = inner == config.epochs - 1
        if last and not self.position.step:
            self.outputs = self._no_outputs()
        order = epoch_order(config.seed, outer, inner, self.samples)  # positions in `drawn`
        rows = [order[batch.start : batch.stop] for batch in self.batches]
        self.network.train()
        self.epoch_start = (time.monotonic(), float(self.sums[2]))
        first = self.position.step
        asked = [drawn[row[self.processes.slice(len(row))]] for row in rows[first:]]
        views = self.pictures.view_batches(asked, config.seed, outer, inner)
        for step, (row, view) in enumerate(zip(rows[first:], views, strict=True), first):
            self._require_readable(view, self.pictures)
            kept, shares = self._kept_by_all(view.kept, len(row))
            if kept.any():
                index = torch.from_numpy(drawn[row[kept]]).to(self.device)
                number = self._steps_before(outer, inner) + step
                result = self.step(view.pictures, index, self.codes, outer, number, shares=shares)
                self.sums += result.sums
                if last:
                    self.outputs[torch.from_numpy(row[kept]).to(self.device)] = result.outputs
            self.position = Position(outer, inner, step + 1)
            if self.device.type == "cpu" or step % _CHECK_STEPS == 0 or step + 1 == len(rows):
                self._require_finite_loss()
                advance(len(row), self._note())
            else:  # a look at the sums would wait for the GPU
                advance(len(row))
            if step + 1 < len(rows):
                if time.monotonic() - self.saved_at > _SAVE_SECONDS:
                    self._save()
                self._stop_if(interrupted)
        if not self.sums[2]:  # codes can't be solved from nothing
            path, reason = next(iter(self.skipped.items()))
            raise DataError(
                f"{display_path(self.images.root)}: none of the {self.samples} pictures of an iteration can be read "
                f"({display_path(path)}: {reason}): mend or remove such pictures, or draw more (--samples)"
            )
        if not last:
            self._write_metrics(self._epoch_line(outer, inner))
        self.position = Position(outer, inner + 1)

    def _finish_outer(self, drawn: npt.NDArray[np.int64], advance: Advance) -> None:
        """Let the method solve the codes, measure, keep what is best, write the iteration's line, and move on."""
        config, outer = self.config, self.position.outer
        line = self._epoch_line(outer, config.epochs - 1)
        seen = ~self.outputs[:, 0].isnan()
        index = torch.from_numpy(drawn).to(self.device)[seen]
        outputs = self.outputs[seen]
        if self.method.solves_codes:
            before = self.codes >= 0
            line["bit_accuracy"] = float(((outputs >= 0) == before[index])[:, : config.network.bits].double().mean())
            restarted = self.method.restart(self._start_context(), outer)
            if restarted is None:
                self.codes = self._shared(self.method.solve(self.codes, outputs, index, self.labels, outer))
            else:
                self.codes = self._shared(torch.from_numpy(restarted))
            line["codes_changed"] = float(((self.codes >= 0) != before).double().mean())
        line["distinct_codes"] = len(torch.unique(self.codes[:, : config.network.bits] >= 0, dim=0))
        advance(0, "validation")
        validation = self._validate()
        if validation is not None:
            paper = {"map_paper": validation.map_paper} if self.method.solves_codes else {}
            line |= {"map": validation.map, **paper, "chance": validation.chance}
        self._require_finite_weights()
        self._keep_if_best(Position(outer + 1), validation)
        line["seconds"] = round(self._seconds(), 3)
        self._write_metrics(line)
        self.position = Position(outer + 1)
        advance(0, self._note())

    def _validate(self) -> Validation | None:
        if not len(self.validation):
            return None
        gallery = np.arange(len(self.images))
        if len(gallery) > _VALIDATION_GALLERY:
            rng = sample_rng(self.config.seed, 0, 0, 0, Stream.GALLERY)
            gallery = np.sort(rng.choice(gallery, _VALIDATION_GALLERY, replace=False))
        query_codes, query_kept = self._network_codes(self.validation_pictures, np.arange(len(self.validation)))
        gallery_codes, gallery_kept = self._network_codes(self.pictures, gallery)
        gallery = gallery[gallery_kept]
        return self.processes.from_first(
            lambda: validate(
                query_codes,
                gallery_codes,
                self.codes[torch.from_numpy(gallery).to(self.device)],
                self.config.network.bits,
                self.validation.labels[query_kept],
                self.images.labels[gallery],
            )
        )

    def _start_context(self) -> StartContext:
        network = self.config.network
        return StartContext(self.images, network.bits, network.branches, self.config.seed, self._trunk_features)

    def _trunk_features(self) -> ImageFeatures:
        """Of all training pictures that can be read: the second-to-last stage, which has more of what classes look like
        than of which ones the trunk was trained on.
        """
        rows = np.arange(len(self.images))
        values = [torch.zeros(0, 4 * self.config.network.spec.channels[0])]
        kept = [np.zeros(0, np.bool_)]
        self.network.eval()
        with torch.inference_mode():
            for batch in self._plain_batches(self.pictures, rows[self.processes.slice(len(rows))]):
                kept.append(batch.kept)
                images = to_input(batch.pictures, self.preprocessing, self.device, self.channels_last)
                values.append(pool_features(self.network.backbone(images)[0]).float().cpu())
        every, shares = self._kept_by_all(np.concatenate(kept), len(rows))
        return ImageFeatures(self.processes.gather(torch.cat(values), shares).numpy(), rows[every])

    def _plain_batches(self, source: PictureSource, index: npt.NDArray[np.int64]) -> Iterator[Batch]:
        asked = [index[start : start + _VALIDATION_BATCH] for start in range(0, len(index), _VALIDATION_BATCH)]
        for batch in source.plain_batches(asked):
            self._require_readable(batch, source)
            yield batch

    def _network_codes(
        self, source: PictureSource, index: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """Codes of these pictures, uint8 [k, bytes], and which of them could be read, bool [n]."""
        kept = [np.zeros(0, np.bool_)]

        def batches() -> Iterator[npt.NDArray[np.uint8]]:
            for batch in self._plain_batches(source, index[self.processes.slice(len(index))]):
                kept.append(batch.kept)
                yield batch.pictures

        codes = network_codes(
            self.network, batches(), self.preprocessing, device=self.device, channels_last=self.channels_last
        )
        every, shares = self._kept_by_all(np.concatenate(kept), len(index))
        return self.processes.gather(torch.from_numpy(codes), shares).numpy(), every

    def _kept_by_all(self, kept: npt.NDArray[np.bool_], items: int) -> tuple[npt.NDArray[np.bool_], list[int]]:
        """Of items in a row, of which each process looked at its slice: which could be read, and how many of each's.

        kept: of this process's slice. Pictures that any of them can't read are remembered in all.
        """
        shares = self.processes.shares(items)
        every = self.processes.gather(torch.from_numpy(kept), shares).numpy()
        if not every.all():
            self.skipped = {k: v for skipped in self.processes.gather_values(self.skipped) for k, v in skipped.items()}
        return every, [int(part.sum()) for part in np.split(every, np.cumsum(shares)[:-1])]

    def _shared(self, codes: Tensor) -> Tensor:
        """Codes on the device, as the first process has them: rounding could make a bit of another one's differ."""
        codes = codes.to(self.device)
        self.processes.copy_first([codes])
        return codes

    def _keep_if_best(self, position: Position, validation: Validation | None) -> None:
        """Write best.safetensors where validation says so, or, without validation, always: the last one is kept."""
        if validation is not None and validation.map < self.best.get("map", 0.0):
            return
        self.folder.save_best(self.network.state_dict(), self.config)
        self.best = {"iteration": position.outer}
        if validation is not None:
            self.best |= {"map": validation.map, "chance": validation.chance}

    # Small parts

    def _save_if_cheap(self) -> None:
        if self.save_cost <= _SAVE_SHARE * (time.monotonic() - self.saved_at):
            self._save()

    def _stop_if(self, interrupted: threading.Event) -> None:
        if self.processes.any(interrupted.is_set()):
            if self.position.step or self.position.inner:
                self._save()
            self.folder.draw_curves()
            self.processes.wait()  # the end of one ends them all
            raise KeyboardInterrupt

    def _require_same_run(self) -> None:
        """UsageError or DataError where processes on other machines were given other options or pictures."""
        for rank, (config, digest) in enumerate(self.processes.gather_values((self.config, self.digest))):
            if differences := config.differences(self.config):
                raise UsageError(
                    f"process {rank} of this run has other options than process {self.processes.launch.rank}: "
                    f"{'; '.join(differences)}: give the same command on all machines"
                )
            if digest != self.digest:
                raise DataError(
                    f"{display_path(self.images.root)}: process {rank} of this run has other training pictures: all "
                    "machines need the same"
                )

    def _require_readable(self, batch: Batch, source: PictureSource) -> None:
        """Remember pictures that can't be read; DataError where the run is strict."""
        if batch.kept.all():
            return
        self.skipped |= source.failures
        if self.strict:
            path, reason = next(iter(self.skipped.items()))
            raise DataError(f"{display_path(source.images.root / path)}: {reason} (without --strict it is left out)")

    def _require_finite_loss(self) -> None:
        if not bool(self.sums.isfinite().all()):
            raise self._diverged("the loss is not a finite number")

    def _require_finite_weights(self) -> None:
        # A finite loss can still have had a gradient that wasn't.
        if not all(bool(v.isfinite().all()) for v in self.network.state_dict().values() if v.is_floating_point()):
            raise self._diverged("weights are not finite numbers")

    def _diverged(self, what: str) -> TrainingError:
        at = self.position
        return TrainingError(
            f"{display_path(self.folder.path)}: {what} in outer iteration {at.outer + 1}, epoch {at.inner + 1}, "
            f"step {at.step} (learning rate {self.optimizer.param_groups[0]['lr']:.2g}). The last good checkpoint is "
            "kept. Train again with a lower --lr (a third, say) or a larger --batch; if it starts at once, look "
            "whether --weights fit"
        )

    def _epoch_line(self, outer: int, inner: int) -> dict[str, Any]:
        """The epoch's line of metrics; the next epoch's sums begin."""
        hash_loss, quantisation, pictures, *classification = self.sums.tolist()
        self.sums.zero_()
        begun, pictures_then = self.epoch_start
        speed = (pictures - pictures_then) / max(time.monotonic() - begun, 1e-9)
        pictures = max(pictures, 1.0)
        return {
            "outer": outer,
            "inner": inner,
            "loss": (hash_loss + quantisation + sum(classification)) / pictures,
            "hash_loss": hash_loss / pictures,
            "quantisation_loss": quantisation / pictures,
            **({"classification_loss": classification[0] / pictures} if classification else {}),
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": round(speed, 1),
        }

    def _write_metrics(self, line: dict[str, Any]) -> None:
        self.folder.append_metrics(line)
        self.report(line)

    def _note(self) -> str:
        hash_loss, quantisation, pictures, *classification = self.sums.tolist()
        loss = hash_loss + quantisation + sum(classification)
        parts = [f"iteration {min(self.position.outer + 1, self.config.iterations)}/{self.config.iterations}"]
        parts += [f"loss {loss / pictures:.3f}"] if pictures else []
        parts += [f"map {self.best['map']:.3f}"] if "map" in self.best else []
        return ", ".join(parts)

    def _no_outputs(self) -> Tensor:
        return torch.full((self.samples, self.columns), float("nan"), device=self.device)

    def _steps_before(self, outer: int, inner: int) -> int:
        return (outer * self.config.epochs + inner) * len(self.batches)

    def _pictures_before(self, position: Position) -> int:
        epochs = position.outer * self.config.epochs + position.inner
        return epochs * self.samples + sum(len(batch) for batch in self.batches[: position.step])

    def _seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.started

    def _computed_on(self) -> str:
        where = f"{torch.get_num_threads()} threads" if self.device.type == "cpu" else self.device.type
        where = f"{where}, compiled" if self.step.compiled else where
        return where if self.processes.count == 1 else f"{self.processes.count} processes of {where}"

    def _about(self) -> dict[str, Any]:
        return {
            "data_root": display_path(self.images.root.absolute()),
            "classes": len(self.images.classes),
            **({"unseen_classes": list(self.unseen_classes)} if self.unseen_classes else {}),
            "images": len(self.images),
            "validation_images": len(self.validation),
            "samples": self.samples,
            **self.method.about(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            **({"processes": self.processes.count} if self.processes.count > 1 else {}),
            "versions": {
                "queryopt": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
            "platform": platform.platform(),
        }

    def _result(self, already_finished: bool = False) -> TrainResult:
        return TrainResult(
            out=self.folder.path,
            checkpoint=self.folder.path / BEST,
            iterations=self.position.outer,
            best_iteration=int(self.best["iteration"]),
            validation_map=self.best.get("map"),
            chance=self.best.get("chance"),
            images=len(self.images),
            validation_images=len(self.validation),
            seconds=self.earlier_seconds if already_finished else self._seconds(),
            skipped=dict(self.skipped),
            already_finished=already_finished,
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the event, so that the run stops where it can be saved; a second one stops it at
    once.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, earlier in before.items():
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default if earlier is None else earlier)


def _no_report(line: dict[str, Any]) -> None:
    pass
