"""Pictures that were uploaded, kept for the pages that go on from them."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Queries", "UploadedQuery"]


@dataclass(frozen=True, eq=False)
class UploadedQuery:
    """An uploaded picture: its name, code, margins int8 [bits], logits float32 [bits], maps float32 [bits, g, g] where
    the model has attention, and itself as a small JPEG.
    """

    name: str
    code: npt.NDArray[np.uint8]
    margins: npt.NDArray[np.int8]
    logits: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32] | None
    jpeg: bytes


class Queries:
    """Keeps the last `keep` of them, each under a name that can't be guessed."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._kept: OrderedDict[str, UploadedQuery] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, query: UploadedQuery) -> str:
        """Keep a query; returns its name."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[name] = query
            if len(self._kept) > self._keep:
                self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> UploadedQuery | None:
        """A query by its name; None where it is not kept (any more)."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)
