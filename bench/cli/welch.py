"""qo-bench welch: how far apart the classes' codes lie, against the Welch bound (Figure 3 of the paper)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from queryopt.bench.tables import figures_table
from queryopt.cli import Command, Output, common_options, threads_option
from queryopt.errors import ExitCode, MissingError
from queryopt.text import display_path, install_extra
from queryopt.train.run_files import find_checkpoint

if TYPE_CHECKING:
    from rich.table import Table

    from queryopt.bench.quality.welch import CodesOf, WelchReport

__all__ = ["command"]


@click.command("welch", cls=Command, short_help="Cosines between classes' codes, against the Welch bound.")
@click.option(
    "--ckpt",
    "checkpoints",
    metavar="RUN_OR_FILE",
    multiple=True,
    required=True,
    help="A run folder or checkpoint; can be given several times.",
)
@click.option(
    "--codes",
    "codes_of",
    type=click.Choice(("auto", "solved", "network")),
    default="auto",
    show_default=True,
    help="Of what: B, which the run solved for its training pictures (auto, where there is a last.pt), or the network.",
)
@click.option("--data", help="Where the run's training pictures lie now.  [default: where they were]")
@click.option(
    "--out", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Write welch.json and welch.png here."
)
@threads_option
@common_options
def command(
    out: Output,
    checkpoints: tuple[str, ...],
    codes_of: "CodesOf | Literal['auto']",
    data: str | None,
    folder: Path | None,
    threads: int | None,
) -> ExitCode:
    """Compare the cosines between classes' codes with the least that is possible.

    K codes in d < K dimensions can't all be orthogonal: the root mean square of the cosines between them, and so the
    largest one, is at least sqrt((K - d) / (d (K - 1))). Shown are both, over the d = bits x N columns that training
    has with N branches and over the code's own bits; and how many different codes the classes have.

    \b
    Examples:
      qo-bench welch --ckpt runs/a
      qo-bench welch --ckpt studies/n1-seed1 --ckpt studies/n8-seed1 --out welch/
    """
    for checkpoint in checkpoints:
        find_checkpoint(checkpoint)
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingError(f"reading a checkpoint needs torch: {install_extra('train')}") from None
    from queryopt.bench.quality.welch import welch_of_run

    reports = [welch_of_run(name, codes_of, data, threads=threads, progress=out.progress) for name in checkpoints]
    reports.sort(key=lambda report: (report.bits, report.branches))
    out.result({"runs": [report.to_dict() for report in reports]})
    out.print(_table(reports))
    whose = {report.codes_of for report in reports}
    if "solved" in whose:
        out.print("solved: the mean of B over a class's training pictures, as last.pt has it")
    if "network" in whose:
        out.print("network: the mean of the network's relaxed codes over the first training pictures of a class")
    if folder is not None:
        _write(out, reports, folder)
    return ExitCode.DONE


def _table(reports: "list[WelchReport]") -> "Table":
    numbers = ("codes", "classes", "bits", "N", "distinct codes")
    cosines = (
        f"{which}:\n{name}" for which in ("all columns", "the code") for name in ("Welch bound", "rms", "largest")
    )
    table = figures_table("Cosines between the classes' codes", "run", *numbers, *cosines)
    for report in reports:
        every, code = report.all_columns, report.code
        counts = (every.classes, report.bits, report.branches, report.distinct)
        values = (value for part in (every, code) for value in (part.bound, part.rms, part.largest))
        table.add_row(
            report.source, report.codes_of, *(f"{n:,}" for n in counts), *(f"{value:.3f}" for value in values)
        )
    return table


def _write(out: Output, reports: "list[WelchReport]", folder: Path) -> None:
    from queryopt.bench.quality.welch import plot_welch
    from queryopt.files import replacing

    folder.mkdir(parents=True, exist_ok=True)
    numbers, picture = folder / "welch.json", folder / "welch.png"
    with replacing(numbers) as file:
        file.write(json.dumps({"runs": [report.to_dict() for report in reports]}, indent=2).encode() + b"\n")
    with replacing(picture) as file:
        plot_welch(reports, file)
    for path in (numbers, picture):
        out.log(f"wrote {display_path(path)}")
