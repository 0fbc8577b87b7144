"""qo-bench search: queryopt's searcher beside FAISS and others, on the same codes, in the same run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.bench.cli.options import check_picture, count, listed, show
from queryopt.cli import Command, Output, common_options, option_group
from queryopt.errors import ExitCode, UsageError
from queryopt.text import display_path

if TYPE_CHECKING:
    from queryopt.bench.speed.search.contender import Task
    from queryopt.bench.speed.search.data import DataSpec

__all__ = ["command"]

_MEASURES = ("queries", "build", "process")


@dataclass(frozen=True)
class _Data:
    """What is searched in, and with what."""

    counts: tuple[int, ...] | None
    bits: tuple[int, ...] | None
    kinds: tuple[str, ...]
    classes: int | None
    flips: tuple[float, ...]
    far: bool
    queries: int
    seed: int

    def specifications(self) -> "tuple[DataSpec, ...]":
        from queryopt.bench.speed.search.data import specifications

        settings = {"queries": self.queries, "classes": self.classes, "far": self.far, "seed": self.seed}
        return specifications(self.kinds, self.bits, self.counts, self.flips, **settings)


@dataclass(frozen=True)
class _Measure:
    """What is measured, and how long."""

    measures: tuple[str, ...]
    rounds: int
    seconds: float

    def __post_init__(self) -> None:
        for measure in self.measures:
            if measure not in _MEASURES:
                raise UsageError(f"--measure: there is no {measure!r}: there are {', '.join(_MEASURES)}")


def _task(k: int | None, radius: int | None, batch: int) -> "Task":
    if k is not None and radius is not None:
        raise UsageError("--k and --radius: a search asks for one of them")
    from queryopt.bench.speed.search.contender import Task

    return Task(10 if k is None and radius is None else k, radius, batch)


def _contenders(structures: tuple[str, ...], peers: tuple[str, ...]) -> tuple[str, ...]:
    from queryopt.bench.speed.search.contender import contender_names

    names = contender_names(*(() if one == ("none",) else one for one in (structures, peers)))
    if not names:
        raise UsageError("nobody to measure: give --structures or --peers")
    return tuple(names)


_data_options = option_group(
    "data",
    _Data,
    click.option(
        "--n", "counts", callback=listed(count, "1e6,1e7"), metavar="N,…", help="Codes to search in.  [default: 1e6]"
    ),
    click.option("--bits", callback=listed(int, "12,48,64"), metavar="B,…", help="Code lengths.  [default: 48]"),
    click.option(
        "--data",
        "kinds",
        callback=listed(str, "clustered,uniform"),
        metavar="KIND,…",
        default="clustered",
        help="clustered, zipf, uniform, equal, or a file of codes: .npy, .npz, an index (.db).",
    ),
    click.option(
        "--classes", type=click.IntRange(1), help="Of clustered and zipf.  [default: 1,000, or one for 10,000 codes]"
    ),
    click.option(
        "--flip",
        "flips",
        callback=listed(float, "0.05,0.1"),
        metavar="P,…",
        default="0.05",
        help="Probability that a code's bit is not its class's.",
    ),
    click.option("--far", is_flag=True, help="Search with codes that are far from all others."),
    click.option("--queries", type=click.IntRange(1), default=1000, help="Different codes to search with."),
    click.option("--seed", type=click.IntRange(0), default=0, help="Of generated codes."),
)

_task_options = option_group(
    "task",
    _task,
    click.option("-k", "--k", "k", type=click.IntRange(1), help="Find the K nearest.  [default: 10]"),
    click.option("--radius", type=click.IntRange(0), help="Find all that differ in at most RADIUS bits instead."),
    click.option("--batch", type=click.IntRange(1), default=1, help="Queries a call."),
)

_contender_options = option_group(
    "contenders",
    _contenders,
    click.option(
        "--structures",
        callback=listed(str, "auto,scan"),
        default="auto",
        help="queryopt's own: auto, scan, table, multi-index; or none.",
    ),
    click.option(
        "--peers",
        callback=listed(str, "faiss,numpy"),
        default="faiss,usearch,numpy,duckdb,torch",
        help="Others to measure; those not installed are skipped; or none.",
    ),
)

_measure_options = option_group(
    "measure",
    _Measure,
    click.option(
        "--measure",
        "measures",
        callback=listed(str, "queries,build"),
        default="queries",
        help="queries; build: time and memory, in processes of their own; process: qo-search as a command.",
    ),
    click.option("--rounds", type=click.IntRange(1), default=10, help="Rounds of all contenders in turn."),
    click.option(
        "--seconds",
        type=click.FloatRange(0, min_open=True),
        default=20,
        help="Time of a contender in all rounds; a slow one answers fewer queries.",
    ),
)


@click.command(
    "search",
    cls=Command,
    short_help="Exact search beside FAISS and other libraries, one thread.",
    context_settings={"show_default": True},
)
@_data_options
@_task_options
@_contender_options
@_measure_options
@click.option("--png", "picture", type=click.Path(path_type=Path), help="Draw latency against N into this file.")
@common_options
def command(
    out: Output, data: _Data, task: "Task", contenders: tuple[str, ...], measure: _Measure, picture: Path | None
) -> ExitCode:
    """Measure exact search by Hamming distance, one thread, beside other libraries.

    All contenders get the same codes and the same queries, in turn, in rounds of rotated order; so do all sizes of
    --n. What they find is checked. 'ordered': the right codes in (distance, id) order; 'yes': the right distances,
    in an order that nobody promised among equal ones.

    \b
    Examples:
      qo-bench search
      qo-bench search --n 1e7 --bits 48,64 --structures auto,scan --peers faiss
      qo-bench search --n 1e6,1e7,1e8 --peers faiss --png latency.png
      qo-bench search --data photos.db --radius 2

    \b
    Exit codes:
      0  done
      1  done, but a result of queryopt's was wrong
      2  wrong usage
      3  a file of codes that can't be used
    """
    if picture is not None:
        if "queries" not in measure.measures:
            raise UsageError("--png draws latencies: it needs --measure queries")
        check_picture(picture)
    from queryopt.bench.speed.search.run import Settings, run_benchmark

    settings = Settings(
        data=data.specifications(),
        counts=data.counts or (),
        contenders=contenders,
        task=task,
        rounds=measure.rounds,
        seconds=measure.seconds,
        queries="queries" in measure.measures,
        builds="build" in measure.measures,
        process="process" in measure.measures,
    )
    with out.progress("measure", settings.steps, unit="parts") as advance:
        report = run_benchmark(settings, out.log, advance)
    show(out, report)
    if picture is not None:
        from queryopt.bench.speed.search.plot import plot_latency

        plot_latency(report, picture)
        out.log(f"picture: {display_path(picture)}")
    for row in report.wrong:
        out.warn(f"{row['searcher']} at N = {row['n']:,}: its results are not those of an exact search: this is a bug")
    return ExitCode.SOME_FAILED if report.wrong else ExitCode.DONE
