"""qo-bench ablation: the paper's studies, trained, measured and set side by side."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.bench.cli.options import listed
from queryopt.bench.quality.ablation.studies import find_study
from queryopt.bench.tables import figures_table
from queryopt.cli import Command, Output, common_options, option_group, threads_option
from queryopt.errors import ExitCode, MissingError, UsageError
from queryopt.text import counted, display_path, install_extra
from queryopt.train.presets import find_preset
from queryopt.train.sources import absolute_source, check_source, official_source, with_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queryopt.bench.quality.ablation.plan import Ablation, PlannedRun

__all__ = ["command"]

_MINUTES = 4.0
"""Of a run: what one is meant to take at most on the preset small."""


@dataclass(frozen=True)
class StudyOptions:
    """What is trained."""

    studies: tuple[str, ...]
    seeds: int
    only: tuple[str, ...] | None


_study_options = option_group(
    "what",
    StudyOptions,
    click.option(
        "--study",
        "studies",
        multiple=True,
        required=True,
        help="modules (Table 2), branches (Table 3), bits, methods (Table 1), codes or causes; "
        "can be given several times.",
    ),
    click.option(
        "--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Train each row with so many seeds."
    ),
    click.option(
        "--only", callback=listed(str, "n1,n8"), metavar="ROW,…", help="Train these rows alone (--dry-run names them)."
    ),
)
_data_options = option_group(
    "data",
    with_root,
    click.option("--data", required=True, help="As for qo-train: a folder, an official data set, or synthetic:birds."),
    click.option("--root", type=click.Path(), help="The folder of an official data set, or the one that holds it."),
    click.option("--any-size", is_flag=True, help="Take a part of an official data set: its counts are not checked."),
)


@click.command("ablation", cls=Command, short_help="The paper's studies: modules, branches, bits, methods, and more.")
@_study_options
@_data_options
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path), help="Where runs and tables go.")
@click.option("--dry-run", is_flag=True, help="List the runs and about how long they take; train nothing.")
@click.option("--preset", help="Where the options of the runs start from.  [default: as in qo-train; small on a CPU]")
@click.option("--bits", type=click.IntRange(1, 64), default=12, show_default=True, help="Length of the codes.")
@click.option("--open-set", type=float, help="Classes that no run sees, measured apart: how many, or a share below 1.")
@click.option("--codes", help="How codes start, where a row doesn't say: noise, as in the paper, or separated.")
@click.option("--iterations", type=int, help="Outer iterations of a run.  [default: small 18, else the preset's]")
@click.option("--epochs", type=int, help="Inner epochs of an iteration.  [default: small 2]")
@click.option("--samples", type=int, help="Pictures drawn for an iteration.  [default: small 1200]")
@click.option("--batch", type=int, help="Pictures in a step.")
@click.option("--lr", type=float, help="Learning rate, where a row doesn't multiply it.")
@click.option("--backbone", help="As for qo-train.")
@click.option("--weights", help="Backbone weights to start from: imagenet, none, or a file.")
@click.option("--image-size", type=int, help="Pixels of the square input.")
@click.option("--device", type=click.Choice(("auto", "cpu", "cuda")), default="auto", show_default=True, help="Where.")
@threads_option
@common_options
def command(
    out: Output,
    what: StudyOptions,
    data: str,
    folder: Path,
    dry_run: bool,
    device: str,
    threads: int | None,
    **settings: Any,
) -> ExitCode:
    """Train the rows of the paper's tables with one budget, and write them as tables, JSON and plots.

    A row that several studies have is trained once. Codes start as noise and the last iteration is kept, as in the
    paper; each row says what else is special about it. Runs lie in --out, a folder each: called again, finished ones
    are not trained again, a stopped one goes on, and the tables are over all there are. mAP are means over the orders
    of ties, of network codes on both sides ("deployed"), and with codes solved from labels in the gallery, as the paper
    ranks.

    \b
    Examples:
      qo-bench ablation --study modules --data synthetic:birds --out studies/ --dry-run
      qo-bench ablation --study branches --study causes --open-set 0.5 --seeds 3 \\
               --data 'synthetic:birds?classes=200' --out studies/
      qo-bench ablation --study methods --data cub200 --root ~/data --preset paper-cub200 --out studies/cub

    \b
    Exit codes:
      0    done
      1    done, but some runs failed; each is named
      2    wrong usage
      3    nothing usable in the input
      130  Ctrl-C; the same command goes on
    """
    studies = tuple(find_study(name) for name in dict.fromkeys(what.studies))
    source, preset = absolute_source(data), settings.pop("preset")
    if preset is not None:
        find_preset(preset)
    if settings["codes"] is not None and (own := {"codes", "causes"} & {study.name for study in studies}):
        raise UsageError(f"--codes: the rows of --study {' and '.join(sorted(own))} say how codes start: leave it out")
    check_source(source)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in qo-train
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingError(f"training needs torch: {install_extra('train')}") from None
    from queryopt.bench.quality.ablation.plan import Ablation
    from queryopt.train.presets import default_preset

    official = official_source(source)
    data_set = official.dataset.name if official is not None else ""
    ablation = Ablation(studies, preset or default_preset(device, data_set, in_steps=True), settings, folder, data_set)
    runs = ablation.runs(what.seeds, what.only or ())
    ablation.check_folders(runs)
    out.log(f"preset: {ablation.preset}; {counted(len(runs), 'run', 'runs')}, {_budget(runs[0])}")
    if dry_run:
        _list_runs(out, runs, folder, threads)
        return ExitCode.DONE
    folder.mkdir(parents=True, exist_ok=True)
    failed = _train(out, runs, folder, source, threads, device)
    _show(out, ablation, data, failed)
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _budget(run: "PlannedRun") -> str:
    config = run.config
    return (
        f"{config.iterations} iterations x {config.epochs} epochs x at most {config.samples:,} pictures each, "
        f"{config.network.image_size} px"
    )


def _list_runs(out: Output, runs: "Sequence[PlannedRun]", folder: Path, threads: int | None) -> None:
    """Name the runs, whether they are done, and about how long those that aren't take on this machine."""
    from queryopt.bench.quality.ablation.runner import read_result, seconds_for

    timed: dict[str, float] = {}
    table = figures_table(None, "run", "row", "state", "about", words=4)
    listed_runs: list[dict[str, Any]] = []
    for run in runs:
        done = read_result(folder / run.folder, run.config)
        if done is None and run.arm.name not in timed:
            timed[run.arm.name] = seconds_for(run.config, run.images, threads)
        seconds = float(done["seconds"]) if done is not None else timed[run.arm.name]
        begun = (folder / run.folder).is_dir()
        state = "done" if done is not None else "begun" if begun else "to do"
        table.add_row(run.folder, run.arm.label, state, _duration(seconds))
        listed_runs.append({"run": run.folder, "row": run.arm.label, "state": state, "seconds": round(seconds, 1)})
    left = sum(entry["seconds"] for entry in listed_runs if entry["state"] != "done")
    out.print(table, "", f"about {_duration(left)} of training left: some steps of each row were timed here and now\n")
    if slow := sorted(name for name, seconds in timed.items() if seconds > 60 * _MINUTES):
        out.log(f"longer than {_MINUTES:g} minutes a run: {', '.join(slow)} (--iterations, --samples)")
    out.result({"runs": listed_runs, "seconds_left": round(left, 1)})


