"""What every searcher of the benchmark does, so that all are measured alike."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError

__all__ = ["Hits", "Searcher", "Task", "UnavailableError"]


class UnavailableError(Exception):
    """A searcher can't take part; the message is the reason alone."""


@dataclass(frozen=True)
class Task:
    """What is asked: the k nearest codes of each query, or all within `radius`; `batch` queries a call."""

    k: int | None = 10
    radius: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        """UsageError where this is nothing to ask."""
        if (self.k is None) == (self.radius is None):
            raise UsageError("a search asks either for the k nearest codes or for all within a radius")
        if self.batch < 1 or (self.k is not None and self.k < 1) or (self.radius is not None and self.radius < 0):
            raise UsageError("k and batch are at least 1, a radius at least 0")

    def describe(self) -> str:
        """The task in a few words."""
        asked = f"k = {self.k:,}" if self.k is not None else f"radius {self.radius}"
        return asked + (f", {self.batch:,} queries a call" if self.batch > 1 else ", 1 query a call")


@dataclass(frozen=True, eq=False)
class Hits:
    """What was found for one query: ids int64 [h] (row numbers) with their distances int64 [h], in the order given."""

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int64]

    @classmethod
    def of(cls, ids: npt.ArrayLike, distances: npt.ArrayLike) -> "Hits":
        """Hits of a searcher's own arrays; rows that stand for "no result" (id -1) are left out."""
        rows, near = np.asarray(ids).astype(np.int64), np.asarray(distances).astype(np.int64)
        return cls(rows[rows >= 0], near[rows >= 0])


class Searcher(ABC):
    """A gallery that is ready to be searched by one thread. Building it is the constructor's work.

    codes: uint8 [n, ceil(bits / 8)]; it must not change while the searcher lives. Only `nearest` and `within` are
    timed: queries are brought into the searcher's own form before, and its results into Hits afterwards.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    """The module to import; its __version__ is shown."""
    one_thread: ClassVar[str]
    """How the searcher is held to one thread."""
    ordered: ClassVar[bool] = False
    """Whether it promises results in (distance, id) order."""

    @classmethod
    def memory(cls, count: int, bits: int) -> int:
        """Bytes, about, that building and searching need beside the codes; here a copy of them, padded, twice."""
        return count * 16

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        self.codes, self.bits, self.task = codes, bits, task
        self.build_seconds = 0.0

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.name

    @property
    def facts(self) -> dict[str, Any]:
        """What else there is to say about it (JSON-serialisable)."""
        return {}

    @property
    def nbytes(self) -> int | None:
        """Bytes that it holds of the gallery, where it says so."""
        return None

    @abstractmethod
    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """The queries of one call (uint8 [b, ceil(bits / 8)]) in the searcher's own form. Not timed."""

    @abstractmethod
    def nearest(self, queries: Any, k: int) -> Any:
        """The k nearest codes of each query, in the searcher's own form. Timed."""

    def within(self, queries: Any, radius: int) -> Any:
        """All codes within the radius of each query, in the searcher's own form. Timed.

        A peer that can't search so leaves this out.
        """
        raise UnavailableError("it has no search within a radius")

    @abstractmethod
    def hits(self, found: Any) -> list[Hits]:
        """What `nearest` or `within` found, query by query. Not timed."""

    def ask(self, queries: Any) -> Any:
        """Do the task once."""
        if self.task.k is not None:
            return self.nearest(queries, self.task.k)
        assert self.task.radius is not None
        return self.within(queries, self.task.radius)

    def close(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Give back what the searcher holds or changed outside of itself."""


def padded(codes: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Codes with zero bytes up to `width`, uint8 [n, width]."""
    wide = np.zeros((len(codes), width), np.uint8)
    wide[:, : codes.shape[1]] = codes
    return wide
