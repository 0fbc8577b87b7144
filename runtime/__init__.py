"""Images to codes to an index to search results. Importing this loads NumPy alone, and nothing here needs torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from queryopt.codes import pack_codes, unpack_codes

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

_WHERE = {
    "HammingIndex": "search",
    "HashBatch": "hasher",
    "HashIndex": "index",
    "Hasher": "hasher",
    "IndexedImage": "index",
    "RadiusResult": "search",
    "SearchResult": "search",
    "find_model": "hasher",
    "open_backend": "backends",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
