"""qo-train: pictures in class folders -> a run folder."""

import contextlib
import functools
import importlib.util
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.cli import Command, Output, common_options, threads_option
from queryopt.codes import check_bits
from queryopt.errors import ExitCode, MissingError, UsageError
from queryopt.text import counted, display_path, install_extra
from queryopt.train.datasets import dataset_names
from queryopt.train.launch import launched, muted, say_once
from queryopt.train.methods import find_method, method_names
from queryopt.train.presets import PRESETS, find_preset, preset_table
from queryopt.train.run_files import LAST, check_unused
from queryopt.train.sources import check_source, load_data, official_source, with_root

if TYPE_CHECKING:
    from queryopt.train.config import TrainConfig
    from queryopt.train.data import DataSplits
    from queryopt.train.loop import TrainResult

__all__ = ["main"]


def _named_number(text: str) -> tuple[str, float]:
    name, equals, number = text.partition("=")
    try:
        if name and equals:
            return name, float(number)
    except ValueError:
        pass
    raise click.BadParameter(f"{text}: a name and a number, as in eta=10")


_EPILOG = f"""\b
Examples:
  qo-train --data photos/ --bits 24 --out runs/a
  qo-train --data photos/ --preset small --out runs/cpu
  qo-train --data synthetic:birds --preset demo --out runs/birds
  qo-train --data photos/ --method adsh --out runs/adsh
  qo-train --data cub200 --root ~/data --preset paper-cub200 --out runs/cub
  qo-train --out runs/a --resume
  torchrun --nproc-per-node 2 -m queryopt.train --data photos/ --out runs/two

\b
Official data sets (--data NAME --root DIR; an option of a set follows a plus, as in vegfru+val):
  {", ".join(dataset_names())}

\b
Presets:
""" + "\n".join(
    [
        *(f"  {name:16}{preset.summary}" for name, preset in PRESETS.items()),
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


class _TrainCommand(Command):
    """Started several times by torchrun, it speaks once."""

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
@click.option(
    "--data",
    help="A folder with one sub-folder a class (or train/ and test/ with those), the name of an official data set "
    "(see below), or synthetic:birds.",
)
@click.option("--root", type=click.Path(), help="The folder of an official data set, or the one that holds it.")
@click.option("--any-size", is_flag=True, help="Take a part of an official data set: its counts are not checked.")
@click.option(
    "--download", is_flag=True, help="Fetch the data set into --root first if it isn't there (aircraft, food101)."
)
@click.option("--out", "folder", required=True, type=click.Path(), help="The run folder to write.")
@click.option(
    "--preset",
    help="Where the other options start from; see below.  [default: on a GPU default, or paper-NAME for an official "
    "data set; on a CPU small]",
)
@click.option("--resume", is_flag=True, help="Continue the run in --out, if there is one; its own options are kept.")
@click.option("--method", help=f"How codes are learnt: {', '.join(method_names())}.  [default: queryopt]")
@click.option(
    "--method-option",
    "method_options",
    metavar="NAME=NUMBER",
    multiple=True,
    callback=lambda context, parameter, values: dict(map(_named_number, values)) or None,
    help="A hyper-parameter of the method that is not the published one; can be given several times.",
)
@click.option("--bits", type=int, help="Length of a code, 1 to 64.")
@click.option("--backbone", help="resnet50, resnet18, resnet34, resnet101, small or tiny.")
@click.option("--weights", help="Backbone weights to start from: imagenet, none, or a file.")
@click.option("--image-size", type=int, help="Pixels of the square input.")
@click.option("--dim", type=int, help="Width of tokens and queries.")
@click.option("--heads", type=int, help="Heads of an attention.")
@click.option("--feedforward", type=int, help="Hidden width of the feed-forward blocks.")
@click.option("--branches", type=int, help="N, the queries and their rolled copies in training, 1 to 384.")
@click.option("--fusion/--no-fusion", default=None, help="Top-down fusion and encoder (off: an ablation).")
@click.option("--queries/--no-queries", default=None, help="A query a bit (off: an ablation).")
@click.option("--freeze/--no-freeze", default=None, help="Keep a ResNet's first layers as they are.")
@click.option("--iterations", type=int, help="Outer iterations; 0 writes the untrained network.")
@click.option("--epochs", type=int, help="Inner epochs of an outer iteration.")
@click.option("--samples", type=int, help="Pictures drawn for an outer iteration (at most all).")
@click.option("--batch", type=int, help="Pictures in one step.")
@click.option("--optimizer", help="sgd or adamw.")
@click.option("--lr", type=float, help="Learning rate (the peak of one-cycle).")
@click.option("--schedule", help="steps, one-cycle or constant.")
@click.option(
    "--lr-step",
    "lr_steps",
    type=int,
    multiple=True,
    help="Outer iteration at which the schedule steps multiplies the rate by 0.1; can be given several times.",
)
@click.option("--weight-decay", type=float, help="Of the optimizer.")
@click.option("--gamma", type=float, help="Weight of the quantisation term, as it is (presets may scale theirs).")
@click.option("--scale-gamma/--no-scale-gamma", default=None, help="Lower it on sets smaller than CUB-200-2011.")
@click.option(
    "--classification-weight",
    type=float,
    help="Also learn to classify from the code, with this weight (the paper's Table 5; 0 for not). Not exported.",
)
@click.option("--codes", help="How the training pictures' codes start: noise (the paper), separated or visual.")
@click.option(
    "--warm-up", type=int, help="With visual codes: outer iterations that train the trunk before they are read."
)
@click.option("--hold", type=int, help="Outer iterations, from the first, that leave these codes as they start.")
@click.option("--hold-solver/--no-hold-solver", default=None, help="Leave these codes as they start for good.")
@click.option("--crop-scale", type=float, nargs=2, help="Smallest and largest share of a picture in a random crop.")
@click.option("--flip/--no-flip", default=None, help="Mirror training pictures at random.")
@click.option("--validation-fraction", type=float, help="Share of the training pictures that choose the checkpoint.")
@click.option("--test-fraction", type=float, help="Share of each class kept for tests where there is no test part.")
@click.option(
    "--open-set",
    type=float,
    help="Classes that are never trained on, which qo-eval --run then measures apart: how many, or a share below 1.",
)
@click.option("--seed", type=int, help="What every random draw derives from.")
@click.option("--channels-last/--no-channels-last", default=None, help="Memory layout of the pictures on a GPU.")
@click.option("--amp", help="bf16: train in bfloat16 but for weights, head and loss (autocast); or none.")
@click.option("--compile/--no-compile", default=None, help="Compile the network for training (torch.compile).")
@click.option("--device", help="auto, cpu or cuda.")
@click.option("--strict", is_flag=True, help="Stop at the first picture that can't be read.")
@threads_option
@common_options
def main(
    data: str | None,
    root: str | None,
    any_size: bool,
    download: bool,
    folder: str,
    preset: str | None,
    resume: bool,
    strict: bool,
    out: Output,
    **options: Any,
) -> ExitCode:
    """Train codes on labelled pictures and write a run folder.

    The run folder holds best.safetensors (what qo-export takes), last.pt (what --resume takes), config.json,
    metrics.jsonl and curves.png. The checkpoint is chosen on a part of the training pictures, never on the test part;
    the paper-* presets train on all of them and keep the last iteration. Ctrl-C saves; --resume goes on from there.
    What is not given is the preset's. `torchrun --nproc-per-node N -m queryopt.train …` trains in N processes, with the
    same result but for rounding: --batch is shared among them.
    """
    run = Path(folder)
    source = _check(run, data, root, any_size, preset, resume, download, options)
    # By default OpenMP's threads spin at every barrier: with anything else running on the machine, a training step took
    # many times as long. Read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for package in ("torch", "torchvision", "safetensors", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingError(f"training needs {package}, which is not installed: {install_extra('train')}")
    from queryopt.train.distributed import joined

    config, chosen = _config(run, preset, resume, {**options, "data": source})
    with joined(config.device) as processes:
        splits = processes.first_on_machine(lambda: _load(config, download, out))
        if chosen is not None:
            out.log(f"preset: {chosen} ({PRESETS[chosen].summary}) Others: qo-train --help")
        if processes.count > 1:
            out.log(f"{processes.count} processes train together, each with a share of every batch of {config.batch}")
        code = _train(config, splits, run, resume, strict, out)
        return code if processes.first else ExitCode.DONE


def _train(config: "TrainConfig", splits: "DataSplits", run: Path, resume: bool, strict: bool, out: Output) -> ExitCode:
    from queryopt.train.loop import train
    from queryopt.train.open_set import hold_out_classes

    divided = hold_out_classes(splits, config.open_set, config.seed)
    seen, unseen = divided.seen, divided.unseen
    used, kept = (counted(len(part), "picture", "pictures") for part in (seen.train, seen.test))
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
            out=run,
            resume=resume,
            strict=strict,
            progress=out.progress,
            report=lambda line: _log_line(out, line, config),
        )
    except KeyboardInterrupt:
        if (run / LAST).is_file():
            out.log(f"stopped; continue with: qo-train --out {display_path(run)} --resume")
        raise
    for path, reason in sorted(result.skipped.items()):
        out.warn(f"{display_path(path)}: {reason}: left out")
    if result.skipped:
        out.warn(
            f"training finished without {counted(len(result.skipped), 'picture', 'pictures')} that can't be read, and "
            "the model is good; the exit code is 1. Others may not have been looked at: those kept for tests never are"
        )
    _print(out, result, len(seen.test))
    out.result(
        asdict(result)
        | {"test_images": len(seen.test), "unseen_classes": [] if unseen is None else list(unseen.train.classes)}
    )
    return ExitCode.SOME_FAILED if result.skipped else ExitCode.DONE


def _check(
    run: Path,
    data: str | None,
    root: str | None,
    any_size: bool,
    preset: str | None,
    resume: bool,
    download: bool,
    options: dict[str, Any],
) -> str | None:
    """Raise what can be said without torch, whose import takes seconds. Returns what --data and its options mean."""
    check_unused(run, resume)
    if preset is not None:
        find_preset(preset)
    if options["bits"] is not None:
        check_bits(options["bits"])
    if options["method"] is not None and options["method"] not in method_names():
        find_method(options["method"])
    source = with_root(data, root, any_size)
    if source is not None and not download:
        check_source(source)
    if source is None and not (resume and run.is_dir()):
        raise UsageError("Missing option '--data': a folder with one sub-folder a class, or synthetic:birds")
    return source


def _config(run: Path, preset: str | None, resume: bool, options: dict[str, Any]) -> tuple["TrainConfig", str | None]:
    """The configuration that the options mean: a preset's, or, with --resume, the run's own, with these changed.

    And the name of the preset, where it was chosen here.
    """
    from queryopt.train.checkpoint import read_run_config
    from queryopt.train.presets import default_preset, preset_config

    options = {**options, "lr_steps": options["lr_steps"] or None}
    begun = read_run_config(run) if resume else None
    if begun is not None and preset is None:
        return begun.override(**options), None
    chosen = None
    if preset is None:
        official = official_source(options["data"]) if options["data"] else None
        chosen = default_preset(options["device"] or "auto", official.dataset.name if official is not None else "")
    config = preset_config(preset or chosen or "", **options)
    if not config.data:
        raise UsageError("Missing option '--data': a folder with one sub-folder a class, or synthetic:birds")
    if options.get("test_fraction") is not None and official_source(config.data) is not None:
        raise UsageError(f"--test-fraction is not for {config.data}: an official data set has its own test pictures")
    return config, chosen


def _load(config: "TrainConfig", download: bool, out: Output) -> "DataSplits":
    if download:
        source = official_source(config.data)
        if source is None:
            raise UsageError(f"--download is for official data sets, and {display_path(config.data)} is none")
        source.dataset.fetch(source.root)
    return load_data(config.data, seed=config.seed, test_fraction=config.test_fraction, progress=out.progress)


def _log_line(out: Output, line: dict[str, Any], config: "TrainConfig") -> None:
    # Where there is a bar, it says this already.
    if "seconds" not in line or sys.stderr.isatty():
        return
    done = line["outer"] + 1
    validation = f", validation mAP {line['map']:.3f}" if "map" in line else ""
    left = line["seconds"] / done * (config.iterations - done)
    out.log(
        f"iteration {done}/{config.iterations}: loss {line['loss']:.3f}{validation}, "
        f"{line['images_per_second']:,.0f} images/s, {_duration(line['seconds'])} so far"
        + (f", about {_duration(left)} left" if done < config.iterations else "")
    )


def _print(out: Output, result: "TrainResult", tests: int) -> None:
    where = display_path(result.out)
    if result.already_finished:
        out.print(f"{where}: finished already, nothing left to do")
    chosen = f", chosen on {result.validation_images:,} others (validation)" if result.validation_images else ""
    kept = f", {tests:,} kept for tests" if tests else ""
    out.print(
        f"trained on {counted(result.images, 'picture', 'pictures')}{chosen}{kept}: "
        f"{counted(result.iterations, 'iteration', 'iterations')} in {_duration(result.seconds)}"
    )
    if result.validation_map is not None and result.chance is not None:
        out.print(
            f"best: iteration {result.best_iteration}, validation mAP {result.validation_map:.3f} "
            f"(tie-aware, network codes on both sides; chance {result.chance:.3f})"
        )
    out.print(f"model:   {display_path(result.checkpoint)}")
    for name in ("curves.png", "metrics.jsonl"):
        if (result.out / name).exists():
            out.print(f"{name.partition('.')[0] + ':':9}{display_path(result.out / name)}")
    out.print(f"next:    qo-export --ckpt {where}")
    if tests:
        out.print(f"then:    qo-eval --run {where} --split test  (with the pictures kept for tests)")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, hours = round(seconds / 60), round(seconds / 60) // 60
    return f"{minutes} min" if minutes < 120 else f"{hours} h {minutes - 60 * hours} min"
