"""The pages' routes."""

import hashlib
import importlib.resources
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from queryopt.runtime.search import Rank
from queryopt.runtime.serve.api import reading_form, tagged
from queryopt.runtime.serve.duplicates import MAX_RADIUS
from queryopt.runtime.serve.errors import BadRequestError, NotFoundError
from queryopt.runtime.serve.gallery import Gallery
from queryopt.runtime.serve.pages.bits import bit_page, bits_page
from queryopt.runtime.serve.pages.duplicates import duplicates_page
from queryopt.runtime.serve.pages.home import all_page, home_page
from queryopt.runtime.serve.pages.reference import reference_page
from queryopt.runtime.serve.pages.results import PAGE_HITS, Asked, results_page
from queryopt.runtime.serve.settings import MAX_K

__all__ = ["site_routes"]

_SAMPLE = 24
_ALL = 48
_DEFAULT_K = 96

_FILES = {
    "page.css": ("queryopt.runtime", "page.css", "text/css"),
    "app.css": ("queryopt.runtime.serve", "static/app.css", "text/css"),
    "app.js": ("queryopt.runtime.serve", "static/app.js", "text/javascript"),
    "icon.svg": ("queryopt.runtime.serve", "static/icon.svg", "image/svg+xml"),
}

PageNumber = Annotated[int, Query(ge=1, le=100_000)]


def site_routes(gallery: Gallery, app: FastAPI) -> APIRouter:
    """The routes of the pages on a gallery. app: whose API is described."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    files = {name: _load(*where) for name, where in _FILES.items()}

    @router.get("/")
    def home() -> str:
        return home_page(gallery, gallery.sample(_SAMPLE))

    @router.get("/all")
    def everything(after: Annotated[int, Query(ge=0, lt=1 << 63)] = 0) -> str:
        return all_page(gallery, gallery.page(after, _ALL), after, _ALL)

    @router.post("/upload")
    async def upload(request: Request) -> Response:
        async with reading_form(request) as (_, sent):
            if sent is None:
                raise BadRequestError("no file was sent: choose a picture")
            name, _ = await run_in_threadpool(gallery.upload, sent.file, sent.name)
        where = f"/results?query={name}"
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"location": where})
        return RedirectResponse(where, 303)

    @router.get("/results")
    def results(
        query: str | None = None,
        image: int | None = None,
        code: str | None = None,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = _DEFAULT_K,
        radius: str = "",
        rank: Rank = "hamming",
        page: PageNumber = 1,
    ) -> str:
        if sum(given is not None for given in (query, image, code)) != 1:
            raise BadRequestError("nothing to search with: give a picture, on the first page")
        if query is not None:
            asked = gallery.query_of_upload(gallery.uploaded(query))
        elif image is not None:
            asked = gallery.query_of_image(image)
        else:
            asked = gallery.query_of_code(str(code))
        offset = (page - 1) * PAGE_HITS
        if offset > MAX_K:
            raise NotFoundError(f"there is no page {page}")
        within = _radius(radius)
        found = gallery.search(asked, k, within, rank, offset, PAGE_HITS, exclude_self=True)
        return results_page(gallery, Asked(query, image, code), found, page)

    @router.get("/browse")
    def browse() -> str:
        return bits_page(gallery, gallery.survey())

    @router.get("/browse/{bit}")
    def browse_bit(bit: int, page: PageNumber = 1) -> str:
        if not 0 <= bit < gallery.index.bits:
            raise NotFoundError(f"there is no bit {bit}: codes have {gallery.index.bits} bits, from 0")
        return bit_page(gallery, gallery.survey(), bit, page)

    @router.get("/duplicates")
    def duplicates(radius: Annotated[int, Query(ge=0, le=MAX_RADIUS)] = 0, page: PageNumber = 1) -> str:
        return duplicates_page(gallery, gallery.duplicates(radius), radius, page)

    @router.get("/docs")
    def reference(request: Request) -> str:
        return reference_page(app.openapi(), str(request.base_url), gallery.can_hash)

    @router.get("/static/{name}")
    def static(request: Request, name: str) -> Response:
        if name not in files:
            raise NotFoundError("there is no such file")
        data, media_type, tag = files[name]
        return tagged(request, data, media_type, tag)

    @router.get("/favicon.ico")
    def favicon() -> Response:
        return RedirectResponse("/static/icon.svg", 308)

    return router


def _radius(text: str) -> int | None:
    """An empty field of the form is no limit."""
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise BadRequestError(f"radius {text[:20]!r}: give a number of bits, or nothing") from None


def _load(package: str, name: str, media_type: str) -> tuple[bytes, str, str]:
    data = importlib.resources.files(package).joinpath(*name.split("/")).read_bytes()
    return data, media_type, hashlib.sha256(data).hexdigest()[:20]
