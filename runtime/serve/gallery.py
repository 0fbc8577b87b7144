"""What the application shows, without a web: an index, its pictures, its bits, and a model for new pictures."""

import io
import logging
import os
import random
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes
from queryopt.cores import usable_cores
from queryopt.errors import ImageError, QueryOptError, UsageError
from queryopt.images import resize_crop
from queryopt.runtime.duplicates import Duplicates, find_duplicates
from queryopt.runtime.hasher import Hasher
from queryopt.runtime.hits import Hit, plain
from queryopt.runtime.index import HashIndex, IndexedImage
from queryopt.runtime.index.rows import encode_margins
from queryopt.runtime.query import Query, find_hits, first_hits, make_hits
from queryopt.runtime.search.ranked import Rank
from queryopt.runtime.serve.bit_cards import BitMeaning
from queryopt.runtime.serve.errors import BadRequestError, BusyError, NotFoundError, UnavailableError
from queryopt.runtime.serve.metrics import Metrics
from queryopt.runtime.serve.pictures import Jpeg, Pictures, UploadedQuery, Uploads, View
from queryopt.runtime.serve.survey import (
    MAX_RADIUS,
    Background,
    BitSurvey,
    CodeGroups,
    Surest,
    group_codes,
    survey,
)
from queryopt.runtime.serve.worker import Hashed, ModelWorker
from queryopt.runtime.thumbnails import Seen, seen_square
from queryopt.text import display_path

__all__ = ["MAX_K", "MAX_PAGE", "Gallery", "Results", "SearchTerms", "ServeSettings"]

MAX_K = 10_000
"""Hits of one search."""
MAX_PAGE = 200
"""Hits of one answer."""

_log = logging.getLogger("queryopt.serve")

_MODEL_SECONDS = 60
_LOOK_AGAIN = 1.0
"""Seconds until an index that could not take the place of the former one is tried again."""
_FORMER_SECONDS = 300.0
"""How long an index stays open once another has taken its place: longer than any request runs."""
_PREVIEW = 640
"""Pixels of what is kept of an upload."""
_DUPLICATES_SECONDS = 60.0
_MAPS = 512
"""Pictures of the index whose attention is kept: 38 kB each at 48 bits."""


@dataclass(frozen=True)
class ServeSettings:
    """hosts: names that clients may call this server by, besides localhost and IP addresses. max_upload: bytes of a
    request's body. max_pixels: of a picture that is uploaded. upload_seconds: that a body may take to arrive. batch,
    wait_ms, queue: see `ModelWorker`. requests: that are worked on at once; more get 503. image_bytes: of JPEGs that
    are kept. queries: uploaded pictures that are kept (as a small JPEG and their code) for further pages.
    """

    hosts: tuple[str, ...] = ()
    max_upload: int = 20 << 20
    max_pixels: int = 40_000_000
    upload_seconds: float = 60
    batch: int = 16
    wait_ms: float = 3
    queue: int = 64
    requests: int = 64
    image_bytes: int = 64 << 20
    queries: int = 256


@dataclass(frozen=True)
class SearchTerms:
    """How to search: for the first k pictures, those within the radius alone if there is one, in the order of the rank.

    exclude_self: without the picture that is searched for. label: of the k, only those with this label, as `plain`
    shows it.
    """

    k: int = 10
    radius: int | None = None
    rank: Rank = "margin"
    exclude_self: bool = False
    label: str | None = None


@dataclass(frozen=True, eq=False)
class Results:
    """One page of what a search found.

    query: what was searched for. hits: from number `offset` on. total: hits there are, at most k. found: those of any
    label. labels: of these, with how many have each, the most frequent first. ties: pictures beyond them that
    are as near as the last; None for a rank that weighs bits.
    """

    query: Query
    terms: SearchTerms
    hits: tuple[Hit, ...]
    offset: int
    total: int
    found: int
    labels: tuple[tuple[str, int], ...]
    ties: int | None


