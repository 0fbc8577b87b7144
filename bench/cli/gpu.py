"""qo-bench gpu: every check and figure of the project on a GPU, section by section, in one command."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from queryopt.bench.cli.options import count, listed
from queryopt.cli import Command, Output, common_options
from queryopt.errors import ExitCode, MissingError, UsageError
from queryopt.text import display_path, json_text

__all__ = ["command"]

_EMULATION = "emulation"
"""Of --runtime: another way to say --rehearse."""


def _sizes(
    name: str, option: str, example: str, usual: str, small: str, what: str, metavar: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that takes a list of counts, whose default in a rehearsal is small."""
    return click.option(
        f"--{option}",
        name,
        callback=listed(count, example),
        metavar=metavar,
        help=f"{what}  [default: {usual}; in a rehearsal {small}]",
    )


@click.command("gpu", cls=Command, short_help="Every check and figure of the project, on a GPU.")
@click.option(
    "--sections",
    callback=listed(str, "model,search"),
    metavar="S,…",
    help="What to run.  [default: all]: models, engine, parity, model, files, search, train-step.",
)
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), default=7.5, show_default=True, help="Time for everything."
)
@click.option("--rehearse", is_flag=True, help="Run everything on the CPU with small sizes, to see that it works.")
@click.option(
    "--out",
    "target",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The JSON to write.  [default: bench/results/gpu-NAME.json; none in a rehearsal]",
)
@click.option("--ckpt", type=click.Path(path_type=Path), help="A run whose network is measured, not an untrained one.")
@_sizes("model_batches", "batch", "1,256", "1,8,32,256", "1,2", "Images a call of the model.", "B,…")
@click.option("--images", type=click.IntRange(1), help="Picture files of a round.  [default: 4096; in a rehearsal 8]")
@click.option("--engine", type=click.Path(path_type=Path), help="A model.plan to measure.  [default: one is built]")
@_sizes("engine_batches", "engine-batches", "1,256", "1,8,32,256", "1,2", "Images in a run of the engine.", "B,…")
@_sizes("counts", "n", "1e7", "1e7", "1e3", "Codes to search in.", "N,…")
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
@_sizes("batches", "batches", "1,1000", "1,32,1000", "1,3", "Queries a call.", "Q,…")
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
@click.option("--runtime", default="auto", show_default=True, help="auto, cuda-core, pycuda, emulation (to rehearse).")
@click.option("--rounds", type=click.IntRange(1), help="Timed rounds.  [default: 7; in a rehearsal 1]")
@common_options
def command(
    out: Output,
    sections: tuple[str, ...] | None,
    minutes: float,
    rehearse: bool,
    target: Path | None,
    ckpt: Path | None,
    model_batches: tuple[int, ...] | None,
    images: int | None,
    engine: Path | None,
    engine_batches: tuple[int, ...] | None,
    counts: tuple[int, ...] | None,
    bits: tuple[int, ...],
    kind: str,
    batches: tuple[int, ...] | None,
    nearest: tuple[int, ...],
    radius: int | None,
    peers: tuple[str, ...],
    runtime: str,
    rounds: int | None,
) -> ExitCode:
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
    from queryopt.bench.speed.gpu.isolated import run_sections
    from queryopt.bench.speed.gpu.peers import check_gpu_peers
    from queryopt.bench.speed.gpu.report import GpuBenchmark, default_path, state_of_gpu
    from queryopt.bench.speed.gpu.section import GpuOptions, Outcome
    from queryopt.bench.speed.gpu.sections import SECTIONS, choose_sections
    from queryopt.bench.speed.search.contender import Task
    from queryopt.bench.speed.search.data import specifications
    from queryopt.files import replacing
    from queryopt.runtime.cuda import check_runtime
    from queryopt.runtime.cuda.driver import find_gpu
    from queryopt.train.run_files import find_checkpoint

    if any(given == () for given in (sections, model_batches, engine_batches, counts, bits, batches, nearest)):
        raise UsageError("a list of --sections, --batch, --engine-batches, --n, --bits, --batches or -k is empty")
    rehearse = rehearse or runtime == _EMULATION
    chosen = choose_sections(sections) if sections else SECTIONS
    peers = () if peers == ("none",) else peers
    check_gpu_peers(peers)
    if runtime != _EMULATION:
        check_runtime(runtime)
    tasks = tuple(Task(k) for k in nearest) + ((Task(None, radius),) if radius is not None else ())
    counts = counts or ((1000,) if rehearse else (10_000_000,))
    data = tuple(one for number in counts for one in specifications([kind], bits, [number]))
    if ckpt is not None:
        find_checkpoint(ckpt)  # what is wrong with its path is said now
    if target is not None and not target.parent.is_dir():
        raise UsageError(f"--out: there is no folder {display_path(target.parent)}")
    gpu = None
    if not rehearse:
        try:
            gpu = find_gpu()
        except MissingError as error:
            raise MissingError(f"{error}. To see on the CPU that the sections run: --rehearse") from None
        if target is None:
            target = default_path(gpu)
            target.parent.mkdir(parents=True, exist_ok=True)
    state = None if gpu is None else state_of_gpu()
    started = time.monotonic()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="queryopt-gpu-") as folder:
        options = GpuOptions(
            runtime=None if rehearse else runtime,
            rounds=rounds or (1 if rehearse else 7),
            data=data,
            batches=batches or ((1, 3) if rehearse else (1, 32, 1000)),
            tasks=tasks,
            peers=peers,
            engine=None if engine is None else engine.absolute(),
            engine_batches=engine_batches or ((1, 2) if rehearse else (1, 8, 32, 256)),
            rehearse=rehearse,
            checkpoint=None if ckpt is None else ckpt.absolute(),
            folder=Path(folder),
            model_batches=model_batches or ((1, 2) if rehearse else (1, 8, 32, 256)),
            images=images or (8 if rehearse else 4096),
        )
        for outcome in run_sections(chosen, options, 60 * minutes, out.log):
            outcomes.append(outcome)
            report = GpuBenchmark(rehearse, gpu, tuple(outcomes), time.monotonic() - started, state)
            if target is not None:
                # After each section: what was measured is there, whatever comes later.
                with replacing(target) as file:
                    file.write((json_text(report.to_dict()) + "\n").encode())
    out.result(report.to_dict())
    for outcome in outcomes:
        for table in [] if outcome.report is None else outcome.report.tables():
            out.print(table, "")
    out.print(report.table())
    if target is not None:
        out.log(f"written: {display_path(target)}")
    problems = report.problems(sections or ())
    for problem in problems:
        out.warn(problem)
    return ExitCode.SOME_FAILED if problems else ExitCode.DONE
