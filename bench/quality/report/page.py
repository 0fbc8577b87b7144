"""The report as one self-contained HTML file: sections, a table of contents, and what was left out and why.

No script and no network: styles, figures and pictures are inside, and a Content-Security-Policy that allows only these
makes sure of it. The markup lies in templates/.
"""

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from queryopt.runtime.pages import Markup, render

__all__ = ["PACKAGE", "LeftOutError", "Report", "Section"]

PACKAGE = "queryopt.bench.quality.report"


class LeftOutError(Exception):
    """A section makes no sense for this model, or lacks what it needs; the message is the reason, for people."""


@dataclass(frozen=True)
class Section:
    """One part of the report.

    anchor: its name in links, and its template's.
    finding: its first sentence: what there is to see.
    values: what its template shows below that.
    """

    anchor: str
    title: str
    finding: str
    values: Mapping[str, Any]

    def body(self) -> Markup:
        return render(f"{self.anchor}.html.jinja", PACKAGE, **self.values)


@dataclass
class Report:
    """A report that is being put together. facts: shown below the title. left_out: by title, with the reason."""

    title: str
    facts: Mapping[str, str]
    sections: list[Section] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def markup(self) -> str:
        style = "".join(
            importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")
            for package, name in (("queryopt.runtime", "page.css"), (PACKAGE, "report.css"))
        )
        return render("report.html.jinja", PACKAGE, style=Markup(style), **vars(self))
