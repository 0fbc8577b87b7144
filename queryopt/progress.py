"""How long work says how far it is: the library counts, whoever called it shows."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["Advance", "Progress", "no_advance", "no_progress"]


class Advance(Protocol):
    """Report progress: so many more items done, and (optionally) what to show beside the bar."""

    def __call__(self, count: int = 1, note: str | None = None) -> None:
        """Count `count` items as done."""


class Progress(Protocol):
    """Opens a progress bar; `queryopt.cli.Output.progress` is one. total: None where nobody knows it."""

    def __call__(self, description: str, total: int | None, unit: str = "images") -> AbstractContextManager[Advance]:
        """Show the bar until the context ends."""


def no_advance(count: int = 1, note: str | None = None) -> None:
    """An `Advance` that shows nothing."""


def no_progress(description: str, total: int | None, unit: str = "images") -> AbstractContextManager[Advance]:
    """A `Progress` that shows nothing: what a library function uses where it was given none."""
    return nullcontext(no_advance)
