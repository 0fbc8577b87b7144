"""Checks of what a caller gives."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError

__all__ = ["MAX_RESULTS", "check_count", "check_ids"]

MAX_RESULTS: Final = 1 << 28
"""Queries x k of one search, as on the CPU: 3 GiB of ids and distances."""


def check_count(value: Any, name: str) -> int:
    """Return `value` if it is an integer >= 0; else UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise UsageError(f"{name} is {value!r}: it is an integer >= 0")
    return int(value)


def check_ids(ids: npt.ArrayLike, count: int) -> tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.intp] | None]:
    """Ids in ascending order, int64 [count], and the order that brings codes into theirs, [count].

    None for ids that are the row numbers, None for an order that changes nothing. UsageError for ids of another number
    or dtype, below 0 or not unique.
    """
    array = np.asarray(ids)
    if (not np.issubdtype(array.dtype, np.integer) and array.size) or array.shape != (count,):
        raise UsageError(f"ids are {array.dtype} {list(array.shape)}: {count} codes need {count} integers")
    if count and array.min() < 0:
        raise UsageError(f"an id is {array.min()}: ids are >= 0 (-1 stands for 'no result')")
    if count and int(array.max()) > np.iinfo(np.int64).max:
        raise UsageError(f"an id is {array.max()}: the largest is {np.iinfo(np.int64).max}")
    array = array.astype(np.int64)
    order: npt.NDArray[np.intp] | None = None
    if np.any(array[1:] <= array[:-1]):
        order = np.argsort(array, kind="stable")
        array = array[order]
        twice = np.flatnonzero(array[1:] == array[:-1])
        if twice.size:
            raise UsageError(f"id {array[twice[0]]} is there twice: ids are unique")
    if not count or array[-1] == count - 1:
        return None, order
    return array, order
