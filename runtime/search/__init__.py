"""Exact search by Hamming distance."""

from queryopt.runtime.search.device import DeviceChoice
from queryopt.runtime.search.explain import Cost, Explanation, SegmentExplanation
from queryopt.runtime.search.hamming import HammingIndex
from queryopt.runtime.search.margins import UnknownMarginsError
from queryopt.runtime.search.ranked import Rank, RankName
from queryopt.runtime.search.results import RadiusResult, SearchResult

__all__ = [
    "Cost",
    "DeviceChoice",
    "Explanation",
    "HammingIndex",
    "RadiusResult",
    "Rank",
    "RankName",
    "SearchResult",
    "SegmentExplanation",
    "UnknownMarginsError",
]
