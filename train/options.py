"""The options of qo-train, in groups. None, in all but the first two, is the preset's, or the run's that goes on."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from queryopt.cli import option_group, threads_option
from queryopt.errors import UsageError
from queryopt.train.method_rules import method_names

__all__ = [
    "BASIC",
    "SECTIONS",
    "CodeOptions",
    "DataOptions",
    "LearningOptions",
    "NetworkOptions",
    "PictureOptions",
    "RunOptions",
    "SpeedOptions",
    "code_options",
    "data_options",
    "learning_options",
    "network_options",
    "picture_options",
    "run_options",
    "settings_of",
    "speed_options",
]


def _named_number(text: str) -> tuple[str, float]:
    name, equals, number = text.partition("=")
    try:
        if name and equals:
            return name, float(number)
    except ValueError:
        pass
    raise click.BadParameter(f"{text}: a name and a number, as in eta=10")


@dataclass(frozen=True)
class DataOptions:
    """Where the pictures are."""

    data: str | None
    root: str | None
    any_size: bool
    download: bool


data_options = option_group(
    "data",
    DataOptions,
    click.option(
        "--data",
        metavar="DATA",
        help="A folder with one sub-folder a class (or train/ and test/ with those), unlabelled:FOLDER (of --method "
        "linear), the name of an official data set, or synthetic:birds.",
    ),
    click.option("--root", type=click.Path(), help="The folder of an official data set, or the one that holds it."),
    click.option("--any-size", is_flag=True, help="Take a part of an official data set: its counts are not checked."),
    click.option(
        "--download", is_flag=True, help="Fetch the data set into --root first if it isn't there (aircraft, food101)."
    ),
)


_FOLDER_OF_DATA = Path("runs", "…")


@dataclass(frozen=True)
class RunOptions:
    """Where a run is written, and how it begins. folder: see for_data."""

    folder: Path
    preset: str | None
    resume: bool
    strict: bool
    no_cache: bool

    def for_data(self, data: str | None) -> "RunOptions":
        """The same with a folder: where none was given, runs/ and the name of the data."""
        if self.folder != _FOLDER_OF_DATA:
            return self
        if data is None:
            raise UsageError(
                "no pictures to train on: qo-train FOLDER, which has one sub-folder a class; a run goes on with: "
                "qo-train --out RUN --resume"
            )
        source = data.rpartition(":")[2].partition("?")[0]
        return replace(self, folder=Path("runs", Path(os.path.abspath(source)).name))


run_options = option_group(
    "run",
    RunOptions,
    click.option(
        "--out",
        "folder",
        type=click.Path(path_type=Path),
        default=_FOLDER_OF_DATA,
        help="The run folder to write.  [default: runs/ and the name of DATA]",
    ),
    click.option(
        "--preset",
        help="Settings that the others are changes of: default (on a GPU; paper-NAME for an official data set), "
        "pictures (on a CPU), small (where its weights are not installed), demo, …",
    ),
    click.option(
        "--resume", is_flag=True, help="Continue the run in --out, if there is one; its own options are kept."
    ),
    click.option("--strict", is_flag=True, help="Stop at the first picture that can't be read."),
    click.option(
        "--no-cache",
        is_flag=True,
        help="Neither take features of pictures that were kept from earlier runs, nor keep them for later ones.",
    ),
)


@dataclass(frozen=True)
class NetworkOptions:
    """Fields of NetworkConfig, and the method's."""

    method: str | None
    method_options: dict[str, float] | None
    bits: int | None
    backbone: str | None
    weights: str | None
    image_size: int | None
    resize: str | None
    dim: int | None
    heads: int | None
    feedforward: int | None
    branches: int | None
    fusion: bool | None
    queries: bool | None
    freeze: bool | None
    freeze_trunk: bool | None


network_options = option_group(
    "network",
    NetworkOptions,
    click.option("--method", help=f"How codes are learnt: {', '.join(method_names())}.  [default: queryopt]"),
    click.option(
        "--method-option",
        "method_options",
        metavar="NAME=NUMBER",
        multiple=True,
        callback=lambda context, parameter, values: dict(map(_named_number, values)) or None,
        help="A hyper-parameter of the method that is not the published one; can be given several times.",
    ),
    click.option("--bits", type=int, help="Length of a code, 1 to 64."),
    click.option("--backbone", help="resnet50, resnet18, resnet34, resnet101, small, tiny, or a model of timm."),
    click.option("--weights", help="Backbone weights to start from: imagenet, none, or a file."),
    click.option("--image-size", type=int, help="Pixels of the square input."),
    click.option("--resize", help="How a picture becomes a square: crop or pad."),
    click.option("--dim", type=int, help="Width of tokens and queries."),
    click.option("--heads", type=int, help="Heads of an attention."),
    click.option("--feedforward", type=int, help="Hidden width of the feed-forward blocks."),
    click.option("--branches", type=int, help="N, the queries and their rolled copies in training, 1 to 384."),
    click.option("--fusion/--no-fusion", default=None, help="Top-down fusion and encoder (off: an ablation)."),
    click.option("--queries/--no-queries", default=None, help="A query a bit (off: an ablation)."),
    click.option("--freeze/--no-freeze", default=None, help="Keep a ResNet's first layers as they are."),
    click.option("--freeze-trunk/--no-freeze-trunk", default=None, help="Train only what comes after the backbone."),
)


