"""The pages' routes; what they show is drawn by templates/."""

import hashlib
import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from queryopt.runtime.pages import Markup, render, templates
from queryopt.runtime.result_files import served_csv
from queryopt.runtime.search.ranked import Rank, RankName, check_rank
from queryopt.runtime.serve.api import Served, reading_form, tagged
from queryopt.runtime.serve.errors import BadRequestError, NotFoundError
from queryopt.runtime.serve.gallery import MAX_K, Gallery, Results, SearchTerms
from queryopt.runtime.serve.pictures import MAX_SIZE
from queryopt.runtime.serve.reference import described_api
from queryopt.runtime.serve.schemas import SearchResponse
from queryopt.runtime.serve.survey import MAX_RADIUS, MOST

__all__ = ["QuerySource", "compile_templates", "error_page", "results_page", "site_routes"]

_PACKAGE = "queryopt.runtime.serve"
_SAMPLE = 24
_ALL = 48
_DEFAULT_K = 96
_PAGE_HITS = 24
_PAGE_OF_BIT = 24
_PAGE_GROUPS = 20

_FILES = {
    "page.css": ("queryopt.runtime", "page.css", "text/css"),
    "app.css": ("queryopt.runtime.serve", "static/app.css", "text/css"),
    "app.js": ("queryopt.runtime.serve", "static/app.js", "text/javascript"),
    "icon.svg": ("queryopt.runtime.serve", "static/icon.svg", "image/svg+xml"),
}
_ORDERS: dict[Rank, str] = {
    "margin": "distance, equal ones by margins",
    "id": "distance, equal ones by id",
    "weighted": "margins of bits that differ",
    "tiebreak": "distance, then margins of bits that differ",
}
_ERROR_TITLES = {404: "Not found", 413: "Too large", 500: "The server failed", 503: "Too busy"}

PageNumber = Annotated[int, Query(ge=1, le=100_000)]

T = TypeVar("T")


@dataclass(frozen=True)
class QuerySource:
    """Where a query came from: one of upload (its name), image (its id), code (as text)."""

    upload: str | None = None
    image: int | None = None
    code: str | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The field of the page's address that says so."""
        fields = {"query": self.upload, "image": self.image, "code": self.code}
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def picture(self) -> str:
        """The address of its picture; without meaning for a code."""
        return f"/image/{self.image}" if self.upload is None else f"/query/{self.upload}"

    @property
    def orders(self) -> dict[Rank, str]:
        """The ranks that make a difference, with words for them."""
        return _ORDERS if self.code is None else {"id": _ORDERS["id"]}


site_routes = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def compile_templates() -> None:
    """Read all templates now, so that the first visitor does not wait for it."""
    for name in templates(_PACKAGE).list_templates(["jinja"]):
        templates(_PACKAGE).get_template(name)


# Pictures


@site_routes.get("/")
def home(gallery: Served) -> str:
    return _page("home", gallery, uploads=False, images=gallery.sample(_SAMPLE))


@site_routes.get("/all")
def everything(gallery: Served, after: Annotated[int, Query(ge=0, lt=1 << 63)] = 0) -> str:
    images = gallery.page(after, _ALL)
    more = images[-1].id if len(images) == _ALL else None
    return _page("all", gallery, images=images, after=after, next=more)


@site_routes.get("/picture/{id}")
def picture(gallery: Served, id: int) -> str:
    image = gallery.image(id)
    return _page("picture", gallery, image=image, size=gallery.size(image.relative), pixels=MAX_SIZE)


@site_routes.post("/upload")
async def upload(request: Request, gallery: Served) -> Response:
    async with reading_form(request) as (_, sent):
        if sent is None:
            raise BadRequestError("no file was sent: choose a picture")
        name, _ = await run_in_threadpool(gallery.upload, sent.file, sent.name)
    where = f"/results?query={name}"
    if "application/json" in request.headers.get("accept", ""):
        return JSONResponse({"location": where})
    return RedirectResponse(where, 303)


# Results


@dataclass(frozen=True)
class _Asked:
    """What the fields of a results page's address ask for."""

    source: QuerySource
    terms: SearchTerms

    def search(self, gallery: Gallery, offset: int, limit: int) -> Results:
        source = self.source
        if len(source.fields) != 1:
            raise BadRequestError("nothing to search with: give a picture, on the first page")
        return gallery.search(gallery.query(source.upload, source.image, source.code), self.terms, offset, limit)


async def _asked(
    query: str | None = None,
    image: int | None = None,
    code: str | None = None,
    k: Annotated[int, Query(ge=1, le=MAX_K)] = _DEFAULT_K,
    radius: str = "",
    rank: RankName = "margin",
    label: str = "",
) -> _Asked:
    terms = SearchTerms(k, _radius(radius), check_rank(rank), exclude_self=True, label=label or None)
    return _Asked(QuerySource(query, image, code), terms)


Asked = Annotated[_Asked, Depends(_asked)]


@site_routes.get("/results")
def results(gallery: Served, asked: Asked, page: PageNumber = 1) -> str:
    offset = (page - 1) * _PAGE_HITS
    if offset > MAX_K:
        raise NotFoundError(f"there is no page {page}")
    return results_page(gallery, asked.source, asked.search(gallery, offset, _PAGE_HITS), page)