class Gallery:
    """An index for many clients at once; its methods may be called from several threads. Close it.

    index: open, for reading alone will do; others may write to its file, and what they commit is seen; so is a file
    that takes its place, with codes of the same model. hasher: of the index's model (MismatchError for another); None:
    pictures can't be uploaded, all else works. Both are closed with the gallery. meanings: what is known of each bit.
    """

    def __init__(
        self,
        index: HashIndex,
        hasher: Hasher | None = None,
        settings: ServeSettings | None = None,
        meanings: Sequence[BitMeaning] | None = None,
    ) -> None:
        if hasher is not None:
            index.check_card(hasher.card, f"the model {hasher.model_path}")
        self._index = index
        self._generation = 0
        self._former: list[tuple[float, HashIndex]] = []
        self._index_lock = threading.Lock()
        self._told: str | None = None
        self._look_again = 0.0
        self.settings = settings or ServeSettings()
        self.meanings = tuple(meanings or ())
        self.explains = hasher is not None and hasher.explains
        self.metrics = Metrics()
        self.pictures = Pictures(index.card.preprocessing, self.settings.image_bytes, usable_cores())
        self.uploads = Uploads(self.settings.queries)
        self._worker: ModelWorker | None = None
        if hasher is not None:
            limits = self.settings
            self._worker = ModelWorker(hasher, limits.batch, limits.wait_ms, limits.queue, self.metrics.model_run)
        self._maps: OrderedDict[tuple[bytes, str], npt.NDArray[np.float32]] = OrderedDict()
        self._maps_lock = threading.Lock()
        path = index.path
        self._survey = Background(lambda: survey(path), "survey of the bits")
        self._duplicates = Background(lambda: _duplicates(path), "search for copies")
        self._same_code = [
            Background(lambda radius=radius: group_codes(path, radius), f"groups of codes within {radius} bits")  # type: ignore[misc]
            for radius in range(MAX_RADIUS + 1)
        ]

    def close(self) -> None:
        """Let the model finish what it was given, stop all else, close the index."""
        self._survey.close()
        self._duplicates.close()
        for work in self._same_code:
            work.close()
        if self._worker is not None:
            self._worker.close()
        for index in (*(former for _, former in self._former), self._index):
            index.close()

    @property
    def index(self) -> HashIndex:
        """The index; where another file lies in its place by now, that one, if it opens and is of the same model.

        Else it is still the one that was open, and the log says so.
        """
        if self._index.replaced and time.monotonic() >= self._look_again:
            with self._index_lock:
                if self._index.replaced and time.monotonic() >= self._look_again:
                    self._reopen()
        return self._index

    def _reopen(self) -> None:
        path = self._index.path
        try:
            index = HashIndex.open(path, readonly=True)
            try:
                index.check_card(self._index.card, "this server")
            except QueryOptError:
                index.close()
                raise
        except QueryOptError as error:
            if self._told != str(error):
                _log.warning("the index is not what it was; the former one is served until that is mended: %s", error)
            self._told, self._look_again = str(error), time.monotonic() + _LOOK_AGAIN
            return
        # Requests that are running still read the former one; none of those before it, which hold memory, does by now.
        now = time.monotonic()
        for since, former in self._former:
            if now - since > _FORMER_SECONDS:
                former.close()
        self._former = [(since, former) for since, former in self._former if now - since <= _FORMER_SECONDS]
        self._former.append((now, self._index))
        self._index, self._told = index, None
        self._generation += 1
        _log.warning("%s: another index lies here now: it is served from now on", display_path(path))

    @property
    def _state(self) -> tuple[int, int]:
        """What changes with the index."""
        index = self.index  # which may begin another generation
        return self._generation, index.revision

    @property
    def can_hash(self) -> bool:
        """Whether new pictures can be searched for."""
        return self._worker is not None

    @property
    def waiting(self) -> int:
        """Pictures that wait for the model."""
        return 0 if self._worker is None else self._worker.waiting

    @property
    def model(self) -> str:
        """What runs the model, for people."""
        return "no model" if self._worker is None else self._worker.hasher.backend

    # Queries

    def upload(self, file: BinaryIO, name: str) -> tuple[str, UploadedQuery]:
        """Hash a picture that a client sent, and keep it under a name. BadRequestError where it is no picture.

        file: open to be read; it is not closed.
        """
        worker = self._need_worker()
        with worker.expecting():
            try:
                image = self.pictures.decode(file, self.settings.max_pixels)
            except ImageError as error:
                raise BadRequestError(f"{name}: {error}") from None
            job = worker.submit(resize_crop(image, self.pictures.preprocessing), self.explains)
        preview = self.pictures.encode(image, _PREVIEW, "whole")  # while the model works
        hashed = self._result(job)
        margins = encode_margins(hashed.code[None], hashed.logits[None], self.index.bits, self.index.card.logit_scale)
        query = UploadedQuery(name, hashed.code, margins[0], hashed.logits, hashed.maps, preview, image.size)
        return self.uploads.add(query), query

    def uploaded(self, name: str) -> UploadedQuery:
        """An upload by its name. NotFoundError where it is not kept (any more)."""
        query = self.uploads.get(name)
        if query is None:
            raise NotFoundError("this picture is not kept any more: give it again")
        return query

    def upload_jpeg(self, query: UploadedQuery, view: View) -> bytes:
        """An upload as it is kept, of at most 640 pixels a side."""
        if view == "whole":
            return query.jpeg
        return self.pictures.encode(self.pictures.decode(io.BytesIO(query.jpeg), _PREVIEW**2), _PREVIEW, view)

    def query(self, upload: str | None = None, image: int | None = None, code: str | None = None) -> Query:
        """What to search for, by one of: the name of an upload, the id of a picture of the index, a code as text.

        NotFoundError where there is no such picture, BadRequestError where that is no code.
        """
        if upload is not None:
            return self.query_of_upload(self.uploaded(upload))
        return self.query_of_image(image) if image is not None else self.query_of_code(str(code))

    @staticmethod
    def query_of_upload(query: UploadedQuery) -> Query:
        """An upload, to search for."""
        return Query(os.fsencode(query.name), query.code, query.margins, query.logits, None, stored=False)

    def query_of_image(self, id: int) -> Query:
        """A picture of the index, to search for with its stored code. NotFoundError where there is none."""
        image = self.image(id)
        return Query(image.relative, image.code, image.margins, image.margins.astype(np.float32), image, stored=True)

    def query_of_code(self, text: str) -> Query:
        """A code as an integer, decimal or 0x…, to search for; nothing is known of its margins. BadRequestError."""
        bits = self.index.bits
        try:
            value = int(text, 0)
        except ValueError:
            raise BadRequestError(f"code {text[:40]!r}: give an integer, such as 0x1f or 31") from None
        if not 0 <= value < 1 << bits:
            raise BadRequestError(f"code {text[:40]!r}: codes of this index have {bits} bits")
        code = np.frombuffer(value.to_bytes(code_bytes(bits), "little"), np.uint8)
        # Each bit as sure as any other: what a rank by weights makes of it is the rank by distance.
        signs = np.unpackbits(code, bitorder="little", count=bits).astype(np.int8) * 2 - 1
        return Query(b"", code, signs, signs.astype(np.float32), None, stored=False)

    def search(self, query: Query, terms: SearchTerms, offset: int = 0, limit: int = MAX_PAGE) -> Results:
        """Up to `limit` of the hits, from number `offset` on. BadRequestError.

        A code alone, whose margins nobody knows, is searched by 'id' in place of 'margin', as the results' terms say.
        """
        if terms.rank == "margin" and not query.path:
            terms = replace(terms, rank="id")
        _check(terms.k, "k", 1, MAX_K)
        _check(offset, "offset", 0, MAX_K)
        index = self.index
        if terms.radius is not None:
            _check(terms.radius, "radius", 0, index.bits)
        with self.metrics.searching():
            return index.in_one_state(partial(self._search, index, query, terms, offset, limit))

    def _search(self, index: HashIndex, query: Query, terms: SearchTerms, offset: int, limit: int) -> Results:
        # One more than asked for, for the query itself, and one to say whether others are as near as the last.
        most = min(terms.k + terms.exclude_self + 1, len(index))
        found = next(find_hits(index, [query], most, terms.radius, terms.rank))
        kept, ties = first_hits(index, query, found, terms.k, terms.exclude_self, terms.rank)
        names = index.labels([id for id, _ in kept])
        labels = Counter(str(plain(label)) for id, _ in kept if (label := names.get(id)) is not None)
        found_in_all = len(kept)
        if terms.label is not None:
            kept = [(id, score) for id, score in kept if plain(names.get(id)) == terms.label]
        hits = tuple(make_hits(index, query.code, kept[offset : offset + limit], offset))
        return Results(query, terms, hits, offset, len(kept), found_in_all, tuple(labels.most_common()), ties)

    # Pictures

    def image(self, id: int) -> IndexedImage:
        """A picture's row. NotFoundError where there is none."""
        try:
            return self.index[id]
        except UsageError:
            raise NotFoundError(f"there is no picture with the id {id}") from None

    def images(self, ids: Sequence[int]) -> list[IndexedImage]:
        """The rows of those that are (still) there."""
        return list(self._images(ids))

    def _images(self, ids: Sequence[int]) -> Iterator[IndexedImage]:
        for id in ids:
            try:
                yield self.index[id]
            except UsageError:
                continue

    def page(self, after: int, count: int) -> list[IndexedImage]:
        """Pictures in id order, those after an id."""
        return self.index.page(max(after, 0), count)

    def sample(self, count: int) -> list[IndexedImage]:
        """Some pictures from all over the index, in id order; others each time."""
        last = self.index.last_id
        ids = {image.id: image for _ in range(2 * count) for image in self.index.page(random.randint(0, last), 1)}
        return [ids[id] for id in sorted(random.sample(sorted(ids), min(count, len(ids))))]

    def jpeg(self, id: int, size: int, view: View) -> Jpeg:
        """A picture of the index. NotFoundError where there is none, ImageError where its file can't be shown."""
        return self.pictures.jpeg(self.index.root, self.image(id), size, view)

    def size(self, relative: bytes) -> tuple[int, int] | None:
        """Width and height of a picture of the index; None where its file can't be shown."""
        try:
            return self.pictures.size(self.index.root, relative)
        except ImageError:
            return None

    def seen(self, relative: bytes) -> Seen | None:
        """The square of a picture that the model sees; None where that is all of it, or the file can't be shown."""
        if self.crops and (size := self.size(relative)) is not None:
            return seen_square(size, self.pictures.preprocessing)
        return None

    def seen_of_upload(self, name: str) -> Seen | None:
        """The same of an upload. NotFoundError."""
        return seen_square(self.uploaded(name).size, self.pictures.preprocessing)

    @property
    def crops(self) -> bool:
        """Whether the model sees a square in the middle of pictures, and not all of them."""
        return self.pictures.preprocessing.resize == "crop"

    def maps_of(self, id: int, relative: bytes) -> str | None:
        """Where the maps of a picture of the index are; None where the model has none, or the file can't be shown."""
        if not self.explains:
            return None
        try:
            self.pictures.tag(self.index.root, relative)
        except ImageError:
            return None
        return f"/image/{id}/attention"

    def attention(self, id: int) -> npt.NDArray[np.float32]:
        """Where each bit looks in a picture of the index: float32 [bits, g, g]. Raises as jpeg and need_attention."""
        self.need_attention()
        worker = self._need_worker()
        image = self.image(id)
        key = (image.relative, self.pictures.tag(self.index.root, image.relative))
        with self._maps_lock:
            if key in self._maps:
                self._maps.move_to_end(key)
                return self._maps[key]
        pixels = resize_crop(self.pictures.open(self.index.root, image), self.pictures.preprocessing)
        maps = self._result(worker.submit(pixels, explain=True)).maps
        assert maps is not None
        with self._maps_lock:
            self._maps[key] = maps
            if len(self._maps) > _MAPS:
                self._maps.popitem(last=False)
        return maps

    def need_attention(self) -> None:
        """Raise UnavailableError where the model doesn't say where bits look."""
        if not self.explains:
            raise UnavailableError(
                "the model of this server has no attention output: export it with qo-export RUN --explain, and "
                "start qo-serve with that model (the index stays as it is)"
            )

    # Bits

    def survey(self) -> BitSurvey | None:
        """What each bit splits the index into, as far as is known: the first look takes seconds for a million."""
        return self._survey.get(self._state)

    def surest(self, side: Surest, start: int, count: int) -> list[tuple[IndexedImage, int]]:
        """Pictures that are sure of one side of a bit, from number `start` on, with their margins."""
        margins = dict(
            zip(side.ids[start : start + count].tolist(), side.margins[start : start + count].tolist(), strict=True)
        )
        return [(image, margins[image.id]) for image in self.images(list(margins))]

    def meaning(self, bit: int) -> BitMeaning | None:
        """What is known of a bit from its card."""
        return self.meanings[bit] if self.meanings else None

    def same_code(self, radius: int) -> CodeGroups | None:
        """Groups within a radius, as far as they were found."""
        _check(radius, "radius", 0, MAX_RADIUS)
        return self._same_code[radius].get(self._state)

    def duplicates(self) -> Duplicates | None:
        """Groups of copies, as far as they were found; None also where the folder of the pictures is not there."""
        return self._duplicates.get(self._state) if self.index.root.is_dir() else None

    def _need_worker(self) -> ModelWorker:
        if self._worker is None:
            raise UnavailableError("this server has no model, and can't hash new pictures: start qo-serve with --model")
        return self._worker

    @staticmethod
    def _result(job: "Future[Hashed]") -> Hashed:
        try:
            return job.result(_MODEL_SECONDS)
        except FutureTimeoutError:
            raise BusyError("the model did not get to this picture in time: try again in a second") from None


def _duplicates(path: Path) -> Iterator[Duplicates]:
    with HashIndex.open(path, readonly=True) as index:
        yield from find_duplicates(index, threads=1, seconds=_DUPLICATES_SECONDS)


def _check(value: int, name: str, low: int, high: int) -> None:
    if not low <= value <= high:
        raise BadRequestError(f"{name} is {value}: it is a whole number from {low} to {high:,}")
