"""What a search found: the query with its code, the hits with theirs, and controls."""

import os
from dataclasses import dataclass

from queryopt.runtime.code_strip import bit_differences, code_strip
from queryopt.runtime.hits import Hit, code_hex
from queryopt.runtime.markup import Markup, breakable, element
from queryopt.runtime.search import Rank
from queryopt.runtime.search.ranked import RANKS
from queryopt.runtime.serve.gallery import Gallery, Results
from queryopt.runtime.serve.pages.lens import lens
from queryopt.runtime.serve.pages.shell import hidden, page, pager, thumbnail
from queryopt.runtime.serve.settings import MAX_K
from queryopt.text import counted

__all__ = ["PAGE_HITS", "Asked", "results_page"]

PAGE_HITS = 24

_ORDERS: dict[Rank, str] = {
    "hamming": "distance",
    "tiebreak": "distance, ties by margins",
    "weighted": "margins of bits that differ",
}


@dataclass(frozen=True)
class Asked:
    """Where a query came from: one of upload (its name), image (its id), code (as text)."""

    upload: str | None = None
    image: int | None = None
    code: str | None = None

    def fields(self) -> dict[str, str | int | None]:
        """The fields of the page's address that say so."""
        return {"query": self.upload, "image": self.image, "code": self.code}


def results_page(gallery: Gallery, asked: Asked, results: Results, number: int) -> str:
    """Page `number` (from 1) of what was found."""
    name = _name(asked, results)
    pages = -(-results.total // PAGE_HITS)
    query = {
        **asked.fields(),
        "k": results.k,
        "radius": results.radius,
        "rank": results.rank if results.rank != "hamming" else None,
    }
    if results.hits:
        found = element(
            "ol",
            *(_card(hit, results, gallery.maps_of(hit.id, hit.name)) for hit in results.hits),
            class_="hits",
            start=results.offset + 1,
        )
    else:
        found = element("p", "Nothing found." if not results.total else "No more hits.", class_="none")
    return page(
        f"Like {name}",
        element(
            "div",
            element(
                "div",
                _query(gallery, asked, results, name),
                _controls(asked, results),
                class_="asked",
            ),
            element(
                "section",
                element("h1", "Nearest pictures", id="found", tabindex=-1),
                element("p", _summary(results, pages), class_="summary", id="summary"),
                found,
                pager("/results", number, pages, "Pages of hits", **query),
                class_="found",
                aria_labelledby="found",
            ),
            class_="query",
        ),
        wide=lens(gallery),
        uploads=gallery.can_hash,
    )


def _name(asked: Asked, results: Results) -> str:
    if asked.code is not None:
        return f"code {code_hex(results.query.code)}"
    return os.path.basename(os.fsdecode(results.query.path))


def _query(gallery: Gallery, asked: Asked, results: Results, name: str) -> Markup:
    query = results.query
    source = f"/query/{asked.upload}" if asked.upload is not None else f"/image/{asked.image}"
    picture: Markup | None = None
    if asked.code is None:
        maps = f"{source}/attention" if gallery.explains else None
        if query.image is not None:
            maps = gallery.maps_of(query.image.id, query.image.relative)
        shown = f"{source}?size=640&fallback=true&" if asked.upload is None else f"{source}/image?"
        picture = element(
            "a",
            element(
                "span",
                element("img", src=f"{shown}view=model", alt=f"Query: {name}"),
                class_="view",
                id="asked-view",
                data_maps=maps,
            ),
            href=f"{source}/image" if asked.upload is not None else source,
            title="What the model looked at. Click for the whole picture.",
        )
    label = query.image.label if query.image is not None else None
    return element(
        "figure",
        picture,
        element(
            "figcaption",
            element("h2", hidden("Query: "), breakable(name)),
            element("p", breakable(label), class_="name") if label is not None else None,
            code_strip(
                query.code, gallery.index.bits, None if asked.code else query.margins, (), "Code of the query: ", "q"
            ),
            element("p", code_hex(query.code), class_="code"),
            element(
                "p", "Point at a bit, tap it, or choose it with the arrow keys, to see where it looks.", class_="hint"
            )
            if gallery.explains and asked.code is None
            else None,
        ),
    )


def _controls(asked: Asked, results: Results) -> Markup:
    kept = [
        element("input", type="hidden", name=name, value=value)
        for name, value in asked.fields().items()
        if value is not None
    ]
    options = [
        element("option", _ORDERS[rank], value=rank, selected=rank == results.rank)
        for rank in RANKS
        if asked.code is None or rank == "hamming"
    ]
    return element(
        "form",
        *kept,
        element(
            "div",
            element("label", "Pictures, at most", for_="k"),
            element("input", type="number", name="k", id="k", min=1, max=MAX_K, value=results.k, inputmode="numeric"),
        ),
        element(
            "div",
            element("label", "Within bits", for_="radius"),
            element(
                "input",
                type="number",
                name="radius",
                id="radius",
                min=0,
                max=64,
                value="" if results.radius is None else results.radius,
                placeholder="any",
                inputmode="numeric",
            ),
        ),
        element(
            "div",
            element("label", "In the order of", for_="rank"),
            element("select", *options, name="rank", id="rank"),
            class_="broad",
        ),
        element("button", "Apply", type="submit", class_="plain"),
        action="/results",
        method="get",
        class_="controls",
        id="controls",
        aria_label="What is shown",
    )


def _summary(results: Results, pages: int) -> str:
    if not results.total:
        return "No picture is as near as that." if results.radius is not None else "The index is empty."
    first, last = results.offset + 1, results.offset + len(results.hits)
    span = (
        f"{first:,} to {last:,} of {counted(results.total, 'hit', 'hits')}"
        if pages > 1
        else counted(results.total, "hit", "hits")
    )
    ties = f"; {results.ties:,} more as near as the last" if results.ties else ""
    return f"{span}{ties}"


def _card(hit: Hit, results: Results, maps: str | None) -> Markup:
    query = results.query
    name = os.path.basename(os.fsdecode(hit.name))
    title = hit.label if hit.label is not None else name
    distance = counted(hit.distance, "bit", "bits") if hit.distance else "same code"
    own = query.image is not None and query.image.label is not None and query.image.label == hit.label
    bits = len(query.margins)
    return element(
        "li",
        element(
            "a",
            element(
                "span",
                thumbnail(hit.id, f"Hit {hit.rank}, {distance}: {title}"),
                class_="view",
                data_maps=maps,
            ),
            element("span", str(hit.rank), class_="rank", aria_hidden="true"),
            element("span", hidden("Distance: "), distance, class_="distance" if hit.distance else "distance zero"),
            class_="picture",
            href=f"/results?image={hit.id}",
            title="Search with this picture",
        ),
        element(
            "div",
            element(
                "h3",
                breakable(title),
                element("span", " ✓", hidden(" the class of the query"), class_="same", title="The class of the query")
                if own
                else None,
                title=os.fsdecode(hit.name),
            ),
            element("p", breakable(name), class_="name", title=os.fsdecode(hit.name))
            if hit.label is not None
            else None,
            element("p", f"score {hit.score:,}", class_="name") if hit.score is not None else None,
            element("p", "code of an earlier state of this file", class_="stale") if hit.stale else None,
            class_="about",
        ),
        code_strip(hit.code, bits, hit.margins, hit.differs, "Code: ", f"h{hit.id}"),
        bit_differences(hit, bits),
        class_="card",
    )
