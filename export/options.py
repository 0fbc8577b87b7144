"""How a checkpoint is exported, and the options of commands that say so."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from queryopt.cli import batch_option, option_group, threads_option
from queryopt.errors import UsageError
from queryopt.export.parity import max_flip_rate_of, max_map_drop_of
from queryopt.export.pictures import PicturePath
from queryopt.text import did_you_mean

__all__ = ["ACTIVATIONS", "PRECISIONS", "ExportOptions", "export_options", "limit_options"]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""What a model may be computed in."""
ACTIVATIONS = ("uint8", "int8")
"""What activations of int8 may be: the first for CPUs, the second for TensorRT."""


@dataclass(frozen=True)
class ExportOptions:
    """How to export a checkpoint: the arguments of export_onnx, which says what each is."""

    pictures: str | os.PathLike[str] | Sequence[PicturePath] | None = None
    parity: bool = True
    max_flip_rate: float | None = None
    max_map_drop: float | None = None
    precision: str = "fp32"
    calibrate: str | os.PathLike[str] | None = None
    activations: str | None = None
    backend: str | Sequence[str] | None = None
    fold: bool = True
    explain: bool = False
    batch: int = 32
    threads: int | None = None

    @property
    def flip_limit(self) -> float:
        """The share of bits that may flip: as given, else that of the precision."""
        return max_flip_rate_of(self.precision) if self.max_flip_rate is None else self.max_flip_rate

    @property
    def map_limit(self) -> float | None:
        """The points of mean average precision that may be lost: as given, else those of the precision."""
        return max_map_drop_of(self.precision) if self.max_map_drop is None else self.max_map_drop

    def check(self) -> None:
        """Raise UsageError for what makes no sense."""
        if self.precision not in PRECISIONS:
            meant = did_you_mean(self.precision, PRECISIONS)
            raise UsageError(f"precision is {self.precision!r}: one of {', '.join(PRECISIONS)}{meant}")
        if self.calibrate is not None and self.precision != "int8":
            raise UsageError("calibration pictures are for precision int8: leave them out")
        if self.activations is not None and self.precision != "int8":
            raise UsageError("activations are of precision int8: leave them out")
        if self.activations is not None and self.activations not in ACTIVATIONS:
            raise UsageError(f"activations are {self.activations!r}: {' or '.join(ACTIVATIONS)}")
        if self.map_limit is not None and not 0 <= self.map_limit <= 100:
            raise UsageError(
                f"the largest loss of mean average precision is {self.map_limit}: it is in points, 0 to 100"
            )
        if not 0 <= self.flip_limit <= 1:
            raise UsageError(f"the largest flip rate is {self.flip_limit}: it is a share, 0 to 1")
        for name, value in (("batch", self.batch), ("threads", self.threads)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}: at least 1")


def _negated(context: click.Context, parameter: click.Parameter, flag: bool) -> bool:
    return not flag


def _names(context: click.Context, parameter: click.Parameter, text: str | None) -> list[str] | None:
    return None if text is None else [name for part in text.split(",") if (name := part.strip())]


def limit_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --max-flip-rate and --max-map-drop (floats, None for the limits of a model's precision)."""
    for option in (
        click.option(
            "--max-map-drop",
            type=click.FloatRange(0, 100),
            metavar="POINTS",
            help="Points of mean average precision that may be lost on labelled pictures, with 95 % confidence: few "
            "pictures refuse nothing.  [default: int8 0.5, others no limit]",
        ),
        click.option(
            "--max-flip-rate",
            type=click.FloatRange(0, 1),
            help="Share of bits that may differ; a model above it is refused (exit 5).  "
            "[default: fp32 and fp16 0.001, bf16 0.005, int8 0.01]",
        ),
    ):
        function = option(function)
    return function


export_options = option_group(
    "options",
    ExportOptions,
    click.option(
        "--images",
        "pictures",
        metavar="FOLDER",
        help="Pictures for the parity gate.  [default: the run's validation ones]",
    ),
    limit_options,
    click.option(
        "--precision",
        metavar="NAME",
        default="fp32",
        show_default=True,
        help="What is computed in: fp32, fp16, bf16 or int8.",
    ),
    click.option(
        "--calibrate", metavar="FOLDER", help="Pictures for int8.  [default: some that the run was trained on]"
    ),
    click.option(
        "--activations",
        type=click.Choice(ACTIVATIONS),
        help="Of int8: uint8 for CPUs, int8 for TensorRT.  [default: uint8; with --engine int8]",
    ),
    click.option(
        "--backend",
        metavar="NAME,…",
        callback=_names,
        help="What the gate runs the model in: onnxruntime, openvino, cuda.  [default: each that would run it here]",
    ),
    click.option(
        "--no-parity",
        "parity",
        is_flag=True,
        callback=_negated,
        help="Don't compare on pictures; the model's card will say so.",
    ),
    click.option(
        "--no-fold",
        "fold",
        is_flag=True,
        callback=_negated,
        help="Keep the trained network's own parts in the graph; slower, same codes.",
    ),
    click.option("--explain", is_flag=True, help="Add the output `attention`: where in the picture each bit looked."),
    batch_option(32),
    threads_option,
)
"""The options of an export; the callback gets `options: ExportOptions`."""
