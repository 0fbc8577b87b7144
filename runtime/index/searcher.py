"""The index's codes in memory, ready to search, and kept up to date with what any process commits."""

import numpy as np

from queryopt.codes import code_bytes
from queryopt.runtime.index.blocks import BLOCK_IDS, Block, read_blocks, read_revisions
from queryopt.runtime.index.store import Store
from queryopt.runtime.search import HammingIndex

__all__ = ["Searcher"]


class Searcher:
    """Holds the blocks of a store; those that changed are read again when the next search asks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._blocks: dict[int, Block] = {}
        self._seen: tuple[int, int] | None = None
        self._index: HammingIndex | None = None

    def current(self) -> HammingIndex:
        """A searcher over all that is committed now. Raises IndexFileError that names a damaged block."""
        with self._store.read() as connection:
            # data_version tells of other connections' commits, total_changes of this one's.
            seen = (connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes)
            if self._index is None or seen != self._seen:
                self._refresh()
                self._seen = seen
            assert self._index is not None
            return self._index

    def _refresh(self) -> None:
        with self._store.read(snapshot=True) as connection:
            revisions = read_revisions(connection)
            kept = {n: b for n, b in self._blocks.items() if revisions.get(n) == b.revision}
            if self._index is not None and kept.keys() == self._blocks.keys() == revisions.keys():
                return
            # Of a new index, all at once: half the time of one query a block.
            missing = None if not kept else [n for n in revisions if n not in kept]
            fresh = {b.number: b for b in read_blocks(connection, self._store.source, self._store.bits, missing)}
        self._blocks = dict(sorted((kept | fresh).items()))
        self._index = _join(list(self._blocks.values()), self._store.bits)


def _join(blocks: list[Block], bits: int) -> HammingIndex:
    if not blocks:
        return HammingIndex(np.empty((0, code_bytes(bits)), np.uint8), bits)
    live = np.concatenate([block.live for block in blocks])
    codes = np.concatenate([block.codes for block in blocks])
    first = np.array([block.number for block in blocks], np.int64) * BLOCK_IDS
    ids = (first[:, None] + np.arange(BLOCK_IDS)).ravel()
    return HammingIndex(codes[live], bits, ids[live])
