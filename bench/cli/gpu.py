"""qo-bench gpu: exact search on a GPU, and an engine there."""

from pathlib import Path

import click

from queryopt.bench.cli.lists import count, listed
from queryopt.cli import Command, Output, common_options
from queryopt.errors import ExitCode

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
@click.option(
    "--peers",
    callback=listed(str, "torch,faiss"),
    metavar="P,…",
    default="torch,faiss,cpu",
    show_default=True,
    help="Beside the search: PyTorch and FAISS on the GPU, queryopt on the CPU; or none.",
)
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
@click.option(
    "--sections",
    callback=listed(str, "engine,search"),
    metavar="S,…",
    help="What to measure: search, engine. By default search, and with --engine both.",
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
    peers: tuple[str, ...],
    runtime: str,
    engine: Path | None,
    engine_batches: tuple[int, ...],
    sections: tuple[str, ...] | None,
    rounds: int,
) -> ExitCode:
    """Measure exact search by Hamming distance on a GPU, every query against every code.

    Times are of calls from Python, with the copies of queries and results, in turn with the peers'. Some answers of
    each are compared with a plain scan. A peer that is not installed, or sees no GPU, is left out by name. --engine
    measures a model.plan, too: batches of random pixels that are waited for, one by one, and with some on their way
    while others are computed.

    \b
    Examples:
      qo-bench gpu
      qo-bench gpu --n 1e8 --bits 48 --batches 1000 --radius 2 --json
      qo-bench gpu --engine model.plan --engine-batches 1,256

    \b
    Exit codes:
      0  done
      1  done, but a result of queryopt's was wrong, or a section could not be run
      2  wrong usage
      4  no GPU, or no package that reaches it
    """
    from queryopt.bench.gpu.peers import check_gpu_peers
    from queryopt.bench.gpu.sections import GpuOptions, choose_sections, run_sections
    from queryopt.bench.search.data import specifications
    from queryopt.bench.search.peers.base import Task

    chosen = choose_sections(sections or (("engine", "search") if engine is not None else ("search",)))
    peers = () if peers == ("none",) else peers
    check_gpu_peers(peers)
    tasks = tuple(Task(k) for k in nearest) + ((Task(None, radius),) if radius is not None else ())
    data = tuple(one for number in counts for one in specifications([kind], bits, [number]))
    options = GpuOptions(runtime, rounds, data, batches, tasks, peers, engine, engine_batches)
    reports, left_out = run_sections(chosen, options, out.log)
    out.result({"sections": {name: report.to_dict() for name, report in reports.items()}, "left_out": left_out})
    problems = [f"without the section {name}: {reason}" for name, reason in left_out.items()]
    for report in reports.values():
        for table in report.tables():
            out.print(table)
        problems += report.problems()
    for problem in problems:
        out.warn(problem)
    return ExitCode.SOME_FAILED if problems else ExitCode.DONE
