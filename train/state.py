"""The state of a run: all that changes while it goes on, and that last.pt holds."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from queryopt.errors import CheckpointError, TrainingError
from queryopt.text import display_path
from queryopt.train.checkpoint import LAST
from queryopt.train.run_pictures import RunPictures
from queryopt.train.runs import Position, RunState
from queryopt.train.step import TrainingStep

__all__ = ["EpochMeter", "State"]


class EpochMeter:
    """What the pictures of an epoch add up to. sums: see `TrainingStep.no_sums`."""

    def __init__(self, sums: Tensor) -> None:
        self.sums = sums
        self.begin()

    def begin(self) -> None:
        """From here on an epoch, or the rest of one, is timed."""
        self._begun, self._pictures_then = time.monotonic(), float(self.sums[2])

    @property
    def loss(self) -> float | None:
        """The mean so far; None where there was no picture."""
        hash_loss, quantisation, pictures, *classification = self.sums.tolist()
        return (hash_loss + quantisation + sum(classification)) / pictures if pictures else None

    def line(self, lr: float) -> dict[str, float]:
        """The epoch's figures for metrics.jsonl; the next epoch's sums begin."""
        hash_loss, quantisation, pictures, *classification = self.sums.tolist()
        self.sums.zero_()
        speed = (pictures - self._pictures_then) / max(time.monotonic() - self._begun, 1e-9)
        pictures = max(pictures, 1.0)
        return {
            "loss": (hash_loss + quantisation + sum(classification)) / pictures,
            "hash_loss": hash_loss / pictures,
            "quantisation_loss": quantisation / pictures,
            **({"classification_loss": classification[0] / pictures} if classification else {}),
            "lr": lr,
            "images_per_second": round(speed, 1),
        }


class State:
    """codes: B, or what the method keeps there, [n, M]. outputs: U of the current outer iteration, [samples, M], NaN
    where a picture was not seen yet. position: what comes next. best: iteration and map of best.safetensors.

    What else changes is the network and the optimiser of `step`, and what `pictures` couldn't read. where: the run
    folder, for messages.
    """

    def __init__(self, step: TrainingStep, pictures: RunPictures, where: Path) -> None:
        self._step, self._pictures, self._where = step, pictures, where
        self.codes = torch.zeros(0)  # set where the run begins or goes on
        self.outputs = self.no_outputs()
        self.position = Position()
        self.meter = EpochMeter(step.no_sums())
        self.best: dict[str, Any] = {}
        self.earlier_seconds = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent so far, over all resumptions."""
        return self.earlier_seconds + time.monotonic() - self._started

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        rate: float = self._step.optimizer.param_groups[0]["lr"]
        return rate

    def no_outputs(self) -> Tensor:
        network = self._step.config.network
        shape = (self._step.samples, network.bits * network.branches)
        return torch.full(shape, float("nan"), device=self._step.device)

    def computed_on(self) -> str:
        """What rounding depends on."""
        device, processes = self._step.device.type, self._step.processes
        where = f"{torch.get_num_threads()} threads" if device == "cpu" else device
        where = f"{where}, compiled" if self._step.compiled else where
        return where if processes.count == 1 else f"{processes.count} processes of {where}"

    def saved(self) -> RunState:
        """As last.pt holds it. TrainingError where weights are not finite: nothing worth saving."""
        self.require_finite_weights()
        return RunState(
            weights={k: v.cpu() for k, v in self._step.network.state_dict().items()},
            optimizer=self._step.optimizer.state_dict(),
            codes=self.codes.cpu(),
            outputs=self.outputs.cpu(),
            position=self.position,
            sums=self.meter.sums.tolist(),
            data=self._pictures.digest,
            computed_on=self.computed_on(),
            best=self.best,
            skipped=self._pictures.skipped,
            seconds=self.seconds,
        )

    def restore(self, saved: RunState) -> None:
        """Take over what `saved` returned. CheckpointError where it is of another network."""
        device = self._step.device
        try:
            self._step.network.load_state_dict(saved.weights)
            self._step.optimizer.load_state_dict(saved.optimizer)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1].strip()[:200]
            raise CheckpointError(
                f"{display_path(self._where / LAST)}: damaged, or of another network ({reason}): remove it to "
                "start the run anew"
            ) from None
        self.codes, self.outputs = saved.codes.to(device), saved.outputs.to(device)
        self.position, self.best, self._pictures.skipped = saved.position, saved.best, saved.skipped
        self.meter = EpochMeter(torch.tensor(saved.sums, dtype=torch.float64, device=device))
        self.earlier_seconds = saved.seconds

    def require_finite_loss(self) -> None:
        if not bool(self.meter.sums.isfinite().all()):
            raise self._diverged("the loss is not a finite number")

    def require_finite_weights(self) -> None:
        # A finite loss can still have had a gradient that wasn't.
        weights: dict[str, Any] = self._step.network.state_dict()
        if not all(bool(v.isfinite().all()) for v in weights.values() if v.is_floating_point()):
            raise self._diverged("weights are not finite numbers")

    def _diverged(self, what: str) -> TrainingError:
        at = self.position
        return TrainingError(
            f"{display_path(self._where)}: {what} in outer iteration {at.outer + 1}, epoch {at.inner + 1}, "
            f"step {at.step} (learning rate {self.lr:.2g}). The last good checkpoint is kept. Train again with a lower "
            "--lr (a third, say) or a larger --batch; if it starts at once, look whether --weights fit"
        )
