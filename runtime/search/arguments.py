"""Checks of what a caller of an index gives."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from queryopt.errors import UsageError

__all__ = ["MAX_ID", "MAX_RESULTS", "ascending", "check_count", "check_ids", "check_results", "check_wanted"]

MAX_RESULTS: Final = 1 << 28
"""Queries x k of one search: 3 GiB of ids and distances."""

MAX_ID: Final = int(np.iinfo(np.int64).max)


def check_count(value: Any, name: str) -> int:
    """Return `value` if it is an integer >= 0; else UsageError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise UsageError(f"{name} is {value!r}: it is an integer >= 0")
    return int(value)


def check_results(k: Any, queries: int) -> int:
    """Return `k` if it is a count, and so many results of so many queries can be given; else UsageError."""
    count = check_count(k, "k")
    if count * queries > MAX_RESULTS:
        raise UsageError(f"{queries} queries x k = {count} are more than {MAX_RESULTS} results: ask for fewer at once")
    return count


def check_ids(ids: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """Ids of so many codes, int64 [count]. UsageError for another number or dtype, and for those below 0."""
    array = np.asarray(ids)
    if (not np.issubdtype(array.dtype, np.integer) and array.size) or array.shape != (count,):
        raise UsageError(f"ids are {array.dtype} {list(array.shape)}: {count} codes need {count} integers")
    if count and array.min() < 0:
        raise UsageError(f"an id is {array.min()}: ids are >= 0 (-1 stands for 'no result')")
    if count and int(array.max()) > MAX_ID:
        raise UsageError(f"an id is {array.max()}: the largest is {MAX_ID}")
    return array.astype(np.int64)


def ascending(ids: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp] | None]:
    """Ids in ascending order, and the order that brings codes into theirs: None where they are in it already.

    UsageError where one is there twice.
    """
    if not np.any(ids[1:] <= ids[:-1]):
        return ids, None
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if twice.size:
        raise UsageError(f"id {ids[twice[0]]} is there twice: ids are unique")
    return ids, order


def check_wanted(ids: npt.ArrayLike, name: str) -> npt.NDArray[np.int64]:
    """Ids to look for: ascending, without repetition, and without those that can't be there."""
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int64)
    if not np.issubdtype(array.dtype, np.integer) or array.ndim > 1:
        raise UsageError(f"{name} is {array.dtype} {list(array.shape)}: it is integers [m], or one of them")
    array = np.atleast_1d(array)
    array = array[(array >= 0) & (array <= MAX_ID)].astype(np.int64)
    if np.any(array[1:] <= array[:-1]):
        array = np.sort(array)
        array = array[np.concatenate([[True], array[1:] > array[:-1]])]
    return array
