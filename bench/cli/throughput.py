"""qo-bench throughput: files to codes, beside its parts alone and beside the obvious way."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.cli import Command, Output, batch_option, common_options, threads_option
from queryopt.errors import InputError, UsageError
from queryopt.text import counted, display_path

if TYPE_CHECKING:
    from queryopt.bench.speed.throughput import Throughput

__all__ = ["command"]


@click.command("throughput", cls=Command, short_help="Pictures a second: folder to codes, and the model alone.")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--model", type=click.Path(path_type=Path), help="The model.  [default: an untrained one]")
@click.option("--backbone", metavar="NAME", help="Of the untrained model.  [default: resnet50]")
@click.option("--bits", type=click.IntRange(1, 64), help="Of the untrained model.  [default: 12]")
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
    backbone: str | None,
    bits: int | None,
    backend: str,
    peers: str,
    images: int,
    rounds: int,
    batch: int,
    threads: int | None,
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
    if model is not None and (backbone is not None or bits is not None):
        raise UsageError("--backbone and --bits are of an untrained model: leave them out, or leave out --model")
    from queryopt.bench.speed.throughput import make_pictures, measure
    from queryopt.bench.speed.untrained import untrained_model

    with tempfile.TemporaryDirectory(prefix="queryopt-throughput-") as temporary:
        place = Path(temporary)
        paths = _pictures(folder, images) if folder is not None else make_pictures(place, images)
        if model is None:
            out.log(f"exporting an untrained {backbone or 'resnet50'}")
            model = untrained_model(place / "model.onnx", backbone or "resnet50", bits or 12)
        with out.progress("measure", rounds, unit="rounds") as advance:
            report = measure(
                model,
                paths,
                threads=threads,
                batch=batch,
                rounds=rounds,
                backend=backend,
                obvious=peers == "dataloader",
                progress=advance,
            )
    out.result(report.to_dict())
    _print(out, report)


def _pictures(folder: Path, images: int) -> list[Path]:
    import os

    from queryopt.images import find_images

    found = find_images(folder)
    if not found:
        raise InputError(f"{display_path(folder)}: no pictures in this folder or below it")
    return [folder / os.fsdecode(path) for path in found[:images]]


def _print(out: Output, report: "Throughput") -> None:
    from rich.table import Table

    out.print(
        f"{report.backbone}, {report.bits} bits, {report.image_size} px, {report.precision}; {report.backend}\n"
        f"{counted(report.pictures, 'picture', 'pictures')} of {report.megabytes * 1000:.0f} kB, batches of "
        f"{report.batch}, {counted(report.threads, 'thread', 'threads')}, "
        f"{counted(len(report.rounds), 'round', 'rounds')}\n{report.machine}"
    )
    table = Table("", *(f"round {n}" for n in range(1, len(report.rounds) + 1)), "median")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [
        ("files to codes, images/s", [r.end_to_end for r in report.rounds], report.end_to_end),
        ("model alone, images/s", [r.model for r in report.rounds], report.model_alone),
        ("decoding alone, images/s", [r.decode for r in report.rounds], report.decode_alone),
        ("writing codes alone, images/s", [r.write for r in report.rounds], report.write_alone),
    ]
    if report.copy_alone is not None:
        rows.append(("copying to the GPU alone, images/s", [r.copy or 0 for r in report.rounds], report.copy_alone))
    if report.obvious is not None:
        rows.append(("DataLoader + eager, images/s", [r.obvious or 0 for r in report.rounds], report.obvious))
    for name, values, median in rows:
        table.add_row(name, *(f"{value:,.1f}" for value in values), f"{median:,.1f}")
    ratios = (f"{r.ratio:.3f}" for r in report.rounds)
    table.add_row("files to codes / model alone", *ratios, f"{report.ratio:.3f}")
    if report.gain is not None:
        gains = (f"{r.gain:.2f}" for r in report.rounds)
        table.add_row("files to codes / DataLoader + eager", *gains, f"{report.gain:.2f}")
    out.print(table)
    if report.load is not None:
        out.print(f"load average {report.load[0]:.2f} before, {report.load[1]:.2f} after")
