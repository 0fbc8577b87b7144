"""Models of the command line: FILE[@BACKEND]."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from queryopt.bench.cli.lists import listed
from queryopt.text import display_path

__all__ = ["backends_option", "parse_model"]


def backends_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --backend; the callback gets `backends`, a tuple of names."""
    return click.option(
        "--backend",
        "backends",
        callback=listed(str, "onnxruntime,openvino"),
        metavar="NAME,…",
        default="auto",
        show_default=True,
        help="What runs the models that name none: each in each of them.",
    )(function)


def parse_model(text: str) -> tuple[Path, str, str | None]:
    """A model's path, its name, and what is to run it (None: not said), of FILE[@BACKEND]."""
    file, at, backend = text.rpartition("@")
    if not at or Path(text).exists():
        return Path(text), display_path(text), None
    return Path(file), display_path(file), backend
