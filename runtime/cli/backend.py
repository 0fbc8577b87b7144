"""The option that every command with a model has."""

from collections.abc import Callable
from typing import Any

import click

from queryopt.runtime.backends.choose import BACKENDS

__all__ = ["backend_option"]


def backend_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --backend (str): what runs the model. open_backend refuses what it doesn't know."""
    return click.option(
        "--backend",
        metavar="NAME",
        default="auto",
        show_default=True,
        help=f"What runs the model: {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}.",
    )(function)
