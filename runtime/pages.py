"""Pages as Jinja2 templates, which read as the HTML that they make. What is no markup is escaped, always.

A room keeps its templates (`NAME.html.jinja`) in a folder templates/ of the package that uses them. They may extend and
import those of queryopt.runtime.

    render("report.html.jinja", "queryopt.bench.quality.report", title="…", style=Markup(style), …)

Text and paths (as bytes, too) appear as `display_path` shows them: undecodable bytes, line breaks and characters that
turn text around are visible escapes, so that a page is valid UTF-8 whatever files are called. `_FILTERS` and `_NAMES`
are there in every template. Text and markup are written beside each other, never joined with `~`: that would escape the
text, but not make it visible.
"""

import base64
import hashlib
import os
import re
from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from queryopt import __version__
from queryopt.runtime.code_strip import code_strip
from queryopt.runtime.hits import code_hex
from queryopt.text import counted, display_path, file_size

__all__ = ["Markup", "breakable", "render", "templates"]

_SHARED = "queryopt.runtime"


def render(name: str, package: str = _SHARED, /, **values: Any) -> Markup:
    """A template of a package with its values."""
    return Markup(templates(package).get_template(name).render(values))


@cache
def templates(package: str = _SHARED) -> Environment:
    """The templates of a package, and with them those of queryopt.runtime; each is compiled once in a process."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(one) for one in dict.fromkeys((package, _SHARED))]),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
    environment.filters |= _FILTERS
    environment.globals |= _NAMES
    return environment


def breakable(text: str | bytes) -> Markup:
    """Text that a line may be broken in after the separators that names are made with."""
    parts = re.split(r"(?<=[-_./\\])(?=[^-_./\\])", os.fsdecode(text))
    return Markup("<wbr>").join(escape(display_path(part)) for part in parts)


def _shown(value: Any) -> Any:
    """What stands in a template's {{ }}, before it is escaped."""
    return display_path(value) if isinstance(value, str | bytes) and not isinstance(value, Markup) else value


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names what it allows."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


_FILTERS = {
    "basename": os.path.basename,
    "breakable": breakable,
    "code_hex": code_hex,
    "counted": counted,  # 2000 | counted("bit", "bits"): 2,000 bits
    "dirname": os.path.dirname,
    "file_size": file_size,
    "sha256": _sha256,
    "thousands": "{:,}".format,
}
_NAMES = {"strip_of": code_strip, "version": __version__}
