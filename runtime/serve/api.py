"""The JSON API."""

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from queryopt import __version__
from queryopt.errors import ImageError
from queryopt.runtime.serve import metrics
from queryopt.runtime.serve.errors import BadRequestError, NotFoundError
from queryopt.runtime.serve.gallery import Gallery
from queryopt.runtime.serve.pictures import MAX_SIZE, MIN_SIZE
from queryopt.runtime.serve.placeholder import placeholder
from queryopt.runtime.serve.schemas import (
    Attention,
    Bit,
    Health,
    Problem,
    SearchRequest,
    SearchResponse,
    SureImage,
)
from queryopt.runtime.serve.settings import MAX_PAGE

__all__ = ["api_routes", "uploaded_file"]

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


def api_routes(gallery: Gallery) -> APIRouter:
    """The routes of the API on a gallery."""
    router = APIRouter(responses={422: {"model": Problem, "description": "A parameter is wrong."}})

    @router.post(
        "/search",
        summary="The nearest pictures to a file, a code, or a picture of the index",
        response_model=SearchResponse,
        responses=_PROBLEMS,
        openapi_extra=_BODY,
    )
    async def search(request: Request) -> SearchResponse:
        asked, file = await _asked(request)
        return await run_in_threadpool(_search, gallery, asked, file)

    @router.get("/image/{id}", summary="A picture of the index, as a JPEG", response_class=Response, responses=_JPEG)
    def image(
        request: Request,
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
                return Response(
                    placeholder(str(error)), media_type="image/svg+xml", headers={"Cache-Control": "no-store"}
                )
            raise NotFoundError(f"picture {id} can't be shown: {error}") from None
        return tagged(request, jpeg.data, "image/jpeg", jpeg.tag)

    @router.get(
        "/image/{id}/attention",
        summary="Where bits look in a picture of the index",
        responses={code: _PROBLEMS[code] for code in (404, 501, 503)},
    )
    def image_attention(id: int, bit: Annotated[int | None, Query(ge=0, lt=64)] = None) -> Attention:
        try:
            return _attention(gallery.attention(id), bit)
        except ImageError as error:
            raise NotFoundError(f"picture {id} can't be read: {error}") from None

    @router.get(
        "/query/{name}/image", summary="An uploaded picture, as a JPEG", response_class=Response, responses=_JPEG
    )
    def query_image(request: Request, name: str, view: Literal["whole", "model"] = "whole") -> Response:
        return tagged(request, gallery.upload_jpeg(gallery.uploaded(name), view), "image/jpeg", f"{view}-{name}")

    @router.get(
        "/query/{name}/attention",
        summary="Where bits look in an uploaded picture",
        responses={code: _PROBLEMS[code] for code in (404, 501)},
    )
    def query_attention(name: str, bit: Annotated[int | None, Query(ge=0, lt=64)] = None) -> Attention:
        gallery.need_attention()
        maps = gallery.uploaded(name).maps
        assert maps is not None
        return _attention(maps, bit)

    @router.get("/bits", summary="Each bit's balance, and the pictures most sure of it")
    def bits(
        bit: Annotated[int | None, Query(ge=0, lt=64, description="One bit alone.")] = None,
        count: Annotated[int, Query(ge=0, le=MAX_PAGE, description="Pictures of each side.")] = 5,
    ) -> list[Bit]:
        return [_bit(gallery, one, count) for one in _chosen(gallery.index.bits, bit)]

    @router.get("/healthz", summary="Whether the server works")
    def healthz() -> Health:
        return Health(
            status="ok",
            version=__version__,
            images=len(gallery.index),
            bits=gallery.index.bits,
            model=gallery.model,
            attention=gallery.explains,
        )

    @router.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    def prometheus() -> Response:
        return Response(gallery.metrics.text(len(gallery.index), gallery.waiting), media_type=metrics.CONTENT_TYPE)

    return router


async def uploaded_file(request: Request) -> tuple[dict[str, str], tuple[str, bytes] | None]:
    """The fields of a form, and its file (name and content) if there is one. BadRequestError for a damaged form."""
    fields: dict[str, str] = {}
    file: tuple[str, bytes] | None = None
    async with request.form(max_files=1, max_fields=20, max_part_size=1 << 16) as form:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                fields[name] = value
            elif name == "file" and (value.filename or value.size):
                file = (_base_name(value.filename or "") or "picture", await value.read())
    return fields, file


def _base_name(name: str) -> str:
    """The last part of a path, some browsers' or a program's, cut to what names are long at most."""
    return name.replace("\\", "/").rpartition("/")[2][:255]


def tagged(request: Request, data: bytes, media_type: str, tag: str) -> Response:
    """An answer that a browser may keep, and asks again whether it is still the same."""
    headers = {"ETag": f'"{tag}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


async def _asked(request: Request) -> tuple[SearchRequest, tuple[str, bytes] | None]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    file: tuple[str, bytes] | None = None
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        fields: Any
        fields, file = await uploaded_file(request)
        fields = {name: value for name, value in fields.items() if value != ""}
    elif kind == "application/json":
        try:
            fields = await request.json()
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"the body is not JSON ({error})") from None
    else:
        raise BadRequestError(f"Content-Type is {kind or 'missing'}: send a form (multipart/form-data) or JSON")
    try:
        asked = SearchRequest.model_validate(fields)
    except ValidationError as error:
        raise BadRequestError(described(error.errors())) from None
    given = [name for name in ("code", "image", "query") if getattr(asked, name) is not None]
    given += ["file"] if file is not None else []
    if len(given) != 1:
        raise BadRequestError(f"{' and '.join(given) or 'nothing'} given: give one of file, code, image, query")
    return asked, file


def described(errors: Any) -> str:
    """Pydantic's errors as one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in error['loc']) or 'body'}: {error['msg'][:1].lower()}{error['msg'][1:]}"
        for error in errors
    )


def _search(gallery: Gallery, asked: SearchRequest, file: tuple[str, bytes] | None) -> SearchResponse:
    name = asked.query
    if file is not None:
        name, uploaded = gallery.upload(file[1], file[0])
        query = gallery.query_of_upload(uploaded)
    elif asked.query is not None:
        query = gallery.query_of_upload(gallery.uploaded(asked.query))
    elif asked.image is not None:
        query = gallery.query_of_image(asked.image)
    else:
        query = gallery.query_of_code(str(asked.code))
    results = gallery.search(query, asked.k, asked.radius, asked.rank, asked.offset, asked.limit, asked.exclude_self)
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
    found = gallery.survey()
    meaning = gallery.meaning(bit)

    def sure(side: Literal["highest", "lowest"]) -> list[SureImage]:
        if found is None:
            return []
        surest = getattr(found, side)[bit]
        pairs = zip(surest.ids[:count].tolist(), surest.margins[:count].tolist(), strict=True)
        return [SureImage(id=id, margin=margin) for id, margin in pairs]

    return Bit(
        bit=bit,
        ones=None if found is None or not found.images else int(found.ones[bit]) / found.images,
        highest=sure("highest"),
        lowest=sure("lowest"),
        meaning=None if meaning is None else vars(meaning),
    )
