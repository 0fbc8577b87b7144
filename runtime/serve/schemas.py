"""What the JSON API takes and gives."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from queryopt.runtime.hits import HIT_FIELDS, code_hex
from queryopt.runtime.search.ranked import Rank, RankName
from queryopt.runtime.serve.gallery import MAX_K, MAX_PAGE, Results

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
        RankName,
        Field(
            description="The order: by distance, equal ones by the distance of their margins (of a code alone, by id) "
            "or by id; by how sure the query was of the bits that differ; or that among equal distances. hamming is "
            "the former name of id."
        ),
    ] = "margin"
    offset: Annotated[int, Field(ge=0, le=MAX_K, description="Hits to pass over.")] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE, description="The most hits in this answer.")] = MAX_PAGE
    label: Annotated[str | None, Field(description="Of the k hits, only those with this label.")] = None
    exclude_self: Annotated[bool, Field(description="Leave the picture that is searched for out of its own hits.")] = (
        False
    )


if TYPE_CHECKING:
    HitOut = BaseModel
else:
    HitOut = create_model(
        "HitOut",
        __doc__="A picture that was found.",
        **{field.name: (field.type, Field(description=field.about)) for field in HIT_FIELDS},
    )


class SearchResponse(BaseModel):
    """One page of hits."""

    query: Annotated[str | None, Field(description="The name of an uploaded picture, for further pages.")]
    bits: int
    code: Annotated[str, Field(description="The query's code.")]
    margins: Annotated[list[int] | None, Field(description="The query's margins; null for a code alone.")]
    rank: Annotated[Rank, Field(description="The order of the hits.")]
    k: int
    radius: int | None
    offset: int
    total: Annotated[int, Field(description="Hits in all pages.")]
    ties: Annotated[
        int | None,
        Field(description="Pictures beyond them that are as near as the last; null for weighted and tiebreak."),
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
            rank=results.terms.rank,
            k=results.terms.k,
            radius=results.terms.radius,
            offset=results.offset,
            total=results.total,
            ties=results.ties,
            hits=[HitOut(**{field.name: field.of_api(hit) for field in HIT_FIELDS}) for hit in results.hits],
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
