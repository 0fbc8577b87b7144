"""qo-bench evaluate: how fast codes are evaluated."""

import click

from queryopt.bench.cli.options import show
from queryopt.cli import Command, Output, common_options

__all__ = ["command"]


@click.command("evaluate", cls=Command, short_help="qo-eval's figures from codes, beside a loop over queries.")
@click.option("--queries", type=click.IntRange(2), default=24_633, show_default=True, help="Codes to search with.")
@click.option("--gallery", type=click.IntRange(2), default=23_929, show_default=True, help="Codes to search in.")
@click.option("--bits", type=click.IntRange(1, 64), default=48, show_default=True, help="Length of the codes.")
@click.option("--classes", type=click.IntRange(2), default=555, show_default=True, help="Classes of the codes.")
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True, help="Queries that the loop does.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds of all.")
@common_options
def command(out: Output, rounds: int, **size: int) -> None:
    """Measure how long qo-eval's figures take, from made codes, at the size of NABirds.

    Beside it, in the same run and in turn, the way of published code: a loop in Python over the queries, with an
    argsort of the whole gallery for each. It does a sample of the queries, which all cost it the same.

    \b
    Examples:
      qo-bench evaluate
      qo-bench evaluate --queries 5794 --gallery 5994 --classes 200 --bits 12
    """
    from queryopt.bench.speed.evaluation_speed import EvaluationSize, measure_evaluation

    with out.progress("measure", rounds, unit="rounds") as advance:
        speed = measure_evaluation(EvaluationSize(**size), rounds=rounds, progress=advance)
    show(out, speed)
