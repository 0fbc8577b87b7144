"""The JSON API."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO, Literal, TypeAlias
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from queryopt import __version__
from queryopt.errors import ImageError
from queryopt.runtime.search.ranked import check_rank
from queryopt.runtime.serve import metrics
from queryopt.runtime.serve.errors import BadRequestError, LargeBodyError, NotFoundError
from queryopt.runtime.serve.gallery import MAX_PAGE, Gallery, SearchTerms
from queryopt.runtime.serve.pictures import MAX_SIZE, MIN_SIZE, placeholder
from queryopt.runtime.serve.schemas import (
    Attention,
    Bit,
    Health,
    Problem,
    SearchRequest,
    SearchResponse,
    SureImage,
)
from queryopt.text import parse_json

__all__ = ["Served", "Upload", "api_routes", "described", "reading_form", "tagged"]

_MOST_TEXT = 1 << 16
"""Bytes of a body, or of a field of a form, that is no file."""
_HEALTH = CapacityLimiter(1)


@dataclass(frozen=True)
class Upload:
    """A file of a form: its name, and its open content."""

    name: str
    file: BinaryIO


_JSON = SearchRequest.model_json_schema()
_FILE = {"type": "string", "format": "binary", "description": "A picture."}
_FORM = {"type": "object", "properties": {"file": _FILE, **_JSON["properties"]}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _JSON},
            "multipart/form-data": {"schema": _FORM},
        },
    }
}
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "A JPEG."},
    404: {"model": Problem, "description": "There is no such picture, or its file can't be shown."},
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Something in the request is wrong, or the file is no picture."},
    404: {"model": Problem, "description": "There is no such picture."},
    413: {"model": Problem, "description": "More bytes than the server takes."},
    501: {"model": Problem, "description": "The server has no model, or the model no attention."},
    503: {"model": Problem, "description": "Too much at once: try again after Retry-After."},
}


api_routes = APIRouter(responses={422: {"model": Problem, "description": "A parameter is wrong."}})


async def _served(request: Request) -> Gallery:
    gallery: Gallery = request.app.state.gallery
    return gallery


Served: TypeAlias = Annotated[Gallery, Depends(_served)]
"""The gallery of the application that a route belongs to."""

_BitNumber: TypeAlias = Annotated[int | None, Query(ge=0, lt=64, description="One bit alone.")]


@api_routes.post(
    "/search",
    summary="The nearest pictures to a file, a code, or a picture of the index",
    response_model=SearchResponse,
    responses=_PROBLEMS,
    openapi_extra=_BODY,
)
async def search(request: Request, gallery: Served) -> SearchResponse:
    async with _reading_search(request) as (terms, upload):
        return await run_in_threadpool(_search, gallery, terms, upload)


@api_routes.get("/image/{id}", summary="A picture of the index, as a JPEG", response_class=Response, responses=_JPEG)
def image(
    request: Request,
    gallery: Served,
    id: int,
    size: Annotated[int, Query(ge=MIN_SIZE, le=MAX_SIZE, description="The most pixels a side.")] = 1024,
    view: Annotated[
        Literal["whole", "model"], Query(description="All of it, or the square that the model looks at.")
    ] = "whole",
    fallback: Annotated[bool, Query(description="Where it can't be shown, draw why, in place of 404.")] = False,
) -> Response:
    try:
        jpeg = gallery.jpeg(id, size, view)
    except ImageError as error:
        if fallback:
            return Response(placeholder(str(error)), media_type="image/svg+xml", headers={"Cache-Control": "no-store"})
        raise NotFoundError(f"picture {id} can't be shown: {error}") from None
    return tagged(request, jpeg.data, "image/jpeg", jpeg.tag)


@api_routes.get(
    "/image/{id}/attention",
    summary="Where bits look in a picture of the index",
    responses={code: _PROBLEMS[code] for code in (404, 501, 503)},
)
def image_attention(gallery: Served, id: int, bit: _BitNumber = None) -> Attention:
    try:
        return _attention(gallery.attention(id), bit)
    except ImageError as error:
        raise NotFoundError(f"picture {id} can't be read: {error}") from None


@api_routes.get(
    "/query/{name}/image", summary="An uploaded picture, as a JPEG", response_class=Response, responses=_JPEG
)
def query_image(request: Request, gallery: Served, name: str, view: Literal["whole", "model"] = "whole") -> Response:
    return tagged(request, gallery.upload_jpeg(gallery.uploaded(name), view), "image/jpeg", f"{view}-{name}")


@api_routes.get(
    "/query/{name}/attention",
    summary="Where bits look in an uploaded picture",
    responses={code: _PROBLEMS[code] for code in (404, 501)},
)
def query_attention(gallery: Served, name: str, bit: _BitNumber = None) -> Attention:
    gallery.need_attention()
    maps = gallery.uploaded(name).maps
    assert maps is not None
    return _attention(maps, bit)


@api_routes.get("/bits", summary="Each bit's balance, and the pictures most sure of it")
def bits(
    gallery: Served,
    bit: _BitNumber = None,
    count: Annotated[int, Query(ge=0, le=MAX_PAGE, description="Pictures of each side.")] = 5,
) -> list[Bit]:
    return [_bit(gallery, one, count) for one in _chosen(gallery.index.bits, bit)]


@api_routes.get("/healthz", summary="Whether the server works")
async def healthz(gallery: Served) -> Health:
    # In a thread of its own: pictures may hold all of those that requests are answered in.
    return await to_thread.run_sync(_health, gallery, limiter=_HEALTH)


def _health(gallery: Gallery) -> Health:
    return Health(
        status="ok",
        version=__version__,
        images=len(gallery.index),
        bits=gallery.index.bits,
        model=gallery.model,
        attention=gallery.explains,
        pictures=gallery.index.root.is_dir(),
    )


@api_routes.get("/metrics", summary="Counters for Prometheus", response_class=Response)
def prometheus(gallery: Served) -> Response:
    return Response(gallery.metrics.text(len(gallery.index), gallery.waiting), media_type=metrics.CONTENT_TYPE)


@asynccontextmanager
async def reading_form(request: Request) -> AsyncIterator[tuple[dict[str, str], Upload | None]]:
    """The fields of a form (multipart/form-data), and its file, which is open in the block; None where there is none.

    A large file lies on the disk meanwhile, so that many at once take no memory. BadRequestError for a damaged form.
    """
    fields: dict[str, str] = {}
    upload: Upload | None = None
    async with request.form(max_files=1, max_fields=20, max_part_size=_MOST_TEXT) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[name] = value
            elif name == "file" and (value.filename or value.size):
                upload = Upload(_base_name(value.filename or "") or "picture", value.file)
        yield fields, upload


def _base_name(name: str) -> str:
    """The last part of a path, some browsers' or a program's, cut to what names are long at most."""
    return name.replace("\\", "/").rpartition("/")[2][:255]


def tagged(request: Request, data: bytes, media_type: str, tag: str) -> Response:
    """An answer that a browser may keep, and asks again whether it is still the same."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


