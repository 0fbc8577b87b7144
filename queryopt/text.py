"""Words, paths and JSON as every room writes them."""

import difflib
import json
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "counted",
    "did_you_mean",
    "display_path",
    "file_size",
    "from_here",
    "install_extra",
    "json_line",
    "json_text",
    "listed",
    "listed_paths",
    "parse_json",
    "relative_paths",
]

_JOINERS = "\u200c\u200d"
"""Zero-width non-joiner and joiner."""


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


def listed_paths(paths: Iterable[bytes | str | os.PathLike[Any]], most: int = 5) -> str:
    """The same of paths, or of names that come from paths."""
    return listed([display_path(path) for path in paths], most)


def display_path(path: bytes | str | os.PathLike[Any]) -> str:
    """A path as one line of valid UTF-8: undecodable bytes, line breaks, control characters and those that change the
    direction of text become escapes. Spaces of all kinds stay, and the joiners that Persian, Hindi and emoji need.
    """
    text = os.fsdecode(path)
    if text.isprintable():  # nearly all are
        return text
    return "".join(
        c if c.isprintable() or c in _JOINERS or unicodedata.category(c) == "Zs" else _escape(c) for c in text
    )


def from_here(text: str) -> str:
    """A message as one line of valid UTF-8 (see display_path), its paths below the current folder relative to it: as
    they are typed here. The library names files by absolute paths, and so does --json.
    """
    return relative_paths(display_path(text))


def relative_paths(text: str) -> str:
    """Printable text whose paths below the current folder are relative to it."""
    try:
        here = display_path(os.getcwd())
    except OSError:  # the folder was deleted
        return text
    if here == os.sep:
        return text
    # Only where a path begins: /a/b is no part of /mnt/a/b.
    return re.sub(rf"(?<![^\s'\"(=]){re.escape(here + os.sep)}(?=[^\s'\"])", "", text)


def json_text(value: Any) -> str:
    """A result as JSON: NaN and infinities become null, paths text."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, default=_jsonable)


def json_line(value: Any) -> str:
    """The same in one line."""
    return json.dumps(_finite(value), ensure_ascii=False, default=_jsonable)


def parse_json(text: str | bytes) -> Any:
    """What JSON text from a file says. ValueError for whatever is none, also for one nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {_key(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, str):
        return display_path(value) if any("\ud800" <= c <= "\udfff" for c in value) else value
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return value


def _key(key: Any) -> Any:
    return display_path(key) if isinstance(key, bytes | os.PathLike) else _finite(key)


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes | os.PathLike):
        return display_path(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def file_size(count: int) -> str:
    """Bytes for people: 340.2 KiB."""
    if count < 1024:
        return f"{count} bytes"
    size, units = count / 1024, ["KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}"
