"""The index's codes in memory, ready to search, and kept up to date with what any process commits."""

import sqlite3
from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np

from queryopt.errors import IndexFileError
from queryopt.runtime.index.blocks import block_ids, join_blocks, read_blocks, read_revisions
from queryopt.runtime.index.connection import DAMAGED
from queryopt.runtime.index.meta import read_counters
from queryopt.runtime.index.rows import read_margins_of
from queryopt.runtime.index.store import Store
from queryopt.runtime.search import HammingIndex, RadiusResult, SearchResult, UnknownMarginsError

__all__ = ["WORTH_BUILDING", "Searcher"]

WORTH_BUILDING: Final = 1000
"""Queries after which the time that scans took is about that of building the structure that makes them needless: until
then searches scan, so that an index is ready as soon as its codes are read, and nobody waits much more than twice as
long as had it been known how many queries would come."""

_ANEW: Final = 4
"""When more than one block in so many has changed, all is read anew."""

Answer = TypeVar("Answer", SearchResult, RadiusResult)


class Searcher:
    """Holds the codes of a store, and the margins of those that searches by margins came to.

    Blocks of codes that changed are read again when the next search asks; margins are read from the rows when a search
    first needs them, as most searches need those of a few pictures.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._revisions: dict[int, int] = {}
        self._seen: tuple[int, int] | None = None
        self._index: HammingIndex | None = None
        self._queries = 0
        self._scans = True

    def current(self, queries: int) -> HammingIndex:
        """A searcher over all that is committed now, for so many queries (for none: it is to be ready for many).

        Raises IndexFileError that names a damaged block, and where the blocks do not hold as many codes as the index
        has images: a search would miss some without a word.
        """
        with self._store.read() as connection:
            index = self._up_to_date(connection)
            self._queries += queries
            if self._scans and (self._queries >= WORTH_BUILDING or not queries):
                index.restructure("auto")
                self._scans = False
            return index

    def search_by_margins(self, queries: int, search: Callable[[HammingIndex], Answer]) -> Answer:
        """What a search for so many queries finds, one that raises UnknownMarginsError where margins must be read."""
        try:
            return search(self.current(queries))
        except UnknownMarginsError as error:
            missing = error.ids
        # Others may have changed the index since. In here codes and margins are of one state, and stay so.
        with self._store.read(snapshot=True) as connection:
            index = self._up_to_date(connection)
            while True:
                index.set_margins(*read_margins_of(connection, missing, self._store.bits, self._store.source))
                try:
                    return search(index)
                except UnknownMarginsError as error:
                    if not np.setdiff1d(error.ids, missing).size:
                        raise IndexFileError(
                            f"{self._store.path}: the row of image {error.ids[0]} is missing: {DAMAGED}"
                        ) from None
                    missing = error.ids

    def _up_to_date(self, connection: sqlite3.Connection) -> HammingIndex:
        # data_version tells of other connections' commits, total_changes of this one's.
        seen = (connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes)
        if self._index is None or seen != self._seen:
            self._refresh()
            self._seen = seen
        assert self._index is not None
        return self._index

    def _refresh(self) -> None:
        with self._store.read(snapshot=True) as connection:
            images = read_counters(connection, self._store.path).images
            revisions = read_revisions(connection)
            changed = [n for n, revision in revisions.items() if self._revisions.get(n) != revision]
            gone = [n for n in self._revisions if n not in revisions]
            some = self._index is not None and _ANEW * (len(changed) + len(gone)) <= len(revisions)
            # Of a new index, all at once: half the time of one query a block.
            numbers = changed if some else None
            blocks = list(read_blocks(connection, self._store.source, self._store.bits, numbers))
        if self._index is not None and some:
            if changed or gone:
                ids, codes = join_blocks(blocks, self._store.bits)
                self._index.replace(block_ids(changed + gone), codes, ids)
        else:
            ids, codes = join_blocks(blocks, self._store.bits)
            self._index = HammingIndex(codes, self._store.bits, ids, structure="scan" if self._scans else "auto")
        if len(self._index) != images:
            held, self._index, self._revisions = len(self._index), None, {}
            raise IndexFileError(
                f"{self._store.path}: the index is damaged: it has {images:,} pictures, and {held:,} codes: {DAMAGED}"
            )
        self._revisions = revisions
