"""The options that commands with a model share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from queryopt.cli import batch_option, device_option, option_group, threads_option
from queryopt.runtime.backends.choose import BACKENDS

if TYPE_CHECKING:
    from queryopt.runtime.hasher import Hasher

__all__ = ["HasherOptions", "backend_option", "hasher_options", "model_option"]


@dataclass(frozen=True)
class HasherOptions:
    """What hashes: see `Hasher`. model: None where the command is to find one."""

    model: Path | None
    device: str
    backend: str
    batch: int
    threads: int | None

    def open(self, model: Path) -> "Hasher":
        """A hasher of this model, which was found."""
        from queryopt.runtime.hasher import Hasher

        return Hasher(model, self.backend, self.threads, self.batch)


def model_option(what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --model, which hasher_options takes."""
    return click.option("--model", type=click.Path(path_type=Path), help=what)


def hasher_options(batch: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --device, --backend, --batch and --threads; with --model (model_option) they are `hashing: HasherOptions`."""
    return option_group(
        "hashing", HasherOptions, device_option("cpu"), backend_option, batch_option(batch), threads_option
    )


def backend_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --backend (str): what runs the model. open_backend refuses what it doesn't know."""
    return click.option(
        "--backend",
        metavar="NAME",
        default="auto",
        show_default=True,
        help=f"What runs the model: {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}.",
    )(function)
