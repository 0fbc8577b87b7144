"""What a search returns."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["RadiusResult", "SearchResult"]


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The k nearest codes of each query, in (distance, id) order.

    ids: int64 [queries, k]; -1 where the gallery holds fewer than k codes.
    distances: int32 [queries, k], Hamming distances 0..bits; bits + 1 where ids is -1.
    """

    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class RadiusResult:
    """All codes within a Hamming distance of each query, in (distance, id) order.

    offsets: int64 [queries + 1]; the hits of query i are rows offsets[i]:offsets[i + 1] of the other two.
    ids: int64 [hits].
    distances: int32 [hits].
    """

    offsets: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.int32]