@site_routes.get("/hits.json")
def hits_as_json(gallery: Served, asked: Asked) -> Response:
    found = asked.search(gallery, 0, MAX_K)
    text = SearchResponse.of(found, gallery.index.bits, asked.source.upload).model_dump_json(indent=2)
    return Response(text, media_type="application/json", headers=_download("hits.json"))


@site_routes.get("/hits.csv")
def hits_as_csv(gallery: Served, asked: Asked) -> Response:
    text = served_csv(asked.search(gallery, 0, MAX_K).hits)
    return Response(text, media_type="text/csv", headers=_download("hits.csv"))


def _download(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


# Looks at the whole index


@site_routes.get("/browse")
def browse(gallery: Served) -> str:
    return _page("bits", gallery, survey=gallery.survey())


@site_routes.get("/browse/{bit}")
def browse_bit(gallery: Served, bit: int, page: PageNumber = 1) -> str:
    if not 0 <= bit < gallery.index.bits:
        raise NotFoundError(f"there is no bit {bit}: codes have {gallery.index.bits} bits, from 0")
    survey = gallery.survey()
    most = 0 if survey is None else max(len(survey.highest[bit].ids), len(survey.lowest[bit].ids))
    pages = max(1, -(-most // _PAGE_OF_BIT))
    return _page("bit", gallery, survey=survey, bit=bit, number=page, pages=pages, of_a_page=_PAGE_OF_BIT, kept=MOST)


@site_routes.get("/same-code")
def same_code(gallery: Served, radius: Annotated[int, Query(ge=0, le=MAX_RADIUS)] = 0, page: PageNumber = 1) -> str:
    found = gallery.same_code(radius)
    groups, paging = _paged(() if found is None else found.groups, page)
    return _page("same_code", gallery, found=found, groups=groups, radius=radius, max_radius=MAX_RADIUS, **paging)


@site_routes.get("/duplicates")
def duplicates(gallery: Served, page: PageNumber = 1) -> str:
    found = gallery.duplicates()
    groups, paging = _paged(() if found is None else found.groups, page)
    return _page("duplicates", gallery, found=found, groups=groups, **paging)


def _paged(groups: Sequence[T], number: int) -> tuple[Sequence[T], dict[str, int]]:
    """The groups of page `number` (from 1), and what the templates of groups and of the pager want to know."""
    first = (number - 1) * _PAGE_GROUPS
    paging = {"first": first, "number": number, "pages": -(-len(groups) // _PAGE_GROUPS)}
    return groups[first : first + _PAGE_GROUPS], paging


# The rest


@site_routes.get("/docs")
def reference(request: Request, gallery: Served) -> str:
    return _page("reference", gallery, **described_api(request.app.openapi(), str(request.base_url)))


@site_routes.get("/static/{name}")
def static(request: Request, name: str) -> Response:
    if name not in _FILES:
        raise NotFoundError("there is no such file")
    return tagged(request, *_load(name))


@site_routes.get("/favicon.ico")
def favicon() -> Response:
    return RedirectResponse("/static/icon.svg", 308)


def results_page(gallery: Gallery, source: QuerySource, results: Results, number: int) -> Markup:
    """Page `number` (from 1) of what was found."""
    terms = results.terms
    address = source.fields | {
        "k": terms.k,
        "radius": terms.radius,
        "rank": None if terms.rank == next(iter(source.orders)) else terms.rank,
        "label": terms.label,
    }
    return _page(
        "results",
        gallery,
        source=source,
        results=results,
        terms=terms,
        number=number,
        pages=-(-results.total // _PAGE_HITS),
        max_k=MAX_K,
        address_fields=address,
    )


def error_page(status: int, detail: str) -> Markup:
    """A page that says what went wrong."""
    detail = "there is no such page" if detail == HTTPStatus.NOT_FOUND.phrase else detail  # the framework's word
    title = _ERROR_TITLES.get(status, "This can't be answered")
    return render("error.html.jinja", _PACKAGE, title=title, detail=f"{detail[:1].upper()}{detail[1:]}", uploads=True)


def _page(name: str, gallery: Gallery, **values: Any) -> Markup:
    return render(f"{name}.html.jinja", _PACKAGE, **{"gallery": gallery, "uploads": gallery.can_hash} | values)


def _address(path: str, **query: str | int | None) -> str:
    """Of a page, with what is not None as its query."""
    return f"{path}?{urlencode({name: value for name, value in query.items() if value is not None})}"


def _pages_near(number: int, pages: int) -> Iterator[int | None]:
    """The pages that another one links to: the first, the last, those beside it; None where some are passed over."""
    before = 0
    for one in sorted({1, pages, *range(max(1, number - 2), min(pages, number + 2) + 1)}):
        if one > before + 1:
            yield None
        yield one
        before = one


templates(_PACKAGE).globals.update(address=_address, pages_near=_pages_near)


def _radius(text: str) -> int | None:
    """An empty field of the form is no limit."""
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise BadRequestError(f"radius {text[:20]!r}: give a number of bits, or nothing") from None


@cache
def _load(name: str) -> tuple[bytes, str, str]:
    """A file's content, its media type and its tag."""
    package, path, media_type = _FILES[name]
    data = importlib.resources.files(package).joinpath(*path.split("/")).read_bytes()
    return data, media_type, hashlib.sha256(data).hexdigest()[:20]
