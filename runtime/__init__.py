"""Images to codes to an index to search results. Importing this loads NumPy alone, and nothing here needs torch."""

from typing import TYPE_CHECKING

from queryopt.codes import pack_codes, unpack_codes
from queryopt.lazy import lazy_names

if TYPE_CHECKING:
    from queryopt.runtime.backends import open_backend
    from queryopt.runtime.hasher import HashBatch, Hasher, find_model
    from queryopt.runtime.index import HashIndex, IndexedImage
    from queryopt.runtime.search import HammingIndex, RadiusResult, SearchResult

__all__ = [
    "HammingIndex",
    "HashBatch",
    "HashIndex",
    "Hasher",
    "IndexedImage",
    "RadiusResult",
    "SearchResult",
    "find_model",
    "open_backend",
    "pack_codes",
    "unpack_codes",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "HammingIndex": "search",
        "HashBatch": "hasher",
        "HashIndex": "index",
        "Hasher": "hasher",
        "IndexedImage": "index",
        "RadiusResult": "search",
        "SearchResult": "search",
        "find_model": "hasher",
        "open_backend": "backends",
    },
)
