"""The results of a search as one self-contained HTML page.

No script, no network, nothing beside the file: style and thumbnails are inside, and a Content-Security-Policy that
allows only these makes sure of it.
"""

import importlib.resources
import os
from collections.abc import Mapping
from typing import TextIO

from queryopt import __version__
from queryopt.runtime.code_strip import bit_cell, bit_differences, code_strip
from queryopt.runtime.hits import FailedQuery, Hit, QueryResult, code_hex
from queryopt.runtime.markup import Markup, breakable, element
from queryopt.runtime.page_head import page_head
from queryopt.runtime.thumbnails import Thumbnails
from queryopt.text import counted

__all__ = ["MAX_HITS", "HtmlPage"]

MAX_HITS = 200
"""Hits of a query that a page shows; a note tells of the others."""

_HIT_PIXELS = 192
_QUERY_PIXELS = 320


class HtmlPage:
    """Writes a page query by query, so that it is never in memory as a whole.

        page = HtmlPage(file, title="Search results", facts={"Index": "photos.db"})
        page.add(result)
        page.finish()

    file: a text stream of UTF-8. facts: name -> value, shown below the title.
    """

    def __init__(
        self, file: TextIO, title: str, facts: Mapping[str, str], thumbnails: Thumbnails | None = None
    ) -> None:
        self._file = file
        self._thumbnails = thumbnails or Thumbnails()
        self._queries = 0
        self._scored = False
        self._failed = 0
        self._file.write(_head(title, facts))

    def add(self, result: QueryResult) -> None:
        """Add a query and its hits, in the order that they come in."""
        self._queries += 1
        self._scored |= any(hit.score is not None for hit in result.hits)
        self._file.write(self._section(result) + "\n")

    def add_failed(self, query: FailedQuery) -> None:
        """Add a query picture that could not be read, with the reason."""
        self._failed += 1
        name = element("h2", breakable(os.fsdecode(query.path)))
        self._file.write(
            element("section", name, element("p", f"Not searched: {query.reason}"), class_="query failed") + "\n"
        )

    def finish(self, note: str | None = None) -> None:
        """Write the end of the page. `note` is a last word to the reader."""
        failed = f", {self._failed:,} not readable" if self._failed else ""
        done = f"{counted(self._queries, 'query', 'queries')}{failed}."
        order = (
            "scores are sums, over the bits that differ, of how sure the query was of them"
            if self._scored
            else "equal ones are in the order of the index"
        )
        footer = element(
            "footer",
            element("p", note) if note else None,
            element("p", f"{done} Distances are exact Hamming distances; {order}."),
            element("p", f"Made by queryopt {__version__}."),
        )
        self._file.write(f"</main>\n{footer}\n</body>\n</html>\n")

    def _section(self, result: QueryResult) -> Markup:
        name = f"q{self._queries}"
        folder, base = os.path.split(os.fsdecode(result.path))
        about = [
            element(
                "figure",
                self._picture(result.path, _QUERY_PIXELS, False, f"Query {self._queries}: {os.fsdecode(result.path)}"),
                element(
                    "figcaption",
                    element("h2", _hidden("Query: "), breakable(base), id=name),
                    element("p", breakable(folder), class_="name") if folder else None,
                ),
            ),
            element("p", breakable(result.label), class_="label") if result.label is not None else None,
            code_strip(result.code, result.bits, result.margins, (), "Code of the query: "),
            element("p", code_hex(result.code), class_="code"),
            element("p", _summary(result), class_="summary"),
        ]
        shown = result.hits[:MAX_HITS]
        hidden = len(result.hits) - len(shown)
        return element(
            "section",
            element("div", *about, class_="asked"),
            element(
                "div",
                element("ol", *(self._card(hit, result) for hit in shown), class_="hits")
                if shown
                else element("p", "Nothing found.", class_="none"),
                element("p", f"{counted(hidden, 'more hit', 'more hits')} not shown.", class_="none")
                if hidden
                else None,
            ),
            class_="query",
            aria_labelledby=name,
        )

    def _card(self, hit: Hit, query: QueryResult) -> Markup:
        name = os.fsdecode(os.path.basename(hit.name))
        label = f", {hit.label}" if hit.label is not None else ""
        distance = counted(hit.distance, "bit", "bits") if hit.distance else "same code"
        if hit.score is not None:
            distance += f", score {hit.score:,}"
        same = hit.label is not None and hit.label == query.label
        picture = element(
            "div",
            self._picture(hit.path, _HIT_PIXELS, True, f"Hit {hit.rank}{label}: {os.fsdecode(hit.name)}"),
            element("span", str(hit.rank), class_="rank", aria_hidden="true"),
            element("span", _hidden("Distance: "), distance, class_="distance" if hit.distance else "distance zero"),
            class_="picture",
        )
        itself = query.id is not None and hit.id == query.id
        about = element(
            "div",
            element("p", "the query itself", class_="itself") if itself else None,
            element(
                "h3",
                breakable(hit.label if hit.label is not None else name),
                element("span", " ✓", _hidden(" the class of the query"), class_="same", title="The class of the query")
                if same
                else None,
                title=os.fsdecode(hit.path),
            ),
            element("p", breakable(name), class_="name", title=os.fsdecode(hit.path))
            if hit.label is not None
            else None,
            element("p", "code of an earlier state of this file", class_="stale") if hit.stale else None,
            class_="about",
        )
        strip = code_strip(hit.code, query.bits, hit.margins, hit.differs, "Code: ")
        return element("li", picture, about, strip, bit_differences(hit, query.bits), class_="card")

    def _picture(self, path: bytes, pixels: int, square: bool, alt: str) -> Markup:
        source, problem = self._thumbnails.get(path, pixels, square)
        if source is None:
            note = element("span", problem)
            return element("div", note, class_="placeholder", role="img", aria_label=f"{alt} ({problem})")
        return element("img", src=source, alt=alt, loading="lazy", decoding="async")