def _train(
    out: Output, runs: "Sequence[PlannedRun]", folder: Path, source: str, threads: int | None, device: str
) -> dict[str, str]:
    """Do what isn't done. Returns the runs that failed, with the reason."""
    from queryopt.bench.quality.ablation.runner import run_all

    failed: dict[str, str] = {}
    outcomes = run_all(runs, folder, source, threads=threads, device=device, progress=out.progress)
    try:
        for number, outcome in enumerate(outcomes, 1):
            name = f"[{number}/{len(runs)}] {outcome.run.folder}"
            if outcome.result is None:
                failed[outcome.run.folder] = outcome.reason
                out.warn(f"{name}: failed: {outcome.reason}")
                continue
            unseen = outcome.result.get("unseen")
            out.log(
                f"{name}: mAP {outcome.result['deployed']['map']:.3f}"
                + (f", unseen {unseen['map']:.3f}" if unseen else "")
                + (f"; trained in {_duration(outcome.result['seconds'])}" if outcome.fresh else " (done before)")
            )
    except KeyboardInterrupt:
        out.log(f"stopped; what is done is kept in {display_path(folder)}: the same command goes on")
        raise
    return failed


def _show(out: Output, ablation: "Ablation", data: str, failed: dict[str, str]) -> None:
    """Write and print the tables over all that is measured."""
    from queryopt.bench.quality.ablation.report import LEGEND, cells
    from queryopt.bench.quality.ablation.runner import write_tables

    tables, names = write_tables(ablation, data)
    out.log(f"wrote {', '.join(names)} into {display_path(ablation.folder)}")
    for table in tables:
        heading, lines = cells(table)
        shown = figures_table(table.title, *heading)
        for line in lines:
            shown.add_row(*line)
        if table.missing:
            shown.caption = f"not run yet: {', '.join(table.missing)}"
        out.print(shown, "")
    out.print(LEGEND)
    out.result({"tables": [table.to_dict() for table in tables], "failed": failed, "out": str(ablation.folder)})


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
