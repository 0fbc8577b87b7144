"""qo-bench gpu: exact search on a GPU, and an engine there."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.bench.cli.lists import count, listed
from queryopt.cli import Command, Output, common_options
from queryopt.errors import ExitCode
from queryopt.text import counted

if TYPE_CHECKING:
    from rich.table import Table

    from queryopt.bench.gpu_engine import EngineReport

__all__ = ["command"]


@click.command("gpu", cls=Command, short_help="Exact search on a GPU, and an engine there.")
@click.option(
    "--n",
    "counts",
    callback=listed(count, "1e7"),
    metavar="N,…",
    default="1e7",
    show_default=True,
    help="Codes to search in.",
)
@click.option(
    "--bits", callback=listed(int, "32,48"), metavar="B,…", default="32,48", show_default=True, help="Code lengths."
)
@click.option(
    "--data",
    "kind",
    default="clustered",
    show_default=True,
    help="clustered, zipf, uniform, equal, or a file of codes.",
)
@click.option(
    "--batches",
    callback=listed(count, "1,1000"),
    metavar="Q,…",
    default="1,32,1000",
    show_default=True,
    help="Queries a call.",
)
@click.option(
    "-k",
    "--k",
    "nearest",
    callback=listed(count, "10,1000"),
    metavar="K,…",
    default="10",
    show_default=True,
    help="Find the K nearest.",
)
@click.option("--radius", type=click.IntRange(0), help="Find all that differ in at most RADIUS bits, too.")
@click.option("--runtime", default="auto", show_default=True, help="auto, cuda-core, pycuda, emulation.")
@click.option("--engine", type=click.Path(path_type=Path), help="A model.plan, whose images a second are measured too.")
@click.option(
    "--engine-batches",
    callback=listed(count, "1,32,256"),
    metavar="B,…",
    default="1,32,256",
    show_default=True,
    help="Images in a run of the engine.",
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Timed calls of each search.")
@common_options
def command(
    out: Output,
    counts: tuple[int, ...],
    bits: tuple[int, ...],
    kind: str,
    batches: tuple[int, ...],
    nearest: tuple[int, ...],
    radius: int | None,
    runtime: str,
    engine: Path | None,
    engine_batches: tuple[int, ...],
    rounds: int,
) -> ExitCode:
    """Measure exact search by Hamming distance on a GPU, every query against every code.

    Times are of calls from Python, with the copies of queries and results. Some answers of each search are compared
    with a plain scan. --engine measures a model.plan, too: batches of random pixels that are waited for, one by one,
    and with some on their way while others are computed.

    \b
    Examples:
      qo-bench gpu
      qo-bench gpu --n 1e8 --bits 48 --batches 1000 --radius 2 --json
      qo-bench gpu --engine model.plan --engine-batches 1,256

    \b
    Exit codes:
      0  done
      1  done, but a result was wrong
      2  wrong usage
      4  no GPU, or no package that reaches it
    """
    from rich.table import Table

    from queryopt.bench.gpu_engine import measure_engine, open_engine
    from queryopt.bench.gpu_search import measure_gpu_search
    from queryopt.bench.search.data import specifications
    from queryopt.bench.search.peers.base import Task

    tasks = [Task(k) for k in nearest] + ([Task(None, radius)] if radius is not None else [])
    data = [one for number in counts for one in specifications([kind], bits, [number])]
    ran = None
    if engine is not None:
        with contextlib.closing(open_engine(engine, runtime)) as backend:
            ran = measure_engine(backend, engine_batches, rounds=rounds, log=out.log)
    report = measure_gpu_search(data, batches, tasks, runtime=runtime, rounds=rounds, log=out.log)
    out.result(report.to_dict() | {"engine": None if ran is None else ran.to_dict()})
    table = Table(box=None, header_style="dim", title=f"{report.runtime}; {report.machine}", title_justify="left")
    for name in ("bits", "N", "queries", "search", "ms", "G pairs/s", "of roofline", "right"):
        table.add_column(name, justify="right")
    for row in report.rows:
        share = "" if row.share is None else f"{row.share:.0%}"
        task = f"k = {row.k:,}" if row.k is not None else f"radius {row.radius}"
        figures = (f"{row.median * 1e3:.3f}", f"{row.pairs / 1e9:,.1f}", share, "yes" if row.right else "NO")
        table.add_row(str(row.bits), f"{row.n:,}", f"{row.queries:,}", task, *figures)
    out.print(table)
    for row in report.wrong:
        asked = counted(row.queries, "query", "queries")
        out.warn(f"{row.bits} bits, {asked}: the results are not those of an exact search: this is a bug")
    if ran is not None:
        out.print(_engine_table(ran))
        for wrong in ran.wrong:
            out.warn(f"batches of {wrong.batch}: the codes depend on how batches are run: this is a bug")
    return ExitCode.SOME_FAILED if report.wrong or (ran is not None and ran.wrong) else ExitCode.DONE


def _engine_table(report: "EngineReport") -> "Table":
    from rich.table import Table

    title = f"{report.backend}, {report.precision}"
    table = Table(box=None, header_style="dim", title=title, title_justify="left")
    for name in ("images a batch", "ms alone", "images/s, overlapped", "gain of overlap", "same codes"):
        table.add_column(name, justify="right")
    for row in report.rows:
        figures = (f"{row.latency * 1e3:.3f}", f"{row.images_per_second:,.0f}", f"{row.gain:.2f}")
        table.add_row(f"{row.batch:,}", *figures, "yes" if row.same else "NO")
    return table
