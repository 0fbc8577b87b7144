"""qo-bench solver: how fast codes are solved."""

from typing import TYPE_CHECKING

import click

from queryopt.cli import Command, Output, common_options, threads_option

if TYPE_CHECKING:
    from queryopt.bench.speed.solver_speed import SolverSpeed

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
def command(
    out: Output,
    images: int,
    columns: int,
    samples: int,
    classes: int,
    literal_columns: int | None,
    rounds: int,
    threads: int | None,
) -> None:
    """Measure a pass of the code solver at the size of NABirds, in float64 and in float32.

    Beside it, in the same run and in turn, the formula as it is written and as published code evaluates it: a dense
    matrix of who is like whom, and (B_rest U_rest^T) u_c for each column. Both codes are compared entry by entry.

    \b
    Examples:
      qo-bench solver
      qo-bench solver --literal-columns 4 --threads 1
    """
    import torch

    from queryopt.bench.speed.solver_speed import DTYPES, measure_solver

    if threads is not None:
        torch.set_num_threads(threads)
    with out.progress("measure", rounds * len(DTYPES), unit="rounds") as advance:
        speed = measure_solver(
            images=images,
            columns=columns,
            samples=samples,
            classes=classes,
            literal_columns=literal_columns,
            rounds=rounds,
            progress=advance,
        )
    out.result(speed.to_dict())
    _print(out, speed)


def _print(out: Output, speed: "SolverSpeed") -> None:
    from rich.table import Table

    out.print(
        f"{speed.images:,} images x {speed.columns} columns, {speed.samples:,} samples, {speed.classes:,} classes, "
        f"{speed.threads} threads\n{speed.machine}"
    )
    some = speed.literal_columns < speed.columns
    title = f"literal, {speed.literal_columns} of {speed.columns} columns" if some else "literal"
    table = Table("median seconds", "solve_codes", title, "ratio", "ratio of CPU time", "differing entries")
    for column in table.columns[1:]:
        column.justify = "right"
    for run in speed.runs:
        table.add_row(
            run.dtype,
            f"{run.ours:.3f}",
            f"{run.literal:.2f}",
            f"{run.ratio:,.0f}",
            f"{run.cpu_ratio:,.0f}",
            f"{run.differing:,} of {run.entries:,}",
        )
    out.print(table)
    if some:
        out.print(
            f"The literal way did {speed.literal_columns} of the {speed.columns} columns, ours all of them: the ratios "
            "are of that, not scaled up, and these columns alone were compared."
        )
    if speed.load is not None:
        out.print(f"load average {speed.load[0]:.2f} before, {speed.load[1]:.2f} after")
