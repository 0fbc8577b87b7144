"""What the JSON API takes and gives."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from queryopt.codes import unpack_codes
from queryopt.runtime.hits import Hit, code_hex, json_text
from queryopt.runtime.query import Query
from queryopt.runtime.serve.gallery import Results
from queryopt.runtime.serve.settings import MAX_K, MAX_PAGE

__all__ = [
    "Attention",
    "Bit",
    "Health",
    "HitOut",
    "Problem",
    "SearchRequest",
    "SearchResponse",
    "SureImage",
]


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


class SearchRequest(BaseModel):
    """What to search for, one of code, image and query (or a file, in a form), and how."""

    model_config = ConfigDict(extra="forbid")

    code: Annotated[str | int | None, Field(description="A code, as an integer or as text such as 0x01f.")] = None
    image: Annotated[int | None, Field(description="The id of a picture of the index.", ge=0)] = None
    query: Annotated[str | None, Field(description="The name that an earlier answer gave to an uploaded picture.")] = (
        None
    )
    k: Annotated[int, Field(ge=1, le=MAX_K, description="The most hits.")] = 10
    radius: Annotated[int | None, Field(ge=0, le=64, description="The largest distance of a hit, in bits.")] = None
    rank: Annotated[
        Literal["hamming", "weighted", "tiebreak"],
        Field(
            description="The order: by distance and id; by how sure the query was of the bits that differ; or that "
            "among equal distances."
        ),
    ] = "hamming"
    offset: Annotated[int, Field(ge=0, le=MAX_K, description="Hits to pass over.")] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="The most hits in this answer.")] = MAX_PAGE
    exclude_self: Annotated[bool, Field(description="Leave the picture that is searched for out of its own hits.")] = (
        False
    )


class HitOut(BaseModel):
    """A picture that was found."""

    rank: Annotated[int, Field(description="From 1, in the order of the search.")]
    distance: Annotated[int, Field(description="Bits that differ.")]
    score: Annotated[
        int | None, Field(description="Of a rank other than hamming: 0 to 1023 for each bit that differs.")
    ]
    id: int
    path: Annotated[str, Field(description="Relative to the folder of the index.")]
    label: str | None
    code: str
    margins: Annotated[list[int], Field(description="How sure each bit is: -127 to 127, negative where it is 0.")]
    differs: Annotated[dict[int, tuple[int, int]], Field(description="Bit: the query's value, and the hit's.")]
    stale: Annotated[bool, Field(description="The code is that of an earlier state of the file.")]
    missing: Annotated[bool, Field(description="The file is not there now.")]

    @classmethod
    def of(cls, hit: Hit, query: Query, bits: int) -> "HitOut":
        """A hit of a query."""
        asked, found = (unpack_codes(code[None], bits)[0] for code in (query.code, hit.code))
        return cls(
            rank=hit.rank,
            distance=hit.distance,
            score=hit.score,
            id=hit.id,
            path=json_text(hit.name),
            label=None if hit.label is None else json_text(hit.label),
            code=code_hex(hit.code),
            margins=[] if hit.margins is None else hit.margins.tolist(),
            differs={bit: (int(asked[bit]), int(found[bit])) for bit in hit.differs},
            stale=hit.stale,
            missing=hit.missing,
        )


class SearchResponse(BaseModel):
    """One page of hits."""

    query: Annotated[str | None, Field(description="The name of an uploaded picture, for further pages.")]
    bits: int
    code: Annotated[str, Field(description="The query's code.")]
    margins: Annotated[list[int] | None, Field(description="The query's margins; null for a code alone.")]
    rank: str
    k: int
    radius: int | None
    offset: int
    total: Annotated[int, Field(description="Hits in all pages.")]
    ties: Annotated[
        int | None, Field(description="Pictures beyond them that are as near as the last; null for other ranks.")
    ]
    hits: list[HitOut]

    @classmethod
    def of(cls, results: Results, bits: int, name: str | None) -> "SearchResponse":
        """What a search found."""
        query = results.query
        alone = not query.path
        return cls(
            query=name,
            bits=bits,
            code=code_hex(query.code),
            margins=None if alone else query.margins.tolist(),
            rank=results.rank,
            k=results.k,
            radius=results.radius,
            offset=results.offset,
            total=results.total,
            ties=results.ties,
            hits=[HitOut.of(hit, query, bits) for hit in results.hits],
        )


class SureImage(BaseModel):
    """A picture that is sure of a bit."""

    id: int
    margin: Annotated[int, Field(description="1 to 127.")]


class Bit(BaseModel):
    """What one bit is about."""

    bit: int
    ones: Annotated[float | None, Field(description="The share of the pictures that have it.")]
    highest: Annotated[list[SureImage], Field(description="The pictures most sure that it is 1.")]
    lowest: Annotated[list[SureImage], Field(description="The pictures most sure that it is 0.")]
    meaning: Annotated[dict[str, Any] | None, Field(description="From --bit-cards: its best attribute, and its worth.")]


class Attention(BaseModel):
    """Where bits look: the square that the model sees, in grid x grid cells, rows from the top."""

    grid: int
    bits: list[int]
    maps: Annotated[list[list[float]], Field(description="grid * grid weights for each of the bits, 1 in sum.")]


class Health(BaseModel):
    """That the server works. pictures: whether their folder is there; codes are searched without it."""

    status: Literal["ok"]
    version: str
    images: int
    bits: int
    model: str
    attention: bool
    pictures: bool
