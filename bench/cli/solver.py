"""qo-bench solver: how fast codes are solved."""

from typing import Any

import click

from queryopt.bench.cli.options import show
from queryopt.cli import Command, Output, common_options, threads_option

__all__ = ["command"]


@click.command("solver", cls=Command, short_help="The code solver, beside its formula as it is written.")
@click.option("--images", type=click.IntRange(2), default=23_929, show_default=True, help="Training pictures, n.")
@click.option("--columns", type=click.IntRange(1), default=96, show_default=True, help="Bits times branches, M.")
@click.option("--samples", type=click.IntRange(1), default=4_000, show_default=True, help="Pictures of an iteration.")
@click.option("--classes", type=click.IntRange(2), default=555, show_default=True, help="Classes of the pictures.")
@click.option("--literal-columns", type=click.IntRange(1), help="Columns that the literal way does.  [default: all]")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds of both, in each dtype.")
@threads_option
@common_options
def command(out: Output, threads: int | None, rounds: int, **size: Any) -> None:
    """Measure a pass of the code solver at the size of NABirds, in float64 and in float32.

    Beside it, in the same run and in turn, the formula as it is written and as published code evaluates it: a dense
    matrix of who is like whom, and (B_rest U_rest^T) u_c for each column. Both codes are compared entry by entry.

    \b
    Examples:
      qo-bench solver
      qo-bench solver --literal-columns 4 --threads 1
    """
    import torch

    from queryopt.bench.speed.solver_speed import DTYPES, SolverSize, measure_solver

    if threads is not None:
        torch.set_num_threads(threads)
    with out.progress("measure", rounds * len(DTYPES), unit="rounds") as advance:
        speed = measure_solver(SolverSize(**size), rounds=rounds, progress=advance)
    show(out, speed)
