"""The results of a search as one self-contained HTML page.

No script, no network, nothing beside the file: style and thumbnails are inside, and a Content-Security-Policy that
allows only these makes sure of it.
"""

import importlib.resources
from collections.abc import Mapping
from typing import Any, TextIO

from queryopt.runtime.hits import FailedQuery, QueryResult
from queryopt.runtime.pages import Markup, render
from queryopt.runtime.thumbnails import Thumbnails

__all__ = ["MAX_HITS", "HtmlPage"]

MAX_HITS = 200
"""Hits of a query that a page shows; a note tells of the others."""

_HERE = Markup("<!-- queries -->")
"""In the page around them, where they go."""


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
        self._about: dict[str, Any] = {"title": title, "facts": facts}
        self._queries = 0
        self._scored = False
        self._failed = 0
        self._file.write(self._around(None)[0])

    def add(self, result: QueryResult) -> None:
        """Add a query and its hits, in the order that they come in."""
        self._queries += 1
        self._scored |= any(hit.score is not None for hit in result.hits)
        self._file.write(
            render(
                "query.html.jinja",
                query=result,
                number=self._queries,
                shown=result.hits[:MAX_HITS],
                thumbnails=self._thumbnails,
            )
        )

    def add_failed(self, query: FailedQuery) -> None:
        """Add a query picture that could not be read, with the reason."""
        self._failed += 1
        self._file.write(render("failed_query.html.jinja", query=query))

    def finish(self, note: str | None = None) -> None:
        """Write the end of the page. `note` is a last word to the reader."""
        self._file.write(self._around(note)[1])

    def _around(self, note: str | None) -> tuple[str, str]:
        """What stands before and after the queries, as far as they have come."""
        page = render(
            "search.html.jinja",
            **self._about,
            style=Markup(importlib.resources.files("queryopt.runtime").joinpath("page.css").read_text("utf-8")),
            results=_HERE,
            note=note,
            queries=self._queries,
            failed=self._failed,
            scored=self._scored,
        )
        before, after = page.split(_HERE)
        return before, after
