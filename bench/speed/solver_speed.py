"""How fast the code solver is, at the size of NABirds, beside the formula as it is written as published code has it.

That way makes S, a dense matrix of samples by images, multiplies it with U, and in each column multiplies B_rest with
U_rest^T, an images by samples matrix, before u_c. The same numbers come out of much less work: see train/solver.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from queryopt.bench.machine import Report, load_average, take_head
from queryopt.bench.speed.harness import Contender, Schedule, run_rounds
from queryopt.bench.tables import rows_table
from queryopt.errors import UsageError
from queryopt.progress import Advance, no_advance
from queryopt.train.solver import solve_codes

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["DTYPES", "Problem", "SolverSize", "make_problem", "measure_solver", "solve_literally"]

DTYPES = {"float64": torch.float64, "float32": torch.float32}
GAMMA = 200.0
_OURS = 5
"""Solutions of ours a round, of which the median counts: one takes a thousandth of the other."""


@dataclass(frozen=True)
class SolverSize:
    """What is solved; by default as much as NABirds gives.

    images: training pictures, n.
    columns: bits times branches, M.
    samples: pictures of an iteration, m.
    literal_columns: how many of the columns the literal way does, in their order; None for all.
    """

    images: int = 23_929
    columns: int = 96
    samples: int = 4_000
    classes: int = 555
    literal_columns: int | None = None


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


def make_problem(size: SolverSize, seed: int = 0) -> Problem:
    """A made first iteration: codes of noise, outputs tanh(centre of the class + noise); float64."""
    images, samples, columns, classes = size.images, size.samples, size.columns, size.classes
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
    size: SolverSize, *, dtypes: Sequence[str] = tuple(DTYPES), rounds: int = 3, progress: Advance = no_advance
) -> Report:
    """Time both ways in turn, `rounds` times in each dtype. progress: called with 1 a round."""
    literal = size.columns if size.literal_columns is None else size.literal_columns
    if not 1 <= literal <= size.columns or rounds < 1:
        raise UsageError(f"{literal} literal columns of {size.columns} in {rounds} rounds: at least one of each")
    problem = make_problem(size)
    before = load_average()
    runs = [_run(name, problem.to(DTYPES[name]), literal, rounds, progress) for name in dtypes]
    head, threads = take_head(before), torch.get_num_threads()
    text = (
        f"{size.images:,} images x {size.columns} columns, {size.samples:,} samples, {size.classes:,} classes, "
        f"{threads} threads\n{head.text}"
    )
    values = asdict(replace(size, literal_columns=literal)) | {"threads": threads, "runs": runs}
    return Report(head, values, [text, *_tables(runs, literal, size.columns)])


def _tables(runs: Sequence[dict[str, Any]], literal: int, columns: int) -> "Iterator[RenderableType]":
    some = literal != columns
    shown = {
        "median seconds": "{dtype}",
        "solve_codes": "{ours:.3f}",
        f"literal, {literal} of {columns} columns" if some else "literal": "{literal:.2f}",
        "ratio": "{ratio:,.0f}",
        "ratio of CPU time": "{cpu_ratio:,.0f}",
        "differing entries": "{differing:,} of {entries:,}",
    }
    yield rows_table(None, runs, shown)
    if some:
        yield (
            f"The literal way did {literal} of the {columns} columns, ours all of them: the ratios are of that, not "
            "scaled up, and these columns alone were compared."
        )


def _run(dtype: str, problem: Problem, columns: int, rounds: int, progress: Advance) -> dict[str, Any]:
    """Both ways in one dtype: seconds of each round and medians of all; ratio: how many times as long the literal way's
    columns took as all here, the median of the rounds' own. entries: of the codes, that both computed.
    """
    # Not timed: published code makes it again in every iteration.
    similar = (problem.labels[problem.index].unsqueeze(1) == problem.labels).to(problem.codes)  # S, [m, n]
    solved: dict[str, Tensor] = {}

    def ours(problem: Problem) -> None:
        solved["ours"] = solve_codes(problem.codes, problem.outputs, problem.index, problem.labels, GAMMA)

    def literal(problem: Problem) -> None:
        solved["literal"] = solve_literally(problem, similar, GAMMA, columns)

    contenders = [Contender("solve_codes", ours, [problem], calls=_OURS), Contender("literal", literal, [problem])]
    own, published = run_rounds(contenders, Schedule(rounds), beside=lambda: progress(1))
    by_round = zip(own.rounds, published.rounds, strict=True)
    ratio = own.ratio_by_round(published)
    return {
        "dtype": dtype,
        "rounds": [{"ours": asdict(one), "literal": asdict(other)} for one, other in by_round],
        "entries": len(problem.codes) * columns,
        "differing": int((solved["ours"][:, :columns] != solved["literal"][:, :columns]).sum()),
        "ours": own.median.wall,
        "literal": published.median.wall,
        "ratio": ratio.wall,
        "cpu_ratio": ratio.cpu,
    }
