"""How many processors there are for this process."""

import os

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """How many processors this process may use; at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