@dataclass(frozen=True)
class LearningOptions:
    """How long, and at which rates."""

    iterations: int | None
    minutes: float | None
    epochs: int | None
    samples: int | None
    batch: int | None
    optimizer: str | None
    lr: float | None
    schedule: str | None
    lr_steps: tuple[int, ...] | None
    weight_decay: float | None


learning_options = option_group(
    "learning",
    LearningOptions,
    click.option(
        "--iterations",
        type=int,
        help="Outer iterations; 0 writes the untrained network. Of the method linear: passes that train on from the "
        "closed form.",
    ),
    click.option(
        "--minutes",
        type=float,
        help="Of the method linear: train on from the closed form, in as many passes as a run of so many minutes has "
        "time for.",
    ),
    click.option("--epochs", type=int, help="Inner epochs of an outer iteration."),
    click.option("--samples", type=int, help="Pictures drawn for an outer iteration (at most all)."),
    click.option("--batch", type=int, help="Pictures in one step."),
    click.option("--optimizer", help="sgd or adamw."),
    click.option("--lr", type=float, help="Learning rate (the peak of one-cycle)."),
    click.option("--schedule", help="steps, one-cycle or constant."),
    click.option(
        "--lr-step",
        "lr_steps",
        type=int,
        multiple=True,
        callback=lambda context, parameter, values: values or None,
        help="Outer iteration at which the schedule steps multiplies the rate by 0.1; can be given several times.",
    ),
    click.option("--weight-decay", type=float, help="Of the optimizer."),
)


@dataclass(frozen=True)
class CodeOptions:
    """The loss, and the solved codes."""

    gamma: float | None
    scale_gamma: bool | None
    classification_weight: float | None
    codes: str | None
    warm_up: int | None
    hold: int | None
    hold_solver: bool | None


code_options = option_group(
    "codes",
    CodeOptions,
    click.option("--gamma", type=float, help="Weight of the quantisation term, as it is (presets may scale theirs)."),
    click.option("--scale-gamma/--no-scale-gamma", default=None, help="Lower it on sets smaller than CUB-200-2011."),
    click.option(
        "--classification-weight",
        type=float,
        help="Also learn to classify from the code, with this weight (the paper's Table 5; 0 for not). Not exported.",
    ),
    click.option("--codes", help="How the training pictures' codes start: noise (the paper), separated or visual."),
    click.option(
        "--warm-up", type=int, help="With visual codes: outer iterations that train the trunk before they are read."
    ),
    click.option("--hold", type=int, help="Outer iterations, from the first, that leave these codes as they start."),
    click.option("--hold-solver/--no-hold-solver", default=None, help="Leave these codes as they start for good."),
)


@dataclass(frozen=True)
class PictureOptions:
    """Which pictures train, and how they are drawn."""

    crop_scale: tuple[float, float] | None
    flip: bool | None
    kept_views: int | None
    validation_fraction: float | None
    test_fraction: float | None
    label_depth: int | None
    open_set: float | None
    seed: int | None


picture_options = option_group(
    "pictures",
    PictureOptions,
    click.option("--crop-scale", type=float, nargs=2, help="Smallest and largest share of a picture in a random crop."),
    click.option("--flip/--no-flip", default=None, help="Mirror training pictures at random."),
    click.option(
        "--kept-views", type=int, help="With --freeze-trunk: random views a picture, each seen once by the trunk."
    ),
    click.option(
        "--validation-fraction", type=float, help="Share of the training pictures that choose the checkpoint."
    ),
    click.option("--test-fraction", type=float, help="Share of each class kept for tests where there is no test part."),
    click.option(
        "--label-depth",
        type=click.IntRange(1),
        help="How many folders below --data name a class: 1 the first, 2 the first two as in a/b, 99 every folder.  "
        "[default: 1]",
    ),
    click.option(
        "--open-set",
        type=float,
        help="Classes that are never trained on, which qo-eval --run then measures apart: how many, or a share below "
        "1.",
    ),
    click.option("--seed", type=int, help="What every random draw derives from."),
)


@dataclass(frozen=True)
class SpeedOptions:
    """Where a run computes, and how fast."""

    channels_last: bool | None
    amp: str | None
    compile: bool | None
    device: str | None
    threads: int | None


speed_options = option_group(
    "speed",
    SpeedOptions,
    click.option("--channels-last/--no-channels-last", default=None, help="Memory layout of the pictures on a GPU."),
    click.option("--amp", help="bf16: train in bfloat16 but for weights, head and loss (autocast); or none."),
    click.option("--compile/--no-compile", default=None, help="Compile the network for training (torch.compile)."),
    click.option("--device", help="auto, cpu or cuda."),
    threads_option,
)


BASIC = ("data", "folder", "preset", "method", "bits", "resume", "device")
"""The options that --help explains: the others are in their sections of --help-all."""

SECTIONS: dict[str, type] = {
    "Data": DataOptions,
    "Run": RunOptions,
    "Network": NetworkOptions,
    "Learning": LearningOptions,
    "Codes and solver": CodeOptions,
    "Pictures": PictureOptions,
    "Speed": SpeedOptions,
}
"""Of --help-all: a title and whose options stand below it."""


def settings_of(*groups: Any) -> dict[str, Any]:
    """The options of these groups by their names, which are those of TrainConfig's and NetworkConfig's fields."""
    return {name: value for group in groups for name, value in vars(group).items()}
