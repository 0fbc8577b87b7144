"""The ASGI application: the API, the pages, and what stands before them."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from queryopt import __version__
from queryopt.errors import QueryOptError
from queryopt.runtime.serve.api import api_routes, described
from queryopt.runtime.serve.errors import RequestError
from queryopt.runtime.serve.gallery import Gallery
from queryopt.runtime.serve.guard import Guard
from queryopt.runtime.serve.site import compile_templates, error_page, site_routes
from queryopt.text import display_path

__all__ = ["create_app"]

_log = logging.getLogger("queryopt.serve")

_ABOUT = """Exact search of pictures by their hash codes, and where each bit of a code looks.

Codes are integers: bit i is bit i of the integer. Results are in (distance, id) order."""


def create_app(gallery: Gallery) -> Guard:
    """The application on a gallery, for any ASGI server that runs one process. It closes the gallery when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        gallery.close()

    app = FastAPI(
        title="queryopt",
        summary="Search an index of pictures",
        description=_ABOUT,
        version=__version__,
        docs_url=None,  # FastAPI's page takes its script from another host: see site.py
        redoc_url=None,
        lifespan=lifespan,
        license_info={"name": "Apache-2.0"},
    )
    app.state.gallery = gallery
    app.include_router(api_routes)
    app.include_router(site_routes)
    compile_templates()

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return _answer(request, error.status, str(error), headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _answer(request, error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # The first part of where it is says path or query, which a parameter's name tells.
        return _answer(request, 422, described([one | {"loc": one["loc"][1:]} for one in error.errors()]))

    @app.exception_handler(QueryOptError)
    async def failed(request: Request, error: QueryOptError) -> Response:
        # Its message names paths, which are no client's business.
        _log.error("%s %s: %s", request.method, request.url.path, error)
        return _answer(request, 500, "the index or the model can't be used; the server's log says why")

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return _answer(request, 500, "the server failed; its log says why")

    settings = gallery.settings
    return Guard(
        app,
        gallery.metrics,
        settings.hosts,
        settings.requests,
        settings.max_upload,
        settings.upload_seconds,
    )


def _answer(request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as a page for a browser that asks for one, else as JSON."""
    detail = display_path(detail)  # what a client sent may be in it, and need not be text
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(error_page(status, detail), status, headers)
    return JSONResponse({"detail": detail}, status, headers)
