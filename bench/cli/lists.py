"""Options that take several values with commas between them."""

from collections.abc import Callable

import click

__all__ = ["count", "listed"]


def listed(convert: Callable[[str], object], example: str) -> Callable[..., tuple[object, ...] | None]:
    """Parses values with commas between them; each is kept once."""

    def parse(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[object, ...] | None:
        if text is None:
            return None
        try:
            return tuple(dict.fromkeys(convert(part.strip()) for part in text.split(",") if part.strip()))
        except (ValueError, OverflowError):
            raise click.BadParameter(f"{text!r} is not a list such as {example}") from None

    return parse


def count(text: str) -> int:
    """A whole number of at least 1, also as 1e7."""
    number = float(text)
    if number != int(number) or number < 1:
        raise ValueError
    return int(number)
