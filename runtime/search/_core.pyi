"""The native search core; see native/module.cpp. Arguments are checked by its callers."""

from typing import Any, overload

import numpy as np
import numpy.typing as npt

def paths() -> list[str]: ...
def set_margins(table: npt.NDArray[np.int8], rows: npt.NDArray[np.int64], margins: npt.NDArray[np.int8]) -> None: ...

class Index:
    @overload
    def __init__(
        self,
        codes: npt.NDArray[np.uint8],
        bits: int,
        ids: npt.NDArray[np.int64] | None,
        structure: str,
        path: str,
        threads: int,
    ) -> None: ...
    @overload
    def __init__(
        self,
        structure: str,
        bits: int,
        n: int,
        unique: int,
        sections: dict[str, npt.NDArray[np.uint8]],
        ids: npt.NDArray[np.int64] | None,
        path: str,
    ) -> None: ...
    def sections(self) -> dict[str, npt.NDArray[np.uint8]]: ...
    def codes(self, rows: npt.NDArray[np.uint32] | None, codes: npt.NDArray[np.uint8]) -> None: ...
    def search(
        self,
        codes: Any,
        k: int,
        ids: npt.NDArray[np.int64],
        distances: npt.NDArray[np.int32],
        threads: int = 1,
        allowed: npt.NDArray[np.uint64] | None = None,
    ) -> bool: ...
    def search_by_margins(
        self,
        codes: Any,
        margins: Any,
        k: int,
        table: npt.NDArray[np.int8],
        ids: npt.NDArray[np.int64],
        distances: npt.NDArray[np.int32],
        scores: npt.NDArray[np.int32],
        threads: int = 1,
        allowed: npt.NDArray[np.uint64] | None = None,
    ) -> bool | npt.NDArray[np.int64]: ...
    def search_radius_by_margins(
        self,
        codes: Any,
        margins: Any,
        radius: int,
        table: npt.NDArray[np.int8],
        threads: int = 1,
        allowed: npt.NDArray[np.uint64] | None = None,
    ) -> (
        tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int32]]
        | npt.NDArray[np.int64]
        | bool
    ): ...
    def search_radius(
        self, codes: Any, radius: int, threads: int = 1, allowed: npt.NDArray[np.uint64] | None = None
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]] | None: ...
    def search_ranked(
        self,
        codes: Any,
        weights: npt.NDArray[np.uint16],
        k: int,
        rank: str,
        ids: npt.NDArray[np.int64],
        distances: npt.NDArray[np.int32],
        scores: npt.NDArray[np.int32],
        threads: int = 1,
        allowed: npt.NDArray[np.uint64] | None = None,
    ) -> bool: ...
    def explain_ranked(
        self,
        codes: Any,
        weights: npt.NDArray[np.uint16],
        k: int,
        rank: str,
        allowed: npt.NDArray[np.uint64] | None = None,
    ) -> list[tuple[int, int, int, bool]] | None: ...
    def explain(
        self, codes: Any, k: int | None, radius: int, allowed: npt.NDArray[np.uint64] | None = None
    ) -> list[tuple[int, int, int, bool]] | None: ...
    @property
    def structure(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def unique(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def costs(self) -> tuple[float, float, float]: ...
    @property
    def ranked_costs(self) -> tuple[float, float, float]: ...
    share: float
