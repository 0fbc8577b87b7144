"""The run folder: who may write to it, what is saved in it, and how a run finds its place again."""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from queryopt.errors import CheckpointError, TrainingError, UsageError
from queryopt.files import leftovers, replacing
from queryopt.text import display_path, parse_json
from queryopt.train.checkpoint import CONFIG_KEY, Checkpoint, read_torch_file, save_best
from queryopt.train.config import TrainConfig, json_text
from queryopt.train.plots import save_curves
from queryopt.train.run_files import BEST, CONFIG, CURVES, LAST, METRICS, RUN_FILES, check_unused

__all__ = [
    "OthersFolder",
    "Position",
    "RunFolder",
    "RunState",
    "check_unused",
    "read_last",
    "read_metrics",
    "stopped_early",
]

_FORMAT = 1
_FORMAT_KEY = "queryopt.last.format_version"
_KEPT: dict[str, type | tuple[type, ...]] = {
    "model": dict,
    "optimizer": dict,
    "codes": Tensor,
    "outputs": Tensor,
    "sums": list,
    "data": str,
    "computed_on": str,
    "best": dict,
    "skipped": dict,
    "seconds": (int, float),
}
"""What last.pt holds besides its configuration and its position."""


@dataclass(frozen=True, order=True)
class Position:
    """What comes next: step `step` of inner epoch `inner` of outer iteration `outer`, all from 0."""

    outer: int = 0
    inner: int = 0
    step: int = 0


@dataclass
class RunState:
    """Everything that a run needs to go on as if it had not been stopped.

    weights: state dict. optimizer: its state dict. codes: B, or what the method keeps there, float32 [n, M]. outputs: U
    of the current outer iteration, float32 [samples, M], NaN where a picture was not seen yet (or can't be read). sums:
    hash loss, quantisation loss and pictures of the current epoch, and where there is a classification head its loss,
    for the epoch's line of metrics. data: digest of the training pictures' names and labels.
    computed_on: the device, or the number of CPU threads. best: outer iteration and map of best.safetensors. skipped:
    unreadable pictures by name, with the reason. seconds: spent so far.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    codes: Tensor
    outputs: Tensor
    position: Position = Position()
    sums: list[float] = field(default_factory=list)
    data: str = ""
    computed_on: str = ""
    best: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def read_last(path: Path) -> tuple[RunState, TrainConfig]:
    """What a last.pt holds. CheckpointError for a damaged one, and for any other file."""
    values, name = read_torch_file(path), display_path(path)
    if not isinstance(values, dict) or values.get(_FORMAT_KEY) is None:
        raise CheckpointError(f"{name}: not a last.pt of qo-train")
    if values[_FORMAT_KEY] != _FORMAT:
        raise CheckpointError(
            f"{name}: format version {values[_FORMAT_KEY]}, but this queryopt reads {_FORMAT}: upgrade"
        )
    try:
        config = TrainConfig.from_json(values[CONFIG_KEY], name)
        position = Position(**values["position"])
        for key, kind in _KEPT.items():
            if not isinstance(values[key], kind):
                raise TypeError(f"{key} is {type(values[key]).__name__}")
        kept = {key: values[key] for key in _KEPT if key != "model"}
        state = RunState(values["model"], position=position, **kept)
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{name}: damaged ({error!r}): remove it to start the run anew") from None
    return state, config


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, none where there is no such file; one that a crash cut off is left out."""
    try:
        text = (folder / METRICS).read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            value = parse_json(line)
            if isinstance(value, dict):
                lines.append(value)
    return lines


