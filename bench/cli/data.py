"""The options --data and --baselines of qo-eval and qo-report."""

from collections.abc import Callable
from typing import Any

import click

from queryopt.bench.quality.descriptors import MOST
from queryopt.cli import option_group
from queryopt.train.sources import absolute_source, with_root

__all__ = ["baselines_option", "data_option"]


def data_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --data with --root and --any-size; the callback gets `data`, which means the same in any folder, or None."""
    return option_group(
        "data",
        _absolute_data,
        click.option("--data", metavar="DATA", help=help),
        click.option(
            "--root", metavar="DIR", help="With --data: the folder of an official data set, or that which holds it."
        ),
        click.option(
            "--any-size", is_flag=True, help="With --data: a part of an official set; its counts are not checked."
        ),
    )


baselines_option = click.option(
    "--baselines/--no-baselines",
    default=None,
    help="Rank by a histogram of 512 colours and by the floats of the run's trunk, too.  "
    f"[default: up to {MOST:,} pictures]",
)
"""Adds `baselines`: None where nothing is said."""


def _absolute_data(data: str | None, root: str | None, any_size: bool) -> str | None:
    data = with_root(data, root, any_size)
    return None if data is None else absolute_source(data)
