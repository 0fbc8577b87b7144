"""What a section of qo-bench gpu is: what it is asked, the time that it has, and what it hands back."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from queryopt.bench.speed.gpu.peers import GPU_PEERS
from queryopt.bench.speed.search.contender import Task, UnavailableError
from queryopt.bench.speed.search.data import DataSpec
from queryopt.errors import MissingError, QueryOptError
from queryopt.runtime.cuda import CudaRuntime
from queryopt.text import install_extra

__all__ = [
    "Figure",
    "GpuOptions",
    "Log",
    "Outcome",
    "Section",
    "SectionReport",
    "Turn",
    "reason_of",
    "training_packages",
]

_T = TypeVar("_T")
Log = Callable[[str], object]


@dataclass(frozen=True)
class GpuOptions:
    """What sections are asked for; each reads what concerns it.

    runtime: what reaches the GPU, as in `open_runtime`; None in a rehearsal.
    rounds: timed calls of each thing that is measured.
    data, batches, tasks, peers: of the search.
    engine: a model.plan (None: one is built). engine_batches: how many images a run of it takes.
    rehearse: do everything on the CPU, with small sizes, to see that it works.
    checkpoint: a trained run (None: an untrained ResNet-50 for times, and a small network that is trained there for
    codes).
    folder: where sections leave files for later ones.
    model_batches: images a call of the model.
    images: picture files of a round.
    """

    runtime: str | CudaRuntime | None = "auto"
    rounds: int = 7
    data: tuple[DataSpec, ...] = ()
    batches: tuple[int, ...] = (1,)
    tasks: tuple[Task, ...] = (Task(10),)
    peers: tuple[str, ...] = GPU_PEERS
    engine: Path | None = None
    engine_batches: tuple[int, ...] = (1,)
    rehearse: bool = False
    checkpoint: Path | None = None
    folder: Path = Path()
    model_batches: tuple[int, ...] = (1,)
    images: int = 64

    @property
    def device(self) -> str:
        """Where PyTorch works."""
        return "cpu" if self.rehearse else "cuda"

    def model(self, precision: str, suffix: str = ".onnx") -> Path:
        """Where the section `models` leaves the model of a precision, and `engine` its engine (suffix .plan)."""
        return self.folder / f"{precision}{suffix}"

    def need_model(self, precision: str) -> Path:
        """The model of a precision; MissingError where the section `models` left none."""
        if not self.model(precision).is_file():
            raise MissingError(f"the section models left no model in {precision}")
        return self.model(precision)


@dataclass(frozen=True)
class Figure:
    """A measured number that there is a goal for, or that a reader looks for first.

    what, value: in words, for people. number: the value itself.
    goal: what it should be at least, None where no goal is set.
    """

    what: str
    value: str
    number: float
    goal: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        return None if self.goal is None else self.number >= self.goal

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-serialisable."""
        return asdict(self) | {"reached": self.reached}


@dataclass(frozen=True)
class SectionReport:
    """What a section measured; it is sent from process to process.

    values: JSON-serialisable. tables: for people.
    figures: of it, what belongs into the one table at the end.
    problems: what is wrong, in words; the command then ends with 1.
    left_out: who did not take part, and why; shown below the tables.
    """

    values: dict[str, Any]
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    problems: Sequence[str] = ()
    left_out: Sequence[tuple[str, ...]] = ()

    def all_tables(self) -> Iterator[Table]:
        yield from self.tables
        if self.left_out:
            table = Table(box=None, title="Left out", title_justify="left", show_header=False)
            for one in dict.fromkeys(self.left_out):
                table.add_row(*one)
            yield table


@dataclass
class Turn:
    """A section's turn: what it says on its way, what it has so far, and how long it may go on.

    seconds: its time. log: takes a line for people.
    keep: takes the report as far as it has come, which is what is left where the section doesn't come to its end.
    cut: what was left out for want of time. left_out: what failed, and why.
    """

    seconds: float = float("inf")
    log: Log = lambda message: None
    keep: Callable[[SectionReport], object] = lambda report: None
    cut: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left; below zero where it took longer."""
        return self.seconds - self.spent

    def has(self, seconds: float, what: str) -> bool:
        """Whether so much time is left; if not, `what` is noted as left out."""
        if self.left >= seconds:
            return True
        self.cut.append(what)
        self.log(f"without {what}: its time is up")
        return False

    def attempt(
        self, name: str, work: Callable[[], _T], note: Callable[[Exception], object] | None = None
    ) -> _T | None:
        """What `work` gives. None where it fails, whatever it raises: that is noted, and the others go on.

        note: takes the error in place of `left_out`.
        """
        try:
            return work()
        except Exception as error:
            if note is None:
                self.left_out.append((name, reason_of(error)))
            else:
                note(error)
            self.log(f"without {name}: {reason_of(error)}")
            if not isinstance(error, QueryOptError | UnavailableError | RuntimeError | ImportError):
                self.log("".join(traceback.format_exception(error)).rstrip())
            return None

    def attempt_all(
        self,
        jobs: Iterable[tuple[str, Callable[[], _T]]],
        report: Callable[[Sequence[_T]], SectionReport],
        error: type[QueryOptError] = QueryOptError,
    ) -> SectionReport:
        """The report of what the jobs gave, which is kept after each. One that fails is left out, by name.

        So is one for which not as much time is left as the slowest took, once there is a result. `error` is raised
        where there is none at the end.
        """
        results: list[_T] = []
        so_far: SectionReport | None = None
        slowest = 0.0
        for name, job in jobs:
            if results and not self.has(slowest, name):
                continue
            before = self.spent
            result = self.attempt(name, job)
            slowest = max(slowest, self.spent - before)
            if result is not None:
                results.append(result)
            if results:
                so_far, left_out = report(results), list(self.left_out)
                so_far = replace(so_far, values=so_far.values | {"left_out": left_out}, left_out=left_out)
                self.keep(so_far)
        if so_far is None:
            raise error("; ".join(f"{name}: {reason}" for name, reason in self.left_out))
        return so_far


@dataclass(frozen=True)
class Section:
    """A part of the benchmark.

    name: as in --sections. needs: in words. share: of the time, beside the others'.
    run: measures, within its turn; MissingError, before it has measured anything, where what it needs is not here.
    """

    name: str
    needs: str
    share: float
    run: Callable[[GpuOptions, Turn], SectionReport]


@dataclass(frozen=True)
class Outcome:
    """What came of a section.

    state: "done"; "cut short" (its time was up: the report lacks what reason says); "missing" (what it needs is not
    here); "failed" (an error, or its process crashed: the report is what it had by then).
    report: None where there is none.
    """

    section: str
    state: str
    seconds: float
    report: SectionReport | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return {
            "state": self.state,
            "seconds": self.seconds,
            "reason": self.reason,
            "report": None if self.report is None else self.report.values,
        }


def reason_of(error: Exception) -> str:
    """What an error says, in one line that fits into a table."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


@contextlib.contextmanager
def training_packages() -> Iterator[None]:
    """Around imports: MissingError where the packages of training are not here."""
    try:
        yield
    except ImportError as error:
        raise MissingError(f"the packages of training ({error}): {install_extra('train')}") from None
