"""qo-bench train-step: where the time of a training step goes."""

import os
import tempfile
from pathlib import Path
from typing import Any

import click

from queryopt.bench.cli.options import show
from queryopt.cli import Command, Output, common_options, option_group, threads_option
from queryopt.errors import MissingError
from queryopt.text import display_path, install_extra, json_text
from queryopt.train.presets import default_preset, find_preset, preset_config
from queryopt.train.sources import absolute_source, check_source, official_source, with_root

__all__ = ["command"]


def _source(data: str | None, root: str | None, any_size: bool) -> str:
    """The data set, "" where none was named."""
    typed = with_root(data, root, any_size)
    if typed is None:
        return ""
    source = absolute_source(typed)
    check_source(source)
    return source


source_options = option_group(
    "source",
    _source,
    click.option("--data", help="As for qo-train.  [default: made JPEGs, as many as CUB-200-2011 has]"),
    click.option("--root", type=click.Path(), help="The folder of an official data set, or the one that holds it."),
    click.option("--any-size", is_flag=True, help="Take a part of an official data set: its counts are not checked."),
)


@click.command("train-step", cls=Command, short_help="A training step: data, forward, backward, update and solver.")
@click.option("--preset", help="Where the options start from.  [default: as in qo-train; small on a CPU]")
@source_options
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
    source: str,
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
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in qo-train
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingError(f"training needs torch: {install_extra('train')}") from None
    from queryopt.bench.speed.train_step import made_images, measure_step, training_images

    official = official_source(source) if source else None
    dataset = official.dataset.name if official else ""
    chosen = preset or default_preset(settings["device"] or "auto", dataset, in_steps=True)
    config = preset_config(chosen, data=source, **settings)
    with tempfile.TemporaryDirectory(prefix="queryopt-train-step-") as folder:
        images = training_images(config) if source else made_images(Path(folder))
        with out.progress("measure", rounds, unit="rounds") as advance:
            speed = measure_step(config, images, steps=steps, rounds=rounds, progress=advance)
    show(out, speed)
    if path is not None:
        from queryopt.files import replacing

        with replacing(path) as file:
            file.write(json_text(speed.to_dict()).encode() + b"\n")
        out.log(f"written: {display_path(path)}")
