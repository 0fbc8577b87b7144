"""Which search core there is: the native one, on one of its instruction paths, or NumPy alone."""

import logging
import os
from functools import cache
from typing import TYPE_CHECKING

from queryopt.errors import UsageError

if TYPE_CHECKING:
    from queryopt.runtime.search import _core

__all__ = ["NUMPY", "PATH_VARIABLE", "core_path", "load_core", "paths"]

PATH_VARIABLE = "QUERYOPT_SEARCH_PATH"
"""Environment variable that forces a path: 'avx512', 'avx2', 'plain' or 'numpy'."""

NUMPY = "numpy"


@cache
def load_core() -> "type[_core.Index] | None":
    """The native index class, or None (said once, as a warning of the logger 'queryopt') where it was not built."""
    try:
        from queryopt.runtime.search._core import Index
    except ImportError as error:
        logging.getLogger("queryopt").warning(
            "the native search core is not there (%s): searching with NumPy, exact but 10 to 1000 times slower; "
            "to mend it, install queryopt where there is a C++17 compiler",
            error,
        )
        return None
    return Index


def paths() -> tuple[str, ...]:
    """The paths that can run here, fastest first; the last is 'numpy'."""
    if load_core() is None:
        return (NUMPY,)
    from queryopt.runtime.search import _core

    return (*_core.paths(), NUMPY)


def core_path() -> str:
    """The path that searches take: $QUERYOPT_SEARCH_PATH, or the fastest. UsageError where that can't run here."""
    wanted = os.environ.get(PATH_VARIABLE, "")
    if wanted and wanted not in paths():
        raise UsageError(f"{PATH_VARIABLE} is {wanted!r}: this processor and build have {', '.join(paths())}")
    return wanted or paths()[0]
