"""Exact search by Hamming distance on a GPU. Importing this loads no CUDA package; making an index does."""

from typing import TYPE_CHECKING

from queryopt.lazy import lazy_names

if TYPE_CHECKING:
    from queryopt.runtime.search.gpu.index import CudaHammingIndex
    from queryopt.runtime.search.gpu.plan import Tuning

__all__ = ["CudaHammingIndex", "Tuning"]

__getattr__, __dir__ = lazy_names(__name__, {"CudaHammingIndex": "index", "Tuning": "plan"})