def stopped_early(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """How many outer iterations the run of a checkpoint has done, and of how many, where it stopped before its end.

    None where it is finished, or where no last.pt that can be read lies beside the checkpoint to say so.
    """
    path = checkpoint.folder / LAST
    if not path.is_file():
        return None
    try:
        state, config = read_last(path)
    except CheckpointError:
        return None
    done = state.position.outer
    return (done, config.iterations) if done < config.iterations else None


class RunFolder:
    """A run folder that this process alone writes to, until it is closed (or dies).

    Use it as a context manager. UsageError where another process holds it, or where it holds a run already and
    `resume` is not set: nothing is ever overwritten unasked.
    """

    def __init__(self, path: Path, resume: bool = False) -> None:
        self.path = path
        self._descriptor: int | None = None
        check_unused(path, resume)
        self._made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        if self._lock():
            # Nobody else writes here: these are of processes that were killed, and half a last.pt can be large.
            for left in [left for name in RUN_FILES for left in leftovers(path / name)]:
                left.unlink(missing_ok=True)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others write to the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._made:  # a run that could not begin leaves nothing behind
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def write_config(self, config: TrainConfig, about: Mapping[str, Any]) -> None:
        """Write config.json: the configuration, and beside it under "run" what is worth knowing about the run."""
        with self._replacing(CONFIG) as file:
            file.write(json_text({**config.to_dict(), "run": dict(about)}).encode())

    def save_last(self, state: RunState, config: TrainConfig) -> None:
        """Write last.pt in one step."""
        values = {
            _FORMAT_KEY: _FORMAT,
            CONFIG_KEY: config.to_json(),
            "model": state.weights,
            "optimizer": state.optimizer,
            "codes": state.codes,
            "outputs": state.outputs,
            "position": asdict(state.position),
            "sums": state.sums,
            "data": state.data,
            "computed_on": state.computed_on,
            "best": state.best,
            "skipped": state.skipped,
            "seconds": state.seconds,
        }
        # Into memory first: of a write that fails, torch.save hides the system's reason.
        data = io.BytesIO()
        torch.save(values, data)
        with self._replacing(LAST) as file:
            file.write(data.getbuffer())

    def save_best(self, weights: Mapping[str, Tensor], config: TrainConfig) -> None:
        """Write best.safetensors in one step."""
        with _explained(self.path / BEST):
            save_best(self.path / BEST, weights, config)

    def load_last(self) -> tuple[RunState, TrainConfig] | None:
        """What last.pt holds, None where there is no such file. CheckpointError for a damaged one."""
        path = self.path / LAST
        return read_last(path) if path.is_file() else None

    def require_best(self, state: RunState) -> None:
        """CheckpointError where the best checkpoint that a run had is gone: what comes to replace it could be worse."""
        if state.best and not (self.path / BEST).is_file():
            raise CheckpointError(
                f"{display_path(self.path)}: {BEST} is gone, and {LAST} holds other weights (after outer iteration "
                f"{state.position.outer}): put it back, export {LAST} instead, or train anew into another --out"
            )

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        with _explained(self.path / METRICS), (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(line), allow_nan=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; one that a crash cut off is left out."""
        return read_metrics(self.path)

    def cut_metrics(self, position: Position) -> None:
        """Drop the lines of epochs that are not done at `position`, so that a resumed run writes no line twice."""
        lines = self.read_metrics()
        kept = [m for m in lines if (m.get("outer", 0), m.get("inner", 0)) < (position.outer, position.inner)]
        if (self.path / METRICS).exists():
            with self._replacing(METRICS) as file:
                file.write("".join(json.dumps(line) + "\n" for line in kept).encode())

    def draw_curves(self) -> None:
        """Write curves.png: the lines of metrics.jsonl, drawn."""
        with _explained(self.path / CURVES):
            save_curves(self.path / CURVES, self.read_metrics())

    @contextlib.contextmanager
    def _replacing(self, name: str) -> Iterator[BinaryIO]:
        with _explained(self.path / name), replacing(self.path / name) as file:
            yield file

    def _lock(self) -> bool:
        """Hold the folder, and say whether that can be done here; UsageError where another process holds it.

        The lock is on the folder itself: no extra file, and the system lets go of it however the process ends.
        """
        try:
            import fcntl
        except ImportError:  # Windows: a second writer is not noticed there
            return False
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise UsageError(f"{display_path(self.path)}: another qo-train is writing to it") from None
            return False  # a file system without locks
        self._descriptor = descriptor
        return True


class OthersFolder(RunFolder):
    """A run folder that another process of the same run writes: nothing is read or written here."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def close(self) -> None:
        pass

    def write_config(self, config: TrainConfig, about: Mapping[str, Any]) -> None:
        pass

    def save_last(self, state: RunState, config: TrainConfig) -> None:
        pass

    def save_best(self, weights: Mapping[str, Tensor], config: TrainConfig) -> None:
        pass

    def require_best(self, state: RunState) -> None:
        pass

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        pass

    def cut_metrics(self, position: Position) -> None:
        pass

    def draw_curves(self) -> None:
        pass


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{display_path(path)}: can't be written ({error.strerror or error}); what was saved before is unharmed: "
            "make room, then continue with --resume"
        ) from error
