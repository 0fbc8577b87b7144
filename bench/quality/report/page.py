"""The report as one self-contained HTML file: sections, a table of contents, and what was left out and why.

No script and no network: styles, figures and pictures are inside, and a Content-Security-Policy that allows only these
makes sure of it.
"""

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from queryopt import __version__
from queryopt.runtime.markup import Markup, breakable, element
from queryopt.runtime.page_head import page_head

__all__ = ["LeftOutError", "Report", "Section", "facts", "note", "pairs", "prose", "table"]


class LeftOutError(Exception):
    """A section makes no sense for this model, or lacks what it needs; the message is the reason, for people."""


@dataclass
class Section:
    """One part of the report. anchor: its name in links. finding: its first sentence: what there is to see.

    blocks: what follows, as HTML.
    """

    anchor: str
    title: str
    finding: str
    blocks: list[Markup] = field(default_factory=list)

    def markup(self) -> Markup:
        """As HTML."""
        return element(
            "section",
            element("h2", self.title, id=f"{self.anchor}-title"),
            element("p", self.finding, class_="finding"),
            *self.blocks,
            id=self.anchor,
            class_="part",
            aria_labelledby=f"{self.anchor}-title",
        )


@dataclass
class Report:
    """A report that is being put together. facts: shown below the title. left_out: by title, with the reason."""

    title: str
    facts: Mapping[str, str]
    sections: list[Section] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def markup(self) -> str:
        """The whole page."""
        about = [element("div", element("dt", name), element("dd", breakable(v))) for name, v in self.facts.items()]
        body = element(
            "body",
            element("a", "To the report", href="#report", class_="skip"),
            element("header", element("h1", self.title), element("dl", *about)),
            element(
                "div",
                self._contents(),
                element(
                    "main", *(section.markup() for section in self.sections), self._left_out(), id="report", tabindex=-1
                ),
                class_="columns",
            ),
            element("footer", element("p", f"Made by queryopt {__version__}. This file is whole: it loads nothing.")),
        )
        return f'<!doctype html>\n<html lang="en">\n{_head(self.title)}\n{body}\n</html>\n'

    def _contents(self) -> Markup:
        links = [(section.anchor, section.title) for section in self.sections]
        links += [("left-out", "Left out")] if self.left_out else []
        items = [element("li", element("a", title, href=f"#{anchor}")) for anchor, title in links]
        # Folded away on a phone, where it would be a screen of its own.
        return element(
            "nav", element("h2", "Contents"), element("ol", *items), aria_label="Contents", class_="contents"
        )

    def _left_out(self) -> Markup | None:
        if not self.left_out:
            return None
        rows = [element("div", element("dt", title), element("dd", why)) for title, why in self.left_out.items()]
        return element(
            "section",
            element("h2", "Left out", id="left-out-title"),
            element("p", "What this report could have had, and why it hasn't.", class_="finding"),
            element("dl", *rows, class_="reasons"),
            id="left-out",
            class_="part",
            aria_labelledby="left-out-title",
        )


def prose(text: str) -> Markup:
    """A paragraph that explains."""
    return element("p", text, class_="prose")


def note(text: str) -> Markup:
    """A paragraph in small type: how something was made."""
    return element("p", text, class_="note")


def facts(values: Mapping[str, str]) -> Markup:
    """Figures that are to be seen at once, each with its name: `0.959 — mAP`."""
    items = [element("div", element("dt", name), element("dd", value)) for name, value in values.items()]
    return element("dl", *items, class_="headline")


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Markup]], caption: str | None = None) -> Markup:
    """A table whose first column names the row."""
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    body = [
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else None,
            element("thead", head),
            element("tbody", *body),
        ),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=caption or columns[0] or "table",
    )


def pairs(title: str, rows: Sequence[tuple[str, str]]) -> Markup:
    """Names with their values, under a title."""
    values = [element("div", element("dt", name), element("dd", breakable(value))) for name, value in rows]
    return element("div", element("h3", title), element("dl", *values, class_="pairs"))


def _head(title: str) -> Markup:
    style = "".join(
        importlib.resources.files(package).joinpath(name).read_text(encoding="utf-8")
        for package, name in (("queryopt.runtime", "page.css"), ("queryopt.bench.quality.report", "report.css"))
    )
    return page_head(title, style)
