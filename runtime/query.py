"""Search an index with picture files: the stored code of a picture that is in the index, the model for the others."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError
from queryopt.runtime.hits import FailedQuery, Hit, QueryResult, differing_bits
from queryopt.runtime.index import HashIndex, IndexedImage
from queryopt.runtime.index.rows import encode_margins, file_stamp
from queryopt.runtime.search import Rank, SearchResult

if TYPE_CHECKING:
    from queryopt.runtime.hasher import Hasher

__all__ = ["Found", "Query", "by_distance", "find_hits", "first_hits", "make_hits", "search_files"]


@dataclass(frozen=True, eq=False)
class Query:
    """A picture to search with. image: its row, where it is in the index. stored: the code is that row's."""

    path: bytes
    code: npt.NDArray[np.uint8]
    margins: npt.NDArray[np.int8]
    logits: npt.NDArray[np.float32]
    """Of a stored code, its margins: the logits in steps of a 127th of their scale."""
    image: IndexedImage | None
    stored: bool


def search_files(
    index: HashIndex,
    paths: Iterable[bytes],
    open_hasher: "Callable[[], Hasher]",
    *,
    k: int | None = 10,
    radius: int | None = None,
    exclude_self: bool = False,
    rank: Rank = "margin",
    batch: int = 256,
) -> Iterator[QueryResult | FailedQuery]:
    """Search for each picture file, in the order given.

    A file of the index whose size and time of change are those that it was hashed at is searched with its stored code.
    The others are hashed; `open_hasher` is called when the first of them comes, and its model must be the index's
    (MismatchError).

    k: the most hits of a query, None for all within `radius`.
    radius: the largest distance of a hit, None for any.
    exclude_self: leave a picture that is in the index out of its own hits.
    rank: the order of the hits, as for `HashIndex.search`; of a stored code, its margins are what is known of logits.
    batch: queries that are held at once.
    """
    if k is None and radius is None:
        raise UsageError("give k, the number of hits, or radius, the largest distance, or both")
    waiting = iter(paths)
    hasher: Hasher | None = None
    while chunk := list(islice(waiting, batch)):
        images = {path: index.find(os.path.abspath(path)) for path in chunk}
        queries = {
            path: Query(path, image.code, image.margins, image.margins.astype(np.float32), image, stored=True)
            for path, image in images.items()
            if image is not None and _unchanged(path, image)
        }
        failures: Mapping[bytes, str] = {}
        fresh = [path for path in images if path not in queries]
        if fresh:
            if hasher is None:
                hasher = open_hasher()
                index.check_card(hasher.card, f"the model {hasher.model_path}")
            hashed = hasher.hash_files(fresh)
            margins = encode_margins(hashed.codes, hashed.logits, index.bits, index.card.logit_scale)
            rows = zip(map(os.fsencode, hashed.paths), hashed.codes, margins, hashed.logits, strict=True)
            for path, code, margin, logits in rows:
                queries[path] = Query(path, code, margin, logits, images[path], stored=False)
            failures = {os.fsencode(path): reason for path, reason in hashed.failures.items()}
        asked = [queries[path] for path in chunk if path in queries]
        results = iter(index.in_one_state(partial(_search, index, asked, k, radius, exclude_self, rank)))
        for path in chunk:
            yield next(results) if path in queries else FailedQuery(path, failures[path])


def _unchanged(path: bytes, image: IndexedImage) -> bool:
    try:
        now = os.stat(path)
    except OSError:
        return False
    return file_stamp(now) == (image.size, image.mtime_ns) and not image.stale


@dataclass(frozen=True)
class Found:
    """What was found for a query, a list each, in the order of the search. Scores are None unless bits are weighed."""

    ids: list[int]
    distances: list[int]
    scores: list[int | None]


def _search(
    index: HashIndex, queries: list[Query], k: int | None, radius: int | None, exclude_self: bool, rank: Rank
) -> list[QueryResult]:
    if not queries:
        return []
    results = []
    # More than asked for: the query itself may be among them, and the next one says whether others are as near.
    most = None if k is None else min(k + exclude_self + by_distance(rank), len(index))
    for query, matches in zip(queries, find_hits(index, queries, most, radius, rank), strict=True):
        shown, ties = first_hits(index, query, matches, k, exclude_self, rank)
        results.append(
            QueryResult(
                path=query.path,
                bits=index.bits,
                code=query.code,
                margins=query.margins,
                label=query.image.label if query.image is not None else None,
                id=query.image.id if query.image is not None else None,
                stored=query.stored,
                hits=tuple(make_hits(index, query.code, shown)),
                ties=ties,
                rank=rank,
            )
        )
    return results


