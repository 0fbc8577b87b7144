"""The index's codes in memory, ready to search, and kept up to date with what any process commits."""

from typing import Final

from queryopt.errors import IndexFileError
from queryopt.runtime.index.blocks import block_ids, join_blocks, read_blocks, read_revisions
from queryopt.runtime.index.connection import DAMAGED
from queryopt.runtime.index.meta import read_counters
from queryopt.runtime.index.store import Store
from queryopt.runtime.search import HammingIndex

__all__ = ["WORTH_BUILDING", "Searcher"]

WORTH_BUILDING: Final = 1000
"""Queries after which the time that scans took is about that of building the structure that makes them needless: until
then searches scan, so that an index is ready as soon as its codes are read, and nobody waits much more than twice as
long as had it been known how many queries would come."""

_ANEW: Final = 4
"""When more than one block in so many has changed, all is read anew."""


class Searcher:
    """Holds the codes of a store; blocks that changed are read again when the next search asks."""

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
            # data_version tells of other connections' commits, total_changes of this one's.
            seen = (connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes)
            if self._index is None or seen != self._seen:
                self._refresh()
                self._seen = seen
            assert self._index is not None
            self._queries += queries
            if self._scans and (self._queries >= WORTH_BUILDING or not queries):
                self._index.restructure("auto")
                self._scans = False
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
