"""What the commands of qo-bench share: values of options, FILE[@BACKEND], pictures, and how a report is shown."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from queryopt.bench.speed.untrained import Untrained
from queryopt.cli import Output, option_group
from queryopt.errors import MissingError, UsageError
from queryopt.text import display_path, install_extra

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "ModelFiles",
    "check_picture",
    "count",
    "listed",
    "model_files_options",
    "show",
    "untrained_options",
    "whole_number",
]


def listed(convert: Callable[[str], object], example: str) -> Callable[..., tuple[object, ...] | None]:
    """A callback that parses values with commas between them; each is kept once."""

    def parse(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[object, ...] | None:
        if text is None:
            return None
        try:
            return tuple(dict.fromkeys(convert(part.strip()) for part in text.split(",") if part.strip()))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a list such as {example}") from None

    return parse


def count(text: str) -> int:
    """A whole number of at least 1, also as 1e7. ValueError for others."""
    number = float(text)
    if not number.is_integer() or number < 1:
        raise ValueError
    return int(number)


def whole_number(context: click.Context, parameter: click.Parameter, text: str) -> int:
    """A callback that parses one `count`."""
    try:
        return count(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a whole number of at least 1, such as 1e6") from None


@dataclass(frozen=True)
class ModelFiles:
    """Models that were named as FILE[@BACKEND]; those that name none are taken in each of the backends."""

    models: tuple[str, ...]
    backends: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.backends:
            raise UsageError("--backend: give at least one")

    def __iter__(self) -> Iterator[tuple[Path, str, str]]:
        """Path, name and backend of each."""
        for text in self.models:
            file, at, backend = text.rpartition("@")
            if at and not Path(text).exists():
                yield Path(file), display_path(file), backend
            else:
                for backend in self.backends:
                    yield Path(text), display_path(text), backend


def model_files_options(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --model FILE[@BACKEND], which may be given again, and --backend; the callback gets `files: ModelFiles`."""
    return option_group(
        "files",
        ModelFiles,
        click.option("--model", "models", metavar="FILE[@BACKEND]", multiple=True, help=help),
        click.option(
            "--backend",
            "backends",
            callback=listed(str, "onnxruntime,openvino"),
            metavar="NAME,…",
            default="auto",
            show_default=True,
            help="What runs the models that name none: each in each of them.",
        ),
    )


def _untrained(backbone: str | None, bits: int | None) -> Untrained | None:
    if backbone is None and bits is None:
        return None
    usual = Untrained()
    return Untrained(backbone or usual.backbone, bits or usual.bits)


untrained_options = option_group(
    "untrained",
    _untrained,
    click.option("--backbone", metavar="NAME", help="Of the untrained network.  [default: resnet50]"),
    click.option("--bits", type=click.IntRange(1, 64), help="Of the untrained network.  [default: 12]"),
)
"""Adds --backbone and --bits; the callback gets `untrained`, None where neither is given."""


def check_picture(picture: Path) -> None:
    """Say before the measurement, not after it, that --png can draw nothing: MissingError or UsageError."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingError(f"--png needs matplotlib: {install_extra('bench')}") from None
    if not picture.parent.is_dir():
        raise UsageError(f"--png: there is no folder {display_path(picture.parent)}")


class Shown(Protocol):
    """What a command prints: see bench.machine.Report, which most are."""

    def to_dict(self) -> dict[str, Any]: ...

    def render(self) -> "Iterator[RenderableType]": ...


def show(out: Output, report: Shown) -> None:
    """Print a report: as JSON, or for people."""
    out.result(report.to_dict())
    for part in report.render():
        out.print(part)