def by_distance(rank: Rank) -> bool:
    """Whether a rank is an order by distance first, where ties at the last one shown may be counted."""
    return rank in ("margin", "id")


def first_hits(
    index: HashIndex, query: Query, matches: Found, k: int | None, exclude_self: bool, rank: Rank
) -> tuple[list[tuple[int, int | None]], int | None]:
    """(id, score) of the first k of what was found (None: of all), and how many others are as near as the last of them.

    matches: of a search for k and one more, and for yet another with `exclude_self`, which leaves the picture of the
    query out. The number of the others, at the same distance, is None for the ranks that weigh bits.
    """
    own = query.image.id if query.image is not None else None
    kept = [i for i, id in enumerate(matches.ids) if not (exclude_self and id == own)]
    shown = kept[:k]
    ties = None
    if by_distance(rank):
        last = matches.distances[shown[-1]] if shown else -1
        ties = sum(matches.distances[i] == last for i in kept[len(shown) :])
        if ties:
            # Only one of them was asked for.
            without = {matches.ids[i] for i in shown} | ({own} if exclude_self and own is not None else set())
            ties = _count_ties(index, query.code, last, without)
    return [(matches.ids[i], matches.scores[i]) for i in shown], ties


def _count_ties(index: HashIndex, code: npt.NDArray[np.uint8], distance: int, without: Set[int]) -> int:
    """How many pictures are at this very distance of a code, those of the ids `without` not counted."""
    near = index.search_radius(code[None], distance)
    return len({*near.ids[near.distances == distance].tolist()} - without)


def find_hits(
    index: HashIndex, queries: Sequence[Query], k: int | None, radius: int | None, rank: Rank
) -> Iterator[Found]:
    """The first k of each query, or all within the radius, or the first k of these."""
    codes, logits = np.stack([query.code for query in queries]), np.stack([query.logits for query in queries])
    margins = np.stack([query.margins for query in queries]) if rank == "margin" else None
    if radius is not None and (k is None or not by_distance(rank)):
        near = index.search_radius(codes, radius, margins=margins)
        for i in range(len(queries)):
            row, query = slice(*near.offsets[i : i + 2]), slice(i, i + 1)
            ids = near.ids[row]
            if by_distance(rank):
                yield Found(ids.tolist(), near.distances[row].tolist(), [None] * len(ids))
                continue
            # A code of a low score may lie beyond the radius: only those within it are ranked.
            most = len(ids) if k is None else min(k, len(ids))
            ranked = index.search(codes[query], most, logits=logits[query], rank=rank, allow=ids)
            yield from _rows(ranked, index.bits, rank)
        return
    assert k is not None
    if margins is None:
        result = index.search(codes, k, logits=logits, rank=rank)
    else:
        result = index.search(codes, k, margins=margins)
    yield from _rows(result, index.bits if radius is None else min(radius, index.bits), rank)


def _rows(result: SearchResult, radius: int, rank: Rank) -> Iterator[Found]:
    for i, distances in enumerate(result.distances):
        # Rows are filled up with id -1, at a distance beyond all.
        kept = distances <= radius
        scores = None if result.scores is None or by_distance(rank) else result.scores[i, kept].tolist()
        yield Found(result.ids[i, kept].tolist(), distances[kept].tolist(), scores or [None] * int(kept.sum()))


def make_hits(
    index: HashIndex, code: npt.NDArray[np.uint8], scored: Iterable[tuple[int, int | None]], rank: int = 0
) -> Iterator[Hit]:
    """Ids with their scores as hits, whose ranks begin after `rank`, without pictures that were removed meanwhile."""
    for id, score in scored:
        try:
            image = index[id]
        except UsageError:  # removed by another process a moment ago
            continue
        rank += 1
        differs = differing_bits(code, image.code)
        yield Hit(
            rank=rank,
            distance=len(differs),
            score=score,
            id=id,
            path=os.fsencode(image.path),
            name=image.relative,
            label=image.label,
            code=image.code,
            margins=image.margins,
            differs=differs,
            stale=image.stale,
            missing=not os.path.exists(image.path),
        )
