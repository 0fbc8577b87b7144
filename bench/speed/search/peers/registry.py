"""Which searchers there are, and opening one by its name."""

import importlib
import time
import warnings
from typing import Final

import numpy as np
import numpy.typing as npt

from queryopt.bench.machine import available_memory
from queryopt.bench.speed.search.peers.base import Searcher, Task, UnavailableError
from queryopt.errors import UsageError
from queryopt.runtime.search.hamming import STRUCTURES
from queryopt.text import install_extra

__all__ = ["PEERS", "STRUCTURES", "open_searcher", "searcher_names"]

_PEERS: Final = {
    "faiss": "Faiss",
    "usearch": "Usearch",
    "numpy": "NumPy",
    "duckdb": "DuckDB",
    "torch": "Torch",
}

PEERS: Final = tuple(_PEERS)
"""The peers, that which ratios are taken to first."""

OURS = "queryopt"


def searcher_names(structures: list[str], peers: list[str]) -> list[str]:
    """Names for `open_searcher`: queryopt's structures as 'queryopt:auto', then the peers. UsageError for others."""
    for kind, given, known in (("structure", structures, STRUCTURES), ("peer", peers, PEERS)):
        for name in given:
            if name not in known:
                raise UsageError(f"there is no {kind} {name!r}: there are {', '.join(known)}")
    return [f"{OURS}:{structure}" for structure in structures] + peers


def open_searcher(name: str, codes: npt.NDArray[np.uint8], bits: int, task: Task) -> Searcher:
    """Build the searcher of a name over codes, and note how long that took; imports don't count.

    UnavailableError says why it can't be had or can't do the task.
    """
    kind, _, structure = name.partition(":")
    module = "ours" if kind == OURS else kind
    cls: type[Searcher] = getattr(
        importlib.import_module(f"queryopt.bench.speed.search.peers.{module}"), "Ours" if kind == OURS else _PEERS[kind]
    )
    try:
        with warnings.catch_warnings():
            # Of SWIG's types in FAISS, from Python 3.12 on; nobody here can mend it.
            warnings.filterwarnings("ignore", "builtin type [Ss]wig", DeprecationWarning)
            importlib.import_module(cls.package)
    except ImportError:
        raise UnavailableError(f"not installed: {install_extra('bench')}") from None
    if task.radius is not None and cls.within is Searcher.within:
        raise UnavailableError("it has no search within a radius")
    needed, free = cls.memory(len(codes), bits), available_memory()
    if free is not None and needed > free:
        raise UnavailableError(f"{len(codes):,} codes need about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
    options = {"structure": structure} if kind == OURS else {}
    started = time.perf_counter()
    searcher = cls(codes, bits, task, **options)
    searcher.build_seconds = time.perf_counter() - started
    return searcher
