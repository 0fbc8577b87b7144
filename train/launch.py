"""What a process knows of its launch by torchrun, and how N processes speak as one. Imports nothing heavy."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

__all__ = ["Launch", "launched", "muted", "say_once", "share_board"]

_ALONE_SECONDS = 10.0
"""How long a process that met an error before it met the others leaves it to the first one of its machine to say so."""
_SAID_SECONDS = 30.0
_CLAIMED, _SAID = "queryopt/failed", "queryopt/said"

_board: Any = None


@dataclass(frozen=True)
class Launch:
    """One of `count` processes, number `rank`; on its own machine, one of `local_count`, number `local_rank`."""

    rank: int
    count: int
    local_rank: int
    local_count: int


def launched() -> Launch | None:
    """How torchrun (or what sets the same variables) started this process; None where it is one process alone."""
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return None
    try:
        rank, count, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        local_count = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    except (KeyError, ValueError):
        return None
    return Launch(rank, count, local_rank, local_count) if count > 1 else None


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Nothing that Python writes to stdout and stderr is seen."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def share_board(store: Any) -> None:
    """`store`: torch's key-value store that all processes see, once they have met. None where they part."""
    global _board
    _board = store


def say_once(launch: Launch, say: Callable[[], int], stderr: TextIO, interrupted: bool) -> int:
    """`say` reports an error on stderr and returns an exit code: have one process be heard, whichever of them met it.

    Where one fails, all others do: the one that was first to fail says why; what the others say would be that it is
    gone. stderr: that of this process, which may be muted. interrupted: it is Ctrl-C, which all of them get, and the
    first process says so. Returns the exit code.
    """
    # A process that ends with an error ends the others, by torchrun's hand: so none does before it was said why.
    if _board is None:
        if launch.local_rank and interrupted:
            return _silent(say)
        if launch.local_rank:
            time.sleep(_ALONE_SECONDS)
        return _heard(say, stderr)
    try:
        mine = launch.rank == 0 if interrupted else _board.add(_CLAIMED, 1) == 1
    except RuntimeError:  # the one that kept the board is gone, and has said why
        return _silent(say)
    if mine:
        code = _heard(say, stderr)
        with contextlib.suppress(RuntimeError):
            _board.set(_SAID, str(code))
        return code
    code = _silent(say)
    end = time.monotonic() + _SAID_SECONDS
    with contextlib.suppress(RuntimeError):
        while time.monotonic() < end and not _board.check([_SAID]):
            time.sleep(0.05)
    return code


def _heard(say: Callable[[], int], stderr: TextIO) -> int:
    with contextlib.redirect_stderr(stderr):
        return say()


def _silent(say: Callable[[], int]) -> int:
    with muted():
        return say()