@asynccontextmanager
async def _reading_search(request: Request) -> AsyncIterator[tuple[SearchRequest, Upload | None]]:
    """What a request asks for, and the file that it asks with."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    async with AsyncExitStack() as stack:
        upload: Upload | None = None
        fields: Any
        if kind == "multipart/form-data":
            fields, upload = await stack.enter_async_context(reading_form(request))
            fields = {name: value for name, value in fields.items() if value != ""}
        elif kind in ("application/json", "application/x-www-form-urlencoded"):
            fields = _fields(kind, await _short_body(request))
        else:
            raise BadRequestError(f"Content-Type is {kind or 'missing'}: send a form (multipart/form-data) or JSON")
        yield _checked(fields, upload), upload


async def _short_body(request: Request) -> bytes:
    """A body that is no file. LargeBodyError beyond what a search can need."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_TEXT:
            raise LargeBodyError(f"more than {_MOST_TEXT >> 10} KiB that are no file")
    return body


def _fields(kind: str, body: bytes) -> Any:
    try:
        if kind == "application/json":
            return parse_json(body)
        return dict(parse_qsl(body.decode(), max_num_fields=20))
    except ValueError as error:
        raise BadRequestError(f"the body is no {kind} ({error})") from None


def _checked(fields: Any, upload: Upload | None) -> SearchRequest:
    try:
        terms = SearchRequest.model_validate(fields)
    except ValidationError as error:
        raise BadRequestError(described(error.errors())) from None
    sources = [name for name in ("code", "image", "query") if getattr(terms, name) is not None]
    sources += ["file"] if upload is not None else []
    if len(sources) != 1:
        what = " and ".join(sources) or "nothing (or a form that is cut off)"
        raise BadRequestError(f"{what} given: give one of file, code, image, query")
    return terms


def described(errors: Any) -> str:
    """Pydantic's errors as one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg'][:1].lower()}{error['msg'][1:]}"
        for error in errors
    )


def _search(gallery: Gallery, terms: SearchRequest, upload: Upload | None) -> SearchResponse:
    name = terms.query
    if upload is None:
        query = gallery.query(name, terms.image, None if terms.code is None else str(terms.code))
    else:
        name, uploaded = gallery.upload(upload.file, upload.name)
        query = gallery.query_of_upload(uploaded)
    how = SearchTerms(terms.k, terms.radius, check_rank(terms.rank), terms.exclude_self, terms.label)
    results = gallery.search(query, how, terms.offset, terms.limit)
    return SearchResponse.of(results, gallery.index.bits, name)


def _chosen(bits: int, bit: int | None) -> range:
    if bit is None:
        return range(bits)
    if bit >= bits:
        raise NotFoundError(f"there is no bit {bit}: codes have {bits} bits, from 0")
    return range(bit, bit + 1)


def _attention(maps: npt.NDArray[np.float32], bit: int | None) -> Attention:
    chosen = _chosen(len(maps), bit)
    flat = maps[chosen.start : chosen.stop].reshape(len(chosen), -1)
    rows = [[float(f"{weight:.4g}") for weight in row] for row in flat.tolist()]
    return Attention(grid=maps.shape[-1], bits=list(chosen), maps=rows)


def _bit(gallery: Gallery, bit: int, count: int) -> Bit:
    survey = gallery.survey()
    meaning = gallery.meaning(bit)

    def sure(side: Literal["highest", "lowest"]) -> list[SureImage]:
        if survey is None:
            return []
        surest = getattr(survey, side)[bit]
        pairs = zip(surest.ids[:count].tolist(), surest.margins[:count].tolist(), strict=True)
        return [SureImage(id=id, margin=margin) for id, margin in pairs]

    return Bit(
        bit=bit,
        ones=None if survey is None or not survey.images else int(survey.ones[bit]) / survey.images,
        highest=sure("highest"),
        lowest=sure("lowest"),
        meaning=None if meaning is None else vars(meaning),
    )
