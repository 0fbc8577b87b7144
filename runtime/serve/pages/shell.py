"""What all pages have: head, navigation, and the parts that they are made of."""

import os
from http import HTTPStatus
from urllib.parse import urlencode

from queryopt import __version__
from queryopt.runtime.index import IndexedImage
from queryopt.runtime.markup import Markup, breakable, element

__all__ = ["error_page", "hidden", "image_link", "link", "page", "pager", "upload_form"]

_PLACES = (("/", "Search"), ("/browse", "Bits"), ("/duplicates", "Duplicates"), ("/docs", "API"))
THUMBNAIL = 256
_ACCEPT = "image/jpeg,image/png,image/webp,image/gif,image/bmp,image/tiff,image/avif,.ppm,.pgm,.pbm"


_ERROR_TITLES = {404: "Not found", 413: "Too large", 500: "The server failed", 503: "Too busy"}


def page(title: str, *content: Markup | None, here: str = "", uploads: bool = True, wide: Markup | None = None) -> str:
    """A whole page. here: the place that it belongs to. uploads: a form for a picture in its head. wide: what the
    script shows over it.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="robots", content="noindex"),
        element("title", f"{title} · queryopt"),
        element("link", rel="icon", href="/static/icon.svg", type="image/svg+xml"),
        element("link", rel="stylesheet", href="/static/page.css"),
        element("link", rel="stylesheet", href="/static/app.css"),
        element("script", src="/static/app.js", defer=True),
    )
    places = [
        element("li", element("a", name, href=path, aria_current="page" if path == here else None))
        for path, name in _PLACES
    ]
    top = element(
        "header",
        element("a", "Skip to the pictures", href="#main", class_="skip"),
        element(
            "a",
            element("img", src="/static/icon.svg", alt="", width=22, height=22),
            "queryopt",
            href="/",
            class_="brand",
        ),
        element("nav", element("ul", *places), aria_label="Pages"),
        upload_form(compact=True) if uploads else None,
        class_="top",
    )
    body = element(
        "body",
        top,
        element("p", class_="visually-hidden", id="status", role="status", aria_live="polite"),
        element("div", id="problem", role="alert", class_="problem", hidden=True),
        element("main", *content, id="main", tabindex=-1),
        wide,
        element("footer", element("p", f"queryopt {__version__}. Distances are exact Hamming distances.")),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def error_page(status: int, detail: str) -> str:
    """A page that says what went wrong."""
    title = _ERROR_TITLES.get(status, "This can't be answered")
    detail = "there is no such page" if detail == HTTPStatus.NOT_FOUND.phrase else detail  # the framework's word
    return page(
        title,
        element("h1", title),
        element("p", f"{detail[:1].upper()}{detail[1:]}.", class_="problem", role="alert"),
        element("p", link("/", "Search with a picture")),
    )


def upload_form(compact: bool = False) -> Markup:
    """The form for a picture: a button, or a field to drop one on. Works without the script, too."""
    name = "picture" if compact else "drop-picture"
    field = element("input", type="file", name="file", id=name, accept=_ACCEPT, required=True, class_="file")
    words = (
        [element("span", "Search with a picture")]
        if compact
        else [
            element("strong", "Drop a picture here", class_="for-mouse"),
            element("span", "or paste one, or choose a file", class_="for-mouse"),
            element("strong", "Take or choose a picture", class_="for-touch"),
        ]
    )
    return element(
        "form",
        field,
        element("label", *words, for_=name),
        element("button", "Search", type="submit", class_="plain"),
        action="/upload",
        method="post",
        enctype="multipart/form-data",
        class_="upload compact" if compact else "upload drop",
    )


def link(path: str, text: str | Markup, **query: str | int | None) -> Markup:
    """A link to a page, with what is not None as its query."""
    given = {name: value for name, value in query.items() if value is not None}
    return element("a", text, href=f"{path}?{urlencode(given)}" if given else path)


def image_link(image: IndexedImage, note: str | Markup | None = None, maps: str | None = None) -> Markup:
    """A picture of the index that searches with itself. note: below it. maps: where its maps are."""
    name = os.path.basename(os.fsdecode(image.relative))
    picture = element(
        "span",
        thumbnail(image.id, f"{image.label}: {name}" if image.label is not None else name),
        class_="view",
        data_maps=maps,
    )
    return element(
        "li",
        element(
            "a",
            picture,
            element("span", breakable(image.label if image.label is not None else name), class_="of"),
            href=f"/results?image={image.id}",
            title=os.fsdecode(image.relative),
        ),
        element("span", note, class_="note") if note is not None else None,
    )


def thumbnail(id: int, alt: str) -> Markup:
    """A picture of the index as the model sees it."""
    return element(
        "img",
        src=f"/image/{id}?size={THUMBNAIL}&view=model&fallback=true",
        alt=alt,
        width=THUMBNAIL,
        height=THUMBNAIL,
        loading="lazy",
        decoding="async",
    )


def pager(path: str, page: int, pages: int, label: str, **query: str | int | None) -> Markup | None:
    """Links to the other pages (from 1), and to the next and the one before; None where there is one page."""
    if pages < 2:
        return None
    near = sorted({1, pages, *range(max(1, page - 2), min(pages, page + 2) + 1)})
    items: list[Markup] = []
    for before, number in zip([0, *near], near, strict=False):
        if number > before + 1:
            items.append(element("li", "…", aria_hidden="true"))
        if number == page:
            items.append(element("li", element("span", hidden("Page "), str(number), aria_current="page")))
        else:
            words = element("span", hidden("Page "), str(number))
            items.append(element("li", link(path, words, page=number, **query)))
    if page > 1:
        items.insert(0, element("li", link(path, "← Before", page=page - 1, **query)))
    if page < pages:
        items.append(element("li", link(path, "Next →", page=page + 1, **query)))
    return element("nav", element("ul", *items), class_="pager", aria_label=label)


def hidden(text: str) -> Markup:
    """Text for screen readers alone."""
    return element("span", text, class_="visually-hidden")
