"""Codes packed in blocks of fixed id ranges, so that an index of millions is ready to search in a moment.

Block b holds the ids b * BLOCK_IDS up to (b + 1) * BLOCK_IDS, one slot an id: a live mask (one bit a slot,
little-endian) and the codes (ceil(bits / 8) bytes a slot, zero where not live). It changes in the transaction that
changes the rows of its ids, and then takes the number of that transaction as its revision, so that a reader fetches
only what is new. A block without a live slot is not stored.

4,096 ids: 24 KiB at 48 bits, of which a commit writes the pages that differ; 1e7 codes are 2,442 blocks.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from queryopt.codes import code_bytes
from queryopt.errors import IndexFileError
from queryopt.runtime.index.connection import REBUILD

__all__ = [
    "BLOCKS",
    "BLOCK_IDS",
    "Block",
    "block_ids",
    "describe",
    "join_blocks",
    "read_blocks",
    "read_revisions",
    "write_block",
]

BLOCK_IDS = 4096
BLOCKS = (1 << 63) // BLOCK_IDS - 1
"""Numbers are below this: SQLite's integers have 63 bits and a sign."""


@dataclass
class Block:
    """live: bool [BLOCK_IDS]; codes: uint8 [BLOCK_IDS, ceil(bits / 8)], read-only when read from a file."""

    number: int
    revision: int
    live: npt.NDArray[np.bool_]
    codes: npt.NDArray[np.uint8]

    @classmethod
    def empty(cls, number: int, bits: int) -> "Block":
        """A block of which no slot is live."""
        return cls(number, 0, np.zeros(BLOCK_IDS, np.bool_), np.zeros((BLOCK_IDS, code_bytes(bits)), np.uint8))

    def ids(self) -> npt.NDArray[np.int64]:
        """The ids of the live slots, ascending."""
        return np.flatnonzero(self.live) + self.number * BLOCK_IDS

    def writable(self) -> "Block":
        """A copy whose arrays may be changed."""
        return Block(self.number, self.revision, self.live.copy(), self.codes.copy())


def describe(number: int) -> str:
    """A block's name in messages."""
    return f"block {number} (ids {number * BLOCK_IDS}..{(number + 1) * BLOCK_IDS - 1})"


def read_revisions(connection: sqlite3.Connection) -> dict[int, int]:
    """{number: revision} of all blocks."""
    return dict(connection.execute("SELECT number, revision FROM blocks ORDER BY number"))


def read_blocks(
    connection: sqlite3.Connection, source: str, bits: int, numbers: Iterable[int] | None = None
) -> Iterator[Block]:
    """Read blocks: all, in order, if `numbers` is None; of those asked for, the ones there are.

    Raises IndexFileError that names a damaged one.
    """
    query = "SELECT number, revision, crc, live, codes FROM blocks"
    if numbers is None:
        for row in connection.execute(f"{query} ORDER BY number"):
            yield _decode(row, source, bits)
        return
    for number in numbers:
        row = connection.execute(f"{query} WHERE number = ?", (number,)).fetchone()
        if row is not None:
            yield _decode(row, source, bits)


def write_block(connection: sqlite3.Connection, block: Block, revision: int) -> None:
    """Store a block as changed by transaction number `revision`; inside that transaction."""
    if not block.live.any():
        connection.execute("DELETE FROM blocks WHERE number = ?", (block.number,))
        return
    live = np.packbits(block.live, bitorder="little").tobytes()
    codes = block.codes.tobytes()
    # An UPDATE of equal length writes only the pages that differ; REPLACE would write all, and elsewhere.
    connection.execute(
        "INSERT INTO blocks (number, revision, crc, live, codes) VALUES (?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE "
        "SET revision = excluded.revision, crc = excluded.crc, live = excluded.live, codes = excluded.codes",
        (block.number, revision, _crc(block.number, revision, live, codes), live, codes),
    )


def block_ids(numbers: Iterable[int]) -> npt.NDArray[np.int64]:
    """All ids of these blocks, ascending."""
    first = np.array(sorted(numbers), np.int64) * BLOCK_IDS
    ids: npt.NDArray[np.int64] = (first[:, None] + np.arange(BLOCK_IDS)).ravel()
    return ids


def join_blocks(blocks: Sequence[Block], bits: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """The ids that are there, ascending, and their codes; of blocks in the order of their numbers."""
    if not blocks:
        return np.empty(0, np.int64), np.empty((0, code_bytes(bits)), np.uint8)
    live = np.concatenate([block.live for block in blocks])
    codes = np.concatenate([block.codes for block in blocks])
    return block_ids(block.number for block in blocks)[live], codes[live]


def _decode(row: tuple[Any, ...], source: str, bits: int) -> Block:
    number, revision, crc, live, codes = row
    width = code_bytes(bits)
    whole = (
        isinstance(live, bytes)
        and isinstance(codes, bytes)
        and isinstance(revision, int)
        and len(live) == BLOCK_IDS // 8
        and len(codes) == BLOCK_IDS * width
        and crc == _crc(number, revision, live, codes)
        and 0 <= number < BLOCKS
        and not (bits % 8 and any(code >> bits % 8 for code in set(codes[width - 1 :: width])))
    )
    if not whole:
        raise IndexFileError(
            f"{source}: {describe(number)} is damaged (its CRC32, its size or its padding is wrong): qo-index verify "
            f"--repair builds it anew from the rows, if these are whole; if not, {REBUILD}"
        )
    mask = np.unpackbits(np.frombuffer(live, np.uint8), bitorder="little").view(np.bool_)
    return Block(number, revision, mask, np.frombuffer(codes, np.uint8).reshape(BLOCK_IDS, width))


def _crc(number: int, revision: int, live: bytes, codes: bytes) -> int:
    # Signed, so that it takes 4 bytes in the row whatever its value.
    return zlib.crc32(codes, zlib.crc32(live, zlib.crc32(b"%d %d" % (number, revision)))) - (1 << 31)
