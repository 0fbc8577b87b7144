"""DuckDB: a table of codes, and SQL."""

import importlib
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.bench.speed.search.contender import Hits, SearchContender, Task, split_hits
from queryopt.bench.speed.search.data import to_words

__all__ = ["DuckDB"]

_CHUNK = 1 << 20
_SEARCH = "SELECT id, bit_count(xor(code, ?::UBIGINT)) AS distance FROM gallery"


class DuckDB(SearchContender):
    """SELECT … bit_count(xor(code, ?)) … ORDER BY distance, id LIMIT k, a statement a query."""

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
        return to_words(queries).tolist()

    def nearest(self, queries: Any, k: int) -> Any:
        return self._select(f"ORDER BY distance, id LIMIT {k}", queries)

    def within(self, queries: Any, radius: int) -> Any:
        return self._select(f"WHERE distance <= {radius} ORDER BY distance, id", queries)

    def hits(self, result: Any) -> list[Hits]:
        return split_hits((columns["id"], columns["distance"]) for columns in result)

    def close(self) -> None:
        self._connection.close()

    def _select(self, rest: str, queries: list[int]) -> list[Any]:
        return [self._connection.execute(f"{_SEARCH} {rest}", [query]).fetchnumpy() for query in queries]
