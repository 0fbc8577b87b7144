"""The results of a search as one self-contained HTML page.

No script, no network, nothing beside the file: style and thumbnails are inside, and a Content-Security-Policy that
allows only these makes sure of it.
"""

import importlib.resources
import os
from collections.abc import Mapping
from functools import partial
from typing import Any, TextIO
from urllib.parse import quote

from queryopt.card import Preprocessing
from queryopt.runtime.hits import FailedQuery, QueryResult
from queryopt.runtime.pages import Markup, render
from queryopt.runtime.thumbnails import Thumbnails, seen_square

__all__ = ["MAX_HITS", "HtmlPage"]

MAX_HITS = 200
"""Hits of a query that a page shows; a note tells of the others."""

_HERE = Markup("<!-- queries -->")
"""In the page around them, where they go."""


class HtmlPage:
    """Writes a page query by query, so that it is never in memory as a whole.

        page = HtmlPage(file, "Search results", {"Index": "photos.db"}, index.card.preprocessing)
        page.add(result)
        page.finish()

    file: a text stream of UTF-8. facts: name -> value, shown below the title. preprocessing: of the model, whose square
    is outlined where it doesn't see all of a picture. folder: where the page will lie: links to what is below it are
    relative, others are file:// addresses.
    """

    def __init__(
        self,
        file: TextIO,
        title: str,
        facts: Mapping[str, str],
        preprocessing: Preprocessing,
        folder: str | bytes | os.PathLike[str] | None = None,
        thumbnails: Thumbnails | None = None,
    ) -> None:
        self._file = file
        self._thumbnails = thumbnails or Thumbnails()
        self._folder = None if folder is None else os.path.abspath(os.fsencode(folder))
        self._seen = partial(seen_square, preprocessing=preprocessing)
        self._about: dict[str, Any] = {"title": title, "facts": facts, "crops": preprocessing.resize == "crop"}
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
                seen=self._seen,
                link=self._link,
            )
        )

    def add_failed(self, query: FailedQuery) -> None:
        """Add a query picture that could not be read, with the reason."""
        self._failed += 1
        self._file.write(render("failed_query.html.jinja", query=query))

    def finish(self, note: str | None = None) -> None:
        """Write the end of the page. `note` is a last word to the reader."""
        self._file.write(self._around(note)[1])

    def _link(self, path: bytes) -> str:
        """The address of a file."""
        whole = os.path.abspath(path)
        if self._folder is not None and whole.startswith(os.path.join(self._folder, b"")):
            return "./" + quote(os.path.relpath(whole, self._folder))
        return "file://" + quote(whole)

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
