"""Who is measured in the search benchmark: what all do, so that all are measured alike, and opening one by its name."""

import importlib
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from queryopt.bench.machine import available_memory
from queryopt.errors import UsageError
from queryopt.runtime.search.hamming import STRUCTURES
from queryopt.text import install_extra

__all__ = [
    "PEERS",
    "Hits",
    "SearchContender",
    "Task",
    "UnavailableError",
    "contender_names",
    "open_contender",
    "padded",
    "split_hits",
]

_CLASSES: Final = {
    "queryopt": "Ours",
    "faiss": "Faiss",
    "usearch": "Usearch",
    "numpy": "NumPy",
    "duckdb": "DuckDB",
    "torch": "Torch",
}
"""By module of `peers`; queryopt's own is in `ours`."""

PEERS: Final = tuple(_CLASSES)[1:]
"""Other projects' libraries, that which ratios are taken to first."""


class UnavailableError(Exception):
    """A contender can't take part; the message is the reason alone."""


@dataclass(frozen=True)
class Task:
    """What is searched for: the k nearest codes of each query, or all within `radius`; `batch` queries a call."""

    k: int | None = 10
    radius: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        if (self.k is None) == (self.radius is None):
            raise UsageError("a search asks either for the k nearest codes or for all within a radius")
        if self.batch < 1 or (self.k is not None and self.k < 1) or (self.radius is not None and self.radius < 0):
            raise UsageError("k and batch are at least 1, a radius at least 0")

    @property
    def goal(self) -> str:
        """What is searched for, in a few words."""
        return f"k = {self.k:,}" if self.k is not None else f"radius {self.radius}"

    def describe(self) -> str:
        """The task in a few words."""
        return self.goal + (f", {self.batch:,} queries a call" if self.batch > 1 else ", 1 query a call")


@dataclass(frozen=True, eq=False)
class Hits:
    """What was found for one query: ids int64 [h] (row numbers) with their distances int64 [h], in the order given."""

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int64]

    @classmethod
    def of(cls, ids: npt.ArrayLike, distances: npt.ArrayLike) -> "Hits":
        """Hits of a contender's own arrays; rows that stand for "no result" (id -1) are left out."""
        rows, near = np.asarray(ids).astype(np.int64), np.asarray(distances).astype(np.int64)
        return cls(rows[rows >= 0], near[rows >= 0])


class SearchContender(ABC):
    """A gallery that is ready to be searched. Building it is the constructor's work.

    Only `nearest` and `within` are timed: queries are brought into the contender's own form before, and its results
    into Hits afterwards.

    name: of the library. package: the module to import, whose version is shown.
    one_thread: how it is held to one thread.
    ordered: whether it promises results in (distance, id) order.
    codes: uint8 [n, ceil(bits / 8)], which must not change meanwhile.
    label: its name in tables.
    nbytes: what it holds of the gallery, where it says so.
    facts: what else there is to say about it (JSON-serialisable).
    """

    name: ClassVar[str]
    package: ClassVar[str]
    one_thread: ClassVar[str]
    ordered: ClassVar[bool] = False

    def __init__(self, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> None:
        self.codes, self.bits, self.task = codes, bits, task
        self.label = self.name
        self.nbytes: int | None = None
        self.facts: dict[str, Any] = {}
        self.build_seconds = 0.0

    @classmethod
    def memory(cls, count: int, bits: int) -> int:
        """Bytes, about, that building and searching need beside the codes; here a copy of them, padded, twice."""
        return count * 16

    def prepare(self, queries: npt.NDArray[np.uint8]) -> Any:
        """The queries of one call (uint8 [b, ceil(bits / 8)]) in the contender's own form. Not timed."""
        return queries

    @abstractmethod
    def nearest(self, queries: Any, k: int) -> Any:
        """The k nearest codes of each query, in the contender's own form. Timed."""

    def within(self, queries: Any, radius: int) -> Any:
        """All codes within the radius of each query, in the contender's own form. Timed.

        A library that can't search so leaves this out.
        """
        raise UnavailableError("it has no search within a radius")

    def hits(self, result: Any) -> list[Hits]:
        """What `nearest` or `within` returned, query by query; here (rows, distances) of each. Not timed."""
        return split_hits(result)

    def ask(self, queries: Any) -> Any:
        """Do the task once."""
        if self.task.k is not None:
            return self.nearest(queries, self.task.k)
        assert self.task.radius is not None
        return self.within(queries, self.task.radius)

    def close(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Give back what this holds or changed outside of itself."""


def split_hits(pairs: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]) -> list[Hits]:
    """Hits of (rows, distances) of each query."""
    return [Hits.of(rows, distances) for rows, distances in pairs]


def padded(codes: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Codes with zero bytes up to `width`, uint8 [n, width]."""
    wide = np.zeros((len(codes), width), np.uint8)
    wide[:, : codes.shape[1]] = codes
    return wide


def contender_names(structures: Sequence[str], peers: Sequence[str]) -> list[str]:
    """Names for `open_contender`: queryopt's structures as 'queryopt:auto', then the peers. UsageError for others."""
    for kind, names, known in (("structure", structures, STRUCTURES), ("peer", peers, PEERS)):
        for name in names:
            if name not in known:
                raise UsageError(f"there is no {kind} {name!r}: there are {', '.join(known)}")
    return [f"queryopt:{structure}" for structure in structures] + list(peers)


def open_contender(name: str, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> SearchContender:
    """Build the contender of a name over codes, and note how long that took; imports don't count.

    UnavailableError says why it can't be had or can't do the task.
    """
    library, _, structure = name.partition(":")
    module = importlib.import_module(f"queryopt.bench.speed.search.peers.{'ours' if structure else library}")
    cls: type[SearchContender] = getattr(module, _CLASSES[library])
    try:
        with warnings.catch_warnings():
            # Of SWIG's types in FAISS, from Python 3.12 on; nobody here can mend it.
            warnings.filterwarnings("ignore", "builtin type [Ss]wig", DeprecationWarning)
            importlib.import_module(cls.package)
    except ImportError:
        raise UnavailableError(f"not installed: {install_extra('bench')}") from None
    if task.radius is not None and cls.within is SearchContender.within:
        raise UnavailableError("it has no search within a radius")
    needed, free = cls.memory(len(codes), bits), available_memory()
    if free is not None and needed > free:
        raise UnavailableError(f"{len(codes):,} codes need about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    options = {"structure": structure} if structure else {}
    started = time.perf_counter()
    contender = cls(codes, bits, task, **options)
    contender.build_seconds = time.perf_counter() - started
    return contender
