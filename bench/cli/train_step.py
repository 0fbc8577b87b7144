"""qo-bench train-step: where the time of a training step goes."""

import os
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.cli import Command, Output, common_options, threads_option
from queryopt.errors import MissingError
from queryopt.text import counted, display_path, install_extra, json_text
from queryopt.train.presets import default_preset, find_preset, preset_config
from queryopt.train.sources import absolute_source, check_source, official_source, with_root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from queryopt.bench.speed.train_step import StepSpeed

__all__ = ["command"]


@click.command("train-step", cls=Command, short_help="A training step: data, forward, backward, update and solver.")
@click.option("--preset", help="Where the options start from.  [default: as in qo-train; small on a CPU]")
@click.option("--data", help="As for qo-train.  [default: made JPEGs, as many as CUB-200-2011 has]")
@click.option("--root", type=click.Path(), help="The folder of an official data set, or the one that holds it.")
@click.option("--any-size", is_flag=True, help="Take a part of an official data set: its counts are not checked.")
@click.option("--method", help="How codes are learnt, as for qo-train.")
@click.option("--bits", type=int, help="Length of a code, 1 to 64.")
@click.option("--branches", type=int, help="N, the queries and their rolled copies.")
@click.option("--backbone", help="As for qo-train. Its weights are random here: that takes as long.")
@click.option("--freeze/--no-freeze", default=None, help="Keep a ResNet's first layers as they are.")
@click.option("--image-size", type=int, help="Pixels of the square input.")
@click.option("--batch", type=int, help="Pictures in one step.")
@click.option("--amp", help="bf16 or none, as for qo-train.")
@click.option("--compile/--no-compile", default=None, help="Compile the network, as for qo-train.")
@click.option("--channels-last/--no-channels-last", default=None, help="Memory layout of the pictures on a GPU.")
@click.option("--device", help="auto, cpu or cuda.")
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Steps of a round, in each way.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds of all ways.")
@click.option("--out", "path", metavar="FILE", type=click.Path(path_type=Path), help="Write the results as JSON here.")
@threads_option
@common_options
def command(
    out: Output,
    preset: str | None,
    data: str | None,
    root: str | None,
    any_size: bool,
    steps: int,
    rounds: int,
    path: Path | None,
    **settings: Any,
) -> None:
    """Time training steps as qo-train takes them, part by part.

    data is waiting for pictures, input their way to the device, optimizer the update of the weights; the solver runs
    once an outer iteration, and its time is divided by that iteration's steps. The same batches are taken from their
    files, then from memory, where a run keeps what it decoded, then ready: that is the network alone. On a GPU times
    are those of its own time line, so data is how long it had nothing to do.

    \b
    Examples:
      qo-bench train-step
      qo-bench train-step --preset paper-cub200 --data cub200 --root ~/data --amp bf16
      qo-bench train-step --preset default --batch 8 --steps 5 --threads 2 --out step.json
    """
    if preset is not None:
        find_preset(preset)
    data = with_root(data, root, any_size)
    source = "" if data is None else absolute_source(data)
    if source:
        check_source(source)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in qo-train
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingError(f"training needs torch: {install_extra('train')}") from None
    from queryopt.bench.speed.train_step import made_images, measure_step, training_images

    official = official_source(source) if source else None
    chosen = preset or default_preset(settings["device"] or "auto", official.dataset.name if official else "")
    config = preset_config(chosen, data=source, **settings)
    with tempfile.TemporaryDirectory(prefix="queryopt-train-step-") as folder:
        images = training_images(config) if source else made_images(Path(folder))
        with out.progress("measure", rounds, unit="rounds") as advance:
            speed = measure_step(config, images, steps=steps, rounds=rounds, progress=advance)
    out.result(speed.to_dict())
    _print(out, speed)
    if path is not None:
        from queryopt.files import replacing

        with replacing(path) as file:
            file.write(json_text(speed.to_dict()).encode() + b"\n")
        out.log(f"written: {display_path(path)}")


def _print(out: Output, speed: "StepSpeed") -> None:
    how = [
        f"amp {speed.amp}",
        *(["compiled"] if speed.compile else []),
        *(["channels last"] if speed.channels_last else []),
    ]
    out.print(
        f"{speed.method}, {speed.backbone}, {speed.image_size} px, {speed.bits} bits, {speed.columns} columns, batches "
        f"of {speed.batch}; {', '.join(how)}; preset {speed.preset}\n"
        f"{speed.images:,} pictures in {speed.classes:,} classes; {speed.device}, "
        f"{counted(speed.threads, 'thread', 'threads')}, {speed.loaders} to decode\n{speed.machine}"
    )
    out.print(_table(speed))
    rates = {way: statistics.median(values) for way, values in speed.loading.items()}
    out.print(
        f"loading alone: {rates['files']:,.0f} images/s from files, {rates['memory']:,.0f} from memory, which has room "
        f"for {speed.kept:.0%} of the pictures"
    )
    for way in ("files", "memory"):
        verdict = "loading is the bottleneck" if speed.waits(way) else "loading is not the bottleneck"
        out.print(
            f"from {way}: {speed.ways[way].share('data'):.1%} of a step is waiting for pictures, and a step takes "
            f"{speed.slowdown(way):.2f} x as long ({speed.cpu_slowdown(way):.2f} x the CPU time) as with its pictures "
            f"ready: {verdict}"
        )
    if speed.solver:
        out.print(
            f"solver: {statistics.median(speed.solver):.3f} s after an iteration of {speed.epochs} x "
            f"{speed.epoch_steps} steps"
        )
    out.print(f"first step{', compiling included' if speed.compile else ''}: {speed.first_step:.1f} s")
    if speed.load is not None:
        out.print(f"load average {speed.load[0]:.2f} before, {speed.load[1]:.2f} after")


def _table(speed: "StepSpeed") -> "Table":
    from rich.table import Table

    table = Table(title="Milliseconds of a step: median (10th to 90th percentile), and share", title_justify="left")
    table.add_column("")
    titles = {"files": "from files", "memory": "from memory", "ready": "pictures ready"}
    summaries = {way: times.summary() for way, times in speed.ways.items()}
    cpu = [times.cpu_summary() for times in speed.ways.values()]
    for way in summaries:
        table.add_column(titles[way], justify="right")
        table.add_column("share", justify="right")
    for part in next(iter(summaries.values())):
        cells = []
        for rows in summaries.values():
            cells += [_cell(rows[part]), f"{rows[part]['share']:.1%}"]
        table.add_row(part, *cells)
    table.add_row("CPU, all threads", *(cell for spread in cpu for cell in (_cell(spread), "")))
    solver = [f"{1000 * speed.solver_a_step:,.1f}" if speed.solver else "none", ""]
    table.add_row("solver, divided by the steps", *solver * len(summaries))
    table.add_row("images/s", *(cell for way in summaries for cell in (f"{speed.images_per_second(way):,.1f}", "")))
    return table


def _cell(spread: "Mapping[str, float]") -> str:
    low, median, high = (1000 * spread[name] for name in ("p10", "median", "p90"))
    return f"{median:,.1f} ({low:,.1f} to {high:,.1f})"
