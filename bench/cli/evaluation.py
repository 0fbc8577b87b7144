"""qo-bench evaluate: how fast codes are evaluated."""

from typing import TYPE_CHECKING

import click

from queryopt.cli import Command, Output, common_options

if TYPE_CHECKING:
    from queryopt.bench.speed.evaluation_speed import EvaluationSpeed

__all__ = ["command"]


@click.command("evaluate", cls=Command, short_help="qo-eval's figures from codes, beside a loop over queries.")
@click.option("--queries", type=click.IntRange(2), default=24_633, show_default=True, help="Codes to search with.")
@click.option("--gallery", type=click.IntRange(2), default=23_929, show_default=True, help="Codes to search in.")
@click.option("--bits", type=click.IntRange(1, 64), default=48, show_default=True, help="Length of the codes.")
@click.option("--classes", type=click.IntRange(2), default=555, show_default=True, help="Classes of the codes.")
@click.option("--sample", type=click.IntRange(1), default=200, show_default=True, help="Queries that the loop does.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds of all.")
@common_options
def command(out: Output, queries: int, gallery: int, bits: int, classes: int, sample: int, rounds: int) -> None:
    """Measure how long qo-eval's figures take, from made codes, at the size of NABirds.

    Beside it, in the same run and in turn, the way of published code: a loop in Python over the queries, with an
    argsort of the whole gallery for each. It does a sample of the queries, which all cost it the same.

    \b
    Examples:
      qo-bench evaluate
      qo-bench evaluate --queries 5794 --gallery 5994 --classes 200 --bits 12
    """
    from queryopt.bench.speed.evaluation_speed import measure_evaluation

    with out.progress("measure", rounds, unit="rounds") as advance:
        speed = measure_evaluation(
            queries=queries,
            gallery=gallery,
            bits=bits,
            classes=classes,
            sample=sample,
            rounds=rounds,
            progress=advance,
        )
    out.result(speed.to_dict())
    _print(out, speed)


def _print(out: Output, speed: "EvaluationSpeed") -> None:
    from rich.table import Table

    out.print(
        f"{speed.queries:,} queries, {speed.gallery:,} gallery items, {speed.bits} bits, {speed.classes:,} classes\n"
        f"{speed.machine}"
    )
    table = Table("seconds (CPU seconds)", *(f"round {n}" for n in range(1, len(speed.rounds) + 1)))
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [
        ("all metrics, one protocol", [r.deployed for r in speed.rounds]),
        ("all metrics, the other", [r.paper for r in speed.rounds]),
        (
            f"each bit's quality, and the loss without it ({speed.drop_queries:,} queries)",
            [r.bits for r in speed.rounds],
        ),
        (f"loop over {speed.sample:,} queries, as published", [r.loop for r in speed.rounds]),
        (f"loop over {speed.sample:,} queries, labels as integers", [r.lean_loop for r in speed.rounds]),
    ]
    for name, values in rows:
        table.add_row(name, *(f"{value.wall:.2f} ({value.cpu:.2f})" for value in values))
    out.print(table)
    out.print(
        f"everything: {speed.everything:.1f} s (median). The loop would take {speed.loop:.0f} s for the mAP of one "
        f"protocol: {speed.ratio:.0f} x as long as all metrics of it here, {speed.cpu_ratio:.0f} x the CPU time\n"
        f"(with labels as integers {speed.lean_ratio:.0f} x and {speed.lean_cpu_ratio:.0f} x).\n"
        f"mAP of the sample: {speed.map:.4f}, and {speed.map_pessimistic:.4f} to {speed.map_optimistic:.4f} by the "
        f"order of ties; the loop's order gave {speed.loop_map:.4f}."
    )
    if speed.load is not None:
        out.print(f"load average {speed.load[0]:.2f} before, {speed.load[1]:.2f} after")
