"""Exact search by Hamming distance."""

from queryopt.runtime.search.hamming import HammingIndex
from queryopt.runtime.search.results import RadiusResult, SearchResult

__all__ = ["HammingIndex", "RadiusResult", "SearchResult"]
