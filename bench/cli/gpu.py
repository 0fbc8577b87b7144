"""qo-bench gpu: every check and figure of the project on a GPU, section by section, in one command."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.bench.cli.options import count, listed, show
from queryopt.cli import Command, Output, common_options, option_group
from queryopt.errors import ExitCode, MissingError, UsageError
from queryopt.text import display_path, json_text

if TYPE_CHECKING:
    from queryopt.bench.speed.gpu.report import GpuBenchmark
    from queryopt.bench.speed.gpu.section import GpuOptions, Section
    from queryopt.bench.speed.search.contender import Task
    from queryopt.bench.speed.search.data import DataSpec
    from queryopt.runtime.cuda.driver import Gpu

__all__ = ["command"]

_EMULATION = "emulation"
"""Of --runtime: another way to say --rehearse."""


@dataclass(frozen=True)
class _Plan:
    """What is run, where, and for how long."""

    sections: tuple[str, ...] | None
    minutes: float
    rehearse: bool
    runtime: str
    rounds: int | None

    @property
    def rehearsal(self) -> bool:
        return self.rehearse or self.runtime == _EMULATION

    def choose(self) -> "tuple[Section, ...]":
        """UsageError for sections, or a runtime, that aren't there."""
        from queryopt.bench.speed.gpu.sections import SECTIONS, choose_sections
        from queryopt.runtime.cuda import check_runtime

        if self.runtime != _EMULATION:
            check_runtime(self.runtime)
        return choose_sections(self.sections) if self.sections else SECTIONS

    def find_gpu(self) -> "Gpu | None":
        """None in a rehearsal."""
        from queryopt.runtime.cuda.driver import find_gpu

        if self.rehearsal:
            return None
        try:
            return find_gpu()
        except MissingError as error:
            raise MissingError(f"{error}. To see on the CPU that the sections run: --rehearse") from None


@dataclass(frozen=True)
class _Network:
    """The network that is measured, and how."""

    ckpt: Path | None
    model_batches: tuple[int, ...] | None
    images: int | None
    engine: Path | None
    engine_batches: tuple[int, ...] | None

    def check(self) -> None:
        """Say now what is wrong with the run's path."""
        from queryopt.train.run_files import find_checkpoint

        if self.ckpt is not None:
            find_checkpoint(self.ckpt)


@dataclass(frozen=True)
class _Searches:
    """What is searched, and beside whom."""

    counts: tuple[int, ...] | None
    bits: tuple[int, ...]
    kind: str
    batches: tuple[int, ...] | None
    nearest: tuple[int, ...]
    radius: int | None
    peers: tuple[str, ...]

    def tasks(self) -> "tuple[Task, ...]":
        from queryopt.bench.speed.search.contender import Task

        return tuple(Task(k) for k in self.nearest) + (() if self.radius is None else (Task(None, self.radius),))

    def data(self, count: int) -> "tuple[DataSpec, ...]":
        """count: of codes, where none is given."""
        from queryopt.bench.speed.search.data import specifications

        counts = self.counts or (count,)
        return tuple(one for number in counts for one in specifications([self.kind], self.bits, [number]))

    def others(self) -> tuple[str, ...]:
        """UsageError for a peer that isn't there."""
        from queryopt.bench.speed.gpu.peers import check_gpu_peers

        peers = () if self.peers == ("none",) else self.peers
        check_gpu_peers(peers)
        return peers


