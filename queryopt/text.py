"""Words of messages that every room writes in the same way."""

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["counted", "did_you_mean", "install_extra", "listed"]


def counted(number: int, one: str, many: str) -> str:
    """`1 picture`, `2,000 pictures`: the number with the word that goes with it."""
    return f"{number:,} {one if number == 1 else many}"


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """`; did you mean X?`, to end a message with, where a choice is near to the name that was given; else nothing."""
    near = difflib.get_close_matches(str(name), list(choices), 1)
    return f"; did you mean {near[0]}?" if near else ""


def install_extra(extra: str) -> str:
    """How to get the packages of an optional part, to end a message with. queryopt is installed from its checkout."""
    return f"install queryopt's extra [{extra}]: in its checkout, pip install '.[{extra}]'"


def listed(names: Sequence[str], most: int = 5, joint: str = ", ") -> str:
    """The names in one line, at most so many of them: `a, b and 7 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return joint.join(names[:most]) + more
