"""Options of commands that apply the parity gate's limits."""

from collections.abc import Callable
from typing import Any

import click

__all__ = ["limit_options"]


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
