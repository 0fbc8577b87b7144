"""DuckDB: a table of codes, and SQL."""

import importlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.data import to_words
from queryopt.bench.speed.search.peers.base import Hits, Searcher, Task

__all__ = ["DuckDB"]

_CHUNK = 1 << 20
_NEAREST = "SELECT id, bit_count(xor(code, ?::UBIGINT)) AS distance FROM gallery ORDER BY distance, id LIMIT {k}"
_WITHIN = (
    "SELECT id, bit_count(xor(code, ?::UBIGINT)) AS distance FROM gallery WHERE distance <= {radius} "
    "ORDER BY distance, id"
)


class DuckDB(Searcher):
    """SELECT … bit_count(xor(code, ?)) … ORDER BY distance, id LIMIT k, a query at a time."""

    name: ClassVar[str] = "duckdb"
    package: ClassVar[str] = "duckdb"
    one_thread: ClassVar[str] = "SET threads = 1"
    ordered: ClassVar[bool] = True

    @classmethod
    def memory(cls, count: int, bits: int) -> int:
        """Two columns of 8 bytes, and as much again while they are filled."""
        return count * 32

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        super().__init__(codes, bits, task)
        duckdb: Any = importlib.import_module(self.package)
        self._connection = duckdb.connect(":memory:", config={"threads": 1})
        self._connection.execute("CREATE TABLE gallery (id BIGINT, code UBIGINT)")
        for start in range(0, len(codes), _CHUNK):
            words = to_words(codes[start : start + _CHUNK])
            self._connection.register("chunk", {"id": np.arange(start, start + len(words)), "code": words})
            self._connection.execute("INSERT INTO gallery SELECT id, code FROM chunk")
        self._connection.unregister("chunk")

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """Codes as integers."""
        return to_words(queries).tolist()

    def nearest(self, queries: Any, k: int) -> Any:
        """A statement a query."""
        return [self._ask(_NEAREST.format(k=k), query) for query in queries]

    def within(self, queries: Any, radius: int) -> Any:
        """A statement a query."""
        return [self._ask(_WITHIN.format(radius=radius), query) for query in queries]

    def hits(self, found: Any) -> list[Hits]:
        """Query by query."""
        return [Hits.of(columns["id"], columns["distance"]) for columns in found]

    def close(self) -> None:
        """Close the connection, and with it the table."""
        self._connection.close()

    def _ask(self, statement: str, query: int) -> Any:
        return self._connection.execute(statement, [query]).fetchnumpy()