def _head(title: str, facts: Mapping[str, str]) -> str:
    style = importlib.resources.files("queryopt.runtime").joinpath("page.css").read_text(encoding="utf-8")
    head = page_head(title, style)
    about = [element("div", element("dt", name), element("dd", value)) for name, value in facts.items()]
    header = element("header", element("h1", title), element("dl", *about), _legend())
    return f'<!doctype html>\n<html lang="en">\n{head}\n<body>\n{header}\n<main>\n'


def _legend() -> Markup:
    def cells(*kinds: str) -> Markup:
        rects = [bit_cell(kind, 12 * i, 0) for i, kind in enumerate(kinds)]
        return element("svg", *rects, viewBox=f"0 0 {12 * len(kinds) - 2} 10", aria_hidden="true")

    return element(
        "p",
        element("span", cells("one m3"), "bit is 1"),
        element("span", cells("zero m3"), "bit is 0"),
        element("span", cells("one m0"), "faint: close to flipping"),
        element("span", cells("one other", "zero other"), "differs from the query"),
        element(
            "span",
            element("span", "3 ", element("span", "1→0"), class_="chip"),
            "bit 3: the query has 1, the hit 0",
        ),
        element("span", "numbers above the squares: bits, from 0"),
        element("span", element("span", "✓", class_="same"), "the class of the query"),
        element(
            "span", element("span", "the query itself", class_="itself"), "in the index, and so among its own hits"
        ),
        class_="legend",
    )


def _summary(result: QueryResult) -> str:
    if not result.hits:
        return "no hits"
    distances = [hit.distance for hit in result.hits]
    near, far = min(distances), max(distances)
    distance = f"{near} to {far} bits" if near != far else counted(near, "bit", "bits")
    more = f"; {result.ties:,} more as near as the last" if result.ties else ""
    return f"{counted(len(result.hits), 'hit', 'hits')}, {distance} away{more}"


def _hidden(text: str) -> Markup:
    return element("span", text, class_="visually-hidden")
