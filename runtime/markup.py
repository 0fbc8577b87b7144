"""HTML from nested calls, for pages that are not templates (see queryopt.runtime.pages) yet."""

import html
from functools import cache

from queryopt.runtime.pages import Markup, breakable
from queryopt.text import display_path

__all__ = ["Markup", "breakable", "element"]

_VOID = frozenset({"img", "input", "link", "meta"})


def element(tag: str, *children: str | None, **attributes: str | int | bool | None) -> Markup:
    """An element of children (Markup stays, other strings are escaped, None is left out).

    Attributes of None and False are left out, those of True have no value; `class_` is class, and other underscores are
    hyphens, so SVG's viewBox is itself.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is True:
            parts.append(f" {_attribute(name)}")
        elif value is not None and value is not False:
            text = str(value) if isinstance(value, int) else _escape(value)
            parts.append(f' {_attribute(name)}="{text}"')
    parts.append(">")
    if tag in _VOID:
        return Markup("".join(parts))
    inner = (c if isinstance(c, Markup) else _escape(c) for c in children if c is not None)
    return Markup("".join([*parts, *inner, f"</{tag}>"]))


@cache
def _attribute(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def _escape(text: str) -> str:
    # Undecodable bytes, line breaks, control and direction characters of a file name become visible escapes.
    return html.escape(display_path(text), quote=True)
