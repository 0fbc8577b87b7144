"""How fast the code solver is, at the size of NABirds, beside the formula as it is written as published code has it.

That way makes S, a dense matrix of samples by images, multiplies it with U, and in each column multiplies B_rest with
U_rest^T, an images by samples matrix, before u_c. The same numbers come out of much less work: see train/solver.py.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from queryopt.bench.machine import describe_machine, load_average
from queryopt.bench.speed.timing import Timing, timed
from queryopt.errors import UsageError
from queryopt.train.solver import solve_codes

__all__ = ["Problem", "SolverRound", "SolverRun", "SolverSpeed", "make_problem", "measure_solver", "solve_literally"]

DTYPES = {"float64": torch.float64, "float32": torch.float32}
GAMMA = 200.0
_OURS = 5
"""Solutions of ours a round, of which the median counts: one takes a thousandth of the other."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a solver gets (see queryopt.train.solver): codes [n, M], outputs [m, M], index [m], labels [n]."""

    codes: Tensor
    outputs: Tensor
    index: Tensor
    labels: Tensor

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same with codes and outputs of this dtype."""
        return Problem(self.codes.to(dtype), self.outputs.to(dtype), self.index, self.labels)


@dataclass(frozen=True)
class SolverRound:
    """One round. ours: one pass over all columns. literal: `SolverSpeed.literal_columns` columns of one, and S^T U."""

    ours: Timing
    literal: Timing


@dataclass(frozen=True)
class SolverRun:
    """The measurement in one dtype. entries: of B, that both computed. differing: those that are not equal."""

    dtype: str
    rounds: tuple[SolverRound, ...]
    entries: int
    differing: int

    @property
    def ours(self) -> float:
        """Seconds of ours, the median."""
        return statistics.median(r.ours.wall for r in self.rounds)

    @property
    def literal(self) -> float:
        """Seconds of the literal way, for the columns that it did, the median."""
        return statistics.median(r.literal.wall for r in self.rounds)

    @property
    def ratio(self) -> float:
        """How many times as long those columns took as all columns do here: the median of the rounds' own."""
        return statistics.median(r.literal.wall / r.ours.wall for r in self.rounds)

    @property
    def cpu_ratio(self) -> float:
        """The same of CPU seconds."""
        return statistics.median(r.literal.cpu / r.ours.cpu for r in self.rounds)


@dataclass(frozen=True)
class SolverSpeed:
    """A measurement. literal_columns: how many of the columns the literal way did, in their order."""

    images: int
    columns: int
    samples: int
    classes: int
    literal_columns: int
    threads: int
    runs: tuple[SolverRun, ...]
    machine: str
    load: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """All fields and the medians, ready for JSON."""
        names = ("ours", "literal", "ratio", "cpu_ratio")
        return asdict(self) | {
            "runs": [asdict(run) | {name: getattr(run, name) for name in names} for run in self.runs]
        }


def make_problem(images: int, columns: int, samples: int, classes: int, seed: int) -> Problem:
    """A made first iteration: codes of noise, outputs tanh(centre of the class + noise); float64."""
    if not 1 <= samples <= images or not 2 <= classes <= images or columns < 1:
        raise UsageError(
            f"{samples} samples of {images} images in {classes} classes, {columns} columns: samples and classes are at "
            "most as many as images"
        )
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    labels = torch.randperm(images, generator=generator) % classes
    index = torch.randperm(images, generator=generator)[:samples]
    return Problem(normal(images), torch.tanh(normal(classes)[labels[index]] + normal(samples)), index, labels)


@torch.no_grad()
def solve_literally(problem: Problem, similar: Tensor, gamma: float, columns: int | None = None) -> Tensor:
    """One pass over the first `columns` columns (None: all), as the formula stands. Returns B, [n, M].

    similar: S, float [m, n], 1 where the classes are equal, else 0.
    """
    codes, outputs = problem.codes.clone(), problem.outputs
    every = codes.shape[1]
    expanded = torch.zeros_like(codes)
    expanded[problem.index] = outputs
    fit = (every * similar).T @ outputs + gamma * expanded  # Q, [n, M]
    for column in range(every if columns is None else columns):
        rest = [other for other in range(every) if other != column]
        value = fit[:, column] - (codes[:, rest] @ outputs[:, rest].T) @ outputs[:, column]  # [n]
        codes[:, column] = torch.where(value >= 0, 1.0, -1.0).to(codes)
    return codes


def measure_solver(
    *,
    images: int = 23_929,
    columns: int = 96,
    samples: int = 4_000,
    classes: int = 555,
    literal_columns: int | None = None,
    dtypes: tuple[str, ...] = tuple(DTYPES),
    rounds: int = 3,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> SolverSpeed:
    """Time both ways in turn, `rounds` times in each dtype. The default size is that of NABirds.

    literal_columns: how many columns the literal way does (None: all). progress: called with 1 a round.
    """
    done = columns if literal_columns is None else literal_columns
    if not 1 <= done <= columns or rounds < 1:
        raise UsageError(f"{done} literal columns of {columns} in {rounds} rounds: at least one of each")
    problem = make_problem(images, columns, samples, classes, seed)
    before = load_average()
    runs = []
    for name in dtypes:
        given = problem.to(DTYPES[name])
        measured, differing = [], 0
        # Not timed: published code makes it again in every iteration.
        similar = (given.labels[given.index].unsqueeze(1) == given.labels).to(given.codes)  # S, [m, n]
        for _ in range(rounds):
            found: dict[str, Tensor] = {}

            def ours(given: Problem = given, found: dict[str, Tensor] = found) -> None:
                found["ours"] = solve_codes(given.codes, given.outputs, given.index, given.labels, GAMMA)

            def literal(given: Problem = given, similar: Tensor = similar, found: dict[str, Tensor] = found) -> None:
                found["literal"] = solve_literally(given, similar, GAMMA, done)

            several = [timed(ours) for _ in range(_OURS)]
            middle = Timing(statistics.median(t.wall for t in several), statistics.median(t.cpu for t in several))
            measured.append(SolverRound(middle, timed(literal)))
            differing = int((found["ours"][:, :done] != found["literal"][:, :done]).sum())
            if progress is not None:
                progress(1)
        runs.append(SolverRun(name, tuple(measured), images * done, differing))
        del similar
    after = load_average()
    return SolverSpeed(
        images=images,
        columns=columns,
        samples=samples,
        classes=classes,
        literal_columns=done,
        threads=torch.get_num_threads(),
        runs=tuple(runs),
        machine=describe_machine(),
        load=None if before is None or after is None else (before, after),
    )
