"""The searchers that are compared: queryopt's own, and each peer in a module of its own that imports it lazily."""

from queryopt.bench.speed.search.peers.base import Hits, Searcher, Task, UnavailableError
from queryopt.bench.speed.search.peers.registry import PEERS, STRUCTURES, open_searcher, searcher_names

__all__ = ["PEERS", "STRUCTURES", "Hits", "Searcher", "Task", "UnavailableError", "open_searcher", "searcher_names"]
