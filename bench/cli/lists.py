"""Options that take numbers such as 1e6, and several values with commas between them."""

from collections.abc import Callable

import click

__all__ = ["count", "listed", "whole_number"]


def listed(convert: Callable[[str], object], example: str) -> Callable[..., tuple[object, ...] | None]:
    """Parses values with commas between them; each is kept once."""

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
    """Parses one `count`."""
    try:
        return count(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a whole number of at least 1, such as 1e6") from None
