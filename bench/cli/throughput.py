"""qo-bench throughput: files to codes, beside its parts alone and beside the obvious way."""

import tempfile
from pathlib import Path
from typing import Any

import click

from queryopt.bench.cli.options import show, untrained_options
from queryopt.bench.speed.untrained import Untrained
from queryopt.cli import Command, Output, batch_option, common_options, threads_option
from queryopt.errors import InputError, UsageError
from queryopt.text import display_path

__all__ = ["command"]


@click.command("throughput", cls=Command, short_help="Pictures a second: folder to codes, and the model alone.")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--model", type=click.Path(path_type=Path), help="The model.  [default: an untrained one]")
@untrained_options
@click.option("--backend", default="auto", show_default=True, help="What runs the model.")
@click.option(
    "--peers",
    type=click.Choice(["dataloader", "none"]),
    default="dataloader",
    show_default=True,
    help="dataloader: the same files through PyTorch's DataLoader and the network in eager mode.",
)
@click.option("--images", type=click.IntRange(1), default=128, show_default=True, help="Pictures in a round, at most.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds of all three.")
@batch_option(32)
@threads_option
@common_options
def command(
    out: Output,
    folder: Path | None,
    model: Path | None,
    untrained: Untrained | None,
    peers: str,
    images: int,
    rounds: int,
    **settings: Any,
) -> None:
    """Measure pictures a second: from the files of FOLDER to codes, and the parts of that alone.

    Without FOLDER, JPEGs of about 500 x 400 pixels are made for it. The model's pixels lie in memory when it runs
    alone; codes are written into an index file. Beside it the obvious way: PyTorch's DataLoader, with as many workers,
    and the network in eager mode. All use the same threads, in turn, and medians are given.

    \b
    Examples:
      qo-bench throughput
      qo-bench throughput photos/ --model model.onnx --threads 2
    """
    if model is not None and untrained is not None:
        raise UsageError("--backbone and --bits are of an untrained model: leave them out, or leave out --model")
    from queryopt.bench.speed.throughput import Settings, make_pictures, measure

    with tempfile.TemporaryDirectory(prefix="queryopt-throughput-") as temporary:
        place = Path(temporary)
        paths = _pictures(folder, images) if folder is not None else make_pictures(place, images)
        if model is None:
            made = untrained or Untrained()
            out.log(f"exporting an untrained {made.backbone}")
            model = made.export(place / "model.onnx")
        with out.progress("measure", rounds, unit="rounds") as advance:
            how = Settings(rounds=rounds, obvious=peers == "dataloader", **settings)
            report = measure(model, paths, how, progress=advance)
    show(out, report)


def _pictures(folder: Path, images: int) -> list[Path]:
    import os

    from queryopt.images import find_images

    names = find_images(folder)
    if not names:
        raise InputError(f"{display_path(folder)}: no pictures in this folder or below it")
    return [folder / os.fsdecode(name) for name in names[:images]]