def _list(flag: str, name: str, kind: Callable[[str], Any], example: str, metavar: str, help: str, **more: Any) -> Any:
    """An option that takes a list, of which an empty one makes no sense."""
    parse = listed(kind, example)

    def callback(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[object, ...] | None:
        values = parse(context, parameter, text)
        if values == ():
            raise UsageError(f"{flag}: the list is empty")
        return values

    return click.option(*flag.split("/"), name, callback=callback, metavar=metavar, help=help, **more)


_plan_options = option_group(
    "plan",
    _Plan,
    _list(
        "--sections",
        "sections",
        str,
        "model,search",
        "S,…",
        "What to run.  [default: all]: models, engine, parity, model, files, search, train-step.",
    ),
    click.option("--minutes", type=click.FloatRange(0, min_open=True), default=7.5, help="Time for everything."),
    click.option("--rehearse", is_flag=True, help="Run everything on the CPU with small sizes, to see that it works."),
    click.option("--runtime", default="auto", help="auto, cuda-core, pycuda, emulation (to rehearse)."),
    click.option("--rounds", type=click.IntRange(1), help="Timed rounds.  [default: 7; in a rehearsal 1]"),
)

_BATCHES = "[default: 1,8,32,256; in a rehearsal 1,2]"

_network_options = option_group(
    "network",
    _Network,
    click.option(
        "--ckpt", type=click.Path(path_type=Path), help="A run whose network is measured, not an untrained one."
    ),
    _list("--batch", "model_batches", count, "1,256", "B,…", f"Images a call of the model.  {_BATCHES}"),
    click.option(
        "--images", type=click.IntRange(1), help="Picture files of a round.  [default: 4096; in a rehearsal 8]"
    ),
    click.option("--engine", type=click.Path(path_type=Path), help="A model.plan to measure.  [default: one is built]"),
    _list("--engine-batches", "engine_batches", count, "1,256", "B,…", f"Images in a run of the engine.  {_BATCHES}"),
)

_search_options = option_group(
    "searches",
    _Searches,
    _list("--n", "counts", count, "1e7", "N,…", "Codes to search in.  [default: 1e7; in a rehearsal 1e3]"),
    _list("--bits", "bits", int, "32,48", "B,…", "Code lengths.", default="32,48"),
    click.option("--data", "kind", default="clustered", help="clustered, zipf, uniform, equal, or a file of codes."),
    _list("--batches", "batches", count, "1,1000", "Q,…", "Queries a call.  [default: 1,32,1000; in a rehearsal 1,3]"),
    _list("-k/--k", "nearest", count, "10,1000", "K,…", "Find the K nearest.", default="10"),
    click.option("--radius", type=click.IntRange(0), help="Find all that differ in at most RADIUS bits, too."),
    click.option(
        "--peers",
        callback=listed(str, "torch,faiss"),
        metavar="P,…",
        default="torch,faiss,cpu",
        help="Beside the search: PyTorch and FAISS on the GPU, queryopt on the CPU; or none.",
    ),
)


@click.command(
    "gpu",
    cls=Command,
    short_help="Every check and figure of the project, on a GPU.",
    context_settings={"show_default": True},
)
@_plan_options
@click.option(
    "--out",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The JSON to write.  [default: bench/results/gpu-NAME.json; none in a rehearsal]",
)
@_network_options
@_search_options
@common_options
def command(out: Output, plan: _Plan, target: Path | None, network: _Network, searches: _Searches) -> ExitCode:
    """Run every check and figure of the project on a GPU, write one JSON, and print one table.

    Sections run one after the other, each in a process of its own: one that crashes, or for which something isn't
    installed, is named, and the others go on. Each has a share of --minutes; what it has no time for, it leaves out by
    name. The network is ResNet-50's at 224 px with random weights, which change no time, unless --ckpt names a run.

    \b
    Examples:
      qo-bench gpu
      qo-bench gpu --sections search --n 1e8 --bits 48 --batches 1000 --radius 2 --json
      qo-bench gpu --sections engine --engine model.plan --engine-batches 1,256
      qo-bench gpu --rehearse

    \b
    Exit codes:
      0  done; what isn't installed was left out
      1  done, but a result was wrong, or a section failed, or one of --sections can't be run here
      2  wrong usage
      3  the run of --ckpt can't be used
      4  no GPU
    """
    sections = plan.choose()
    options = _options(plan, network, searches)
    network.check()
    if target is not None and not target.parent.is_dir():
        raise UsageError(f"--out: there is no folder {display_path(target.parent)}")
    report = _run(out, sections, options, 60 * plan.minutes, plan.find_gpu(), target)
    show(out, report)
    problems = report.problems(plan.sections or ())
    for problem in problems:
        out.warn(problem)
    return ExitCode.SOME_FAILED if problems else ExitCode.DONE


def _options(plan: _Plan, network: _Network, searches: _Searches) -> "GpuOptions":
    from queryopt.bench.speed.gpu.section import GpuOptions

    small = plan.rehearsal
    return GpuOptions(
        runtime=None if small else plan.runtime,
        rounds=plan.rounds or (1 if small else 7),
        data=searches.data(1000 if small else 10_000_000),
        batches=searches.batches or ((1, 3) if small else (1, 32, 1000)),
        tasks=searches.tasks(),
        peers=searches.others(),
        engine=None if network.engine is None else network.engine.absolute(),
        engine_batches=network.engine_batches or ((1, 2) if small else (1, 8, 32, 256)),
        rehearse=small,
        checkpoint=None if network.ckpt is None else network.ckpt.absolute(),
        model_batches=network.model_batches or ((1, 2) if small else (1, 8, 32, 256)),
        images=network.images or (8 if small else 4096),
    )


def _run(
    out: Output,
    sections: "tuple[Section, ...]",
    options: "GpuOptions",
    seconds: float,
    gpu: "Gpu | None",
    target: Path | None,
) -> "GpuBenchmark":
    """Run the sections; the JSON is written after each: what was measured is there, whatever comes later."""
    from queryopt.bench.machine import load_average, take_head
    from queryopt.bench.speed.gpu.isolated import run_sections
    from queryopt.bench.speed.gpu.report import GpuBenchmark, default_path, state_of_gpu
    from queryopt.files import replacing

    if gpu is not None and target is None:
        target = default_path(gpu)
        target.parent.mkdir(parents=True, exist_ok=True)
    state = None if gpu is None else state_of_gpu()
    load, started = load_average(), time.monotonic()
    report = GpuBenchmark(take_head(load), options.rehearse, gpu, (), 0.0, state)
    with tempfile.TemporaryDirectory(prefix="queryopt-gpu-") as folder:
        for outcome in run_sections(sections, replace(options, folder=Path(folder)), seconds, out.log):
            report = replace(
                report,
                head=take_head(load),
                outcomes=(*report.outcomes, outcome),
                seconds=time.monotonic() - started,
            )
            if target is not None:
                with replacing(target) as file:
                    file.write((json_text(report.to_dict()) + "\n").encode())
    if target is not None:
        out.log(f"written: {display_path(target)}")
    return report
