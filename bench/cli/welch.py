"""qo-bench welch: how far apart the classes' codes lie, against the Welch bound (Figure 3 of the paper)."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from queryopt.cli import Command, Output, common_options, threads_option
from queryopt.errors import DataError, ExitCode, MissingError
from queryopt.text import display_path, install_extra
from queryopt.train.run_files import LAST, find_checkpoint

if TYPE_CHECKING:
    from rich.table import Table

    from queryopt.bench.quality.welch import WelchReport
    from queryopt.progress import Progress

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
    codes_of: str,
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
    reports = [_report(name, codes_of, data, threads, out.progress) for name in checkpoints]
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


def _report(name: str, codes_of: str, data: str | None, threads: int | None, progress: "Progress") -> "WelchReport":
    from queryopt.bench.quality.welch import network_class_codes, solved_class_codes, welch_report
    from queryopt.train.checkpoint import load_checkpoint
    from queryopt.train.data import split_validation
    from queryopt.train.open_set import hold_out_classes
    from queryopt.train.sources import load_data

    checkpoint = load_checkpoint(name)
    config = checkpoint.config
    if not (where := data or config.data):
        raise DataError(f"{display_path(name)}: its configuration doesn't say where its pictures lie: give --data")
    splits = load_data(where, seed=config.seed, test_fraction=config.test_fraction, progress=progress)
    seen = hold_out_classes(splits, config.open_set, config.seed).seen
    images, _ = split_validation(seen.train, config.validation_fraction, config.seed)
    run = Path(name) if Path(name).is_dir() or Path(name).name == LAST else checkpoint.folder
    last = run / LAST if run.is_dir() else run
    if codes_of == "solved" or (codes_of == "auto" and last.is_file()):
        codes = solved_class_codes(run, images)
    else:
        codes = network_class_codes(checkpoint, images, threads=threads, progress=progress)
    return welch_report(display_path(name), config.method, codes)


def _table(reports: "list[WelchReport]") -> "Table":
    from rich.table import Table

    table = Table(title="Cosines between the classes' codes", title_justify="left")
    table.add_column("run", no_wrap=True)
    for name in ("codes", "classes", "bits", "N", "distinct codes"):
        table.add_column(name, justify="right")
    for which in ("all columns", "the code"):
        for name in ("Welch bound", "rms", "largest"):
            table.add_column(f"{which}:\n{name}", justify="right")
    for report in reports:
        numbers = (report.all_columns.classes, report.bits, report.branches, report.distinct)
        parts = (report.all_columns, report.code)
        cosines = [f"{value:.3f}" for part in parts for value in (part.bound, part.rms, part.largest)]
        table.add_row(report.source, report.codes_of, *(f"{number:,}" for number in numbers), *cosines)
    return table


def _write(out: Output, reports: "list[WelchReport]", folder: Path) -> None:
    from queryopt.bench.quality.welch_plot import plot_welch
    from queryopt.files import replacing

    folder.mkdir(parents=True, exist_ok=True)
    numbers, picture = folder / "welch.json", folder / "welch.png"
    with replacing(numbers) as file:
        file.write(json.dumps({"runs": [report.to_dict() for report in reports]}, indent=2).encode() + b"\n")
    with replacing(picture) as file:
        plot_welch(reports, file)
    for path in (numbers, picture):
        out.log(f"wrote {display_path(path)}")
