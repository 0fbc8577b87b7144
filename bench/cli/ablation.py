"""qo-bench ablation: the paper's studies, trained, measured and set side by side."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.bench.cli.options import listed
from queryopt.cli import Command, Output, common_options, threads_option
from queryopt.errors import ExitCode, MissingError, UsageError
from queryopt.text import counted, display_path, install_extra
from queryopt.train.presets import find_preset
from queryopt.train.sources import absolute_source, check_source, official_source, with_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from queryopt.bench.quality.ablation.plan import PlannedRun
    from queryopt.bench.quality.ablation.report import StudyTable
    from queryopt.bench.quality.ablation.studies import Study

__all__ = ["command"]

_RESULTS, _TABLES = "studies.json", "studies.md"
_MINUTES = 4.0
"""Of a run: what one is meant to take at most on the preset small."""


@click.command("ablation", cls=Command, short_help="The paper's studies: modules, branches, bits, methods, and more.")
@click.option(
    "--study",
    "studies",
    multiple=True,
    required=True,
    help="modules (Table 2), branches (Table 3), bits, methods (Table 1), codes or causes; can be given several times.",
)
@click.option("--data", required=True, help="As for qo-train: a folder, an official data set, or synthetic:birds.")
@click.option("--root", type=click.Path(), help="The folder of an official data set, or the one that holds it.")
@click.option("--any-size", is_flag=True, help="Take a part of an official data set: its counts are not checked.")
@click.option("--out", "folder", required=True, type=click.Path(path_type=Path), help="Where runs and tables go.")
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Train each row with so many seeds."
)
@click.option(
    "--only", callback=listed(str, "n1,n8"), metavar="ROW,…", help="Train these rows alone (--dry-run names them)."
)
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
    studies: tuple[str, ...],
    data: str,
    root: str | None,
    any_size: bool,
    folder: Path,
    seeds: int,
    only: tuple[str, ...] | None,
    dry_run: bool,
    preset: str | None,
    bits: int,
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
    from queryopt.bench.quality.ablation.studies import find_study, select_arms

    chosen = [find_study(name) for name in dict.fromkeys(studies)]
    if preset is not None:
        find_preset(preset)
    if settings["codes"] is not None and (own := {"codes", "causes"} & {study.name for study in chosen}):
        raise UsageError(f"--codes: the rows of --study {' and '.join(sorted(own))} say how codes start: leave it out")
    typed = with_root(data, root, any_size)
    source = absolute_source(typed)
    check_source(source)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in qo-train
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MissingError(f"training needs torch: {install_extra('train')}") from None
    from queryopt.bench.quality.ablation.plan import check_folders, only_arms, plan_runs
    from queryopt.bench.quality.ablation.report import LEGEND
    from queryopt.train.presets import default_preset

    official = official_source(source)
    data_set = official.dataset.name if official is not None else ""
    preset = preset or default_preset(device, data_set)
    arms = only_arms(select_arms(chosen, bits), only or ())
    runs = plan_runs(arms, preset, {"bits": bits, **settings}, seeds)
    check_folders(runs, folder)
    out.log(f"preset: {preset}; {counted(len(runs), 'run', 'runs')}, {_budget(runs[0])}")
    if dry_run:
        _list_runs(out, runs, folder, threads)
        return ExitCode.DONE
    folder.mkdir(parents=True, exist_ok=True)
    failed = _train(out, runs, folder, source, threads, device)
    everything = plan_runs(select_arms(chosen, bits), preset, {"bits": bits, **settings}, _most_seeds(folder))
    tables = _write(out, chosen, bits, everything, folder, data_set, typed)
    for table in tables:
        out.print(_shown(table), "")
    out.print(LEGEND)
    out.result({"tables": [table.to_dict() for table in tables], "failed": failed, "out": str(folder)})
    return ExitCode.SOME_FAILED if failed else ExitCode.DONE


def _budget(run: "PlannedRun") -> str:
    config = run.config
    return (
        f"{config.iterations} iterations x {config.epochs} epochs x at most {config.samples:,} pictures each, "
        f"{config.network.image_size} px"
    )


def _list_runs(out: Output, runs: "Sequence[PlannedRun]", folder: Path, threads: int | None) -> None:
    """Name the runs, whether they are done, and about how long those that aren't take on this machine."""
    from rich.table import Table

    from queryopt.bench.quality.ablation.runner import read_result, seconds_for

    timed: dict[str, float] = {}
    table = Table("run", "row", "state", "about")
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


def _most_seeds(folder: Path) -> int:
    """The largest seed that a run in the folder has, at least 1."""
    seeds = [path.name.rpartition("-seed")[2] for path in folder.iterdir() if path.is_dir()]
    return max((int(seed) for seed in seeds if seed.isascii() and seed.isdigit() and len(seed) < 5), default=1)


def _write(
    out: Output,
    studies: "Sequence[Study]",
    bits: int,
    runs: "Sequence[PlannedRun]",
    folder: Path,
    data_set: str,
    data: str,
) -> "list[StudyTable]":
    """Write the tables over all measured runs of these studies: studies.json, studies.md, and a PNG a study."""
    import platform

    import numpy
    import torch

    from queryopt import __version__
    from queryopt.bench.machine import describe_machine
    from queryopt.bench.quality.ablation.plot import plot_study
    from queryopt.bench.quality.ablation.report import markdown, study_table
    from queryopt.bench.quality.ablation.runner import read_result
    from queryopt.files import replacing

    found = [result for run in runs if (result := read_result(folder / run.folder, run.config)) is not None]
    tables = [study_table(study, bits, found, data_set) for study in studies]
    about = {
        "command": shlex.join(["qo-bench", *sys.argv[1:]]),
        "data": data,
        "machine": describe_machine(),
        "versions": {
            "queryopt": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
    }
    values = {"format_version": 1, **about, "tables": [table.to_dict() for table in tables], "runs": found}
    said = [f"`{about['command']}`", f"{about['machine']}; torch {torch.__version__}"]
    with replacing(folder / _RESULTS) as file:
        file.write(json.dumps(values, indent=2).encode() + b"\n")
    with replacing(folder / _TABLES) as file:
        file.write(markdown(tables, said).encode())
    for table in tables:
        with replacing(folder / f"{table.study}.png") as file:
            plot_study(table, file)
    names = ", ".join([_RESULTS, _TABLES, *(f"{table.study}.png" for table in tables)])
    out.log(f"wrote {names} into {display_path(folder)}")
    return tables


def _shown(table: "StudyTable") -> "Table":
    from rich.table import Table

    from queryopt.bench.quality.ablation.report import cells

    heading, lines = cells(table)
    shown = Table(title=table.title, title_justify="left")
    shown.add_column(heading[0], no_wrap=True)
    for name in heading[1:]:
        shown.add_column(name, justify="right")
    for line in lines:
        shown.add_row(*line)
    if table.missing:
        shown.caption = f"not run yet: {', '.join(table.missing)}"
    return shown


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
