"""What TensorRT says: its functions return None where they fail, and the reason is only in its log."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["Messages", "collect_messages", "stdout_kept_clean"]

_KEPT = 50
_LONGEST = 600

_log = logging.getLogger("queryopt")


class Messages(Protocol):
    """A logger of TensorRT that keeps warnings and errors."""

    def clear(self) -> None:
        """Forget what was said so far: before a call whose reason is to be told."""

    def errors(self) -> str:
        """The errors in one line, the first of them first; "it gave no reason" where there were none."""


def collect_messages(module: Any) -> Any:
    """A new logger (an ILogger of that package, and Messages) that prints nothing."""

    class Collector(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.kept: list[tuple[bool, str]] = []

        def log(self, severity: Any, message: str) -> None:
            # The severities are ordered from INTERNAL_ERROR, 0, to VERBOSE, 4.
            if len(self.kept) < _KEPT and int(severity) <= int(module.ILogger.WARNING):
                self.kept.append((int(severity) <= int(module.ILogger.ERROR), " ".join(message.split())))

        def clear(self) -> None:
            self.kept.clear()

        def errors(self) -> str:
            return "; ".join(message for bad, message in self.kept if bad)[:_LONGEST] or "it gave no reason"

    return Collector()


@contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Keep off the process's standard output what native code prints past every logger; it is logged (-v) instead.

    JSON goes there. For the time of the block it is so for all threads.
    """
    sys.stdout.flush()
    try:
        saved = os.dup(1)
    except OSError:  # there is none
        yield
        return
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 1)
            try:
                yield
            finally:
                sys.stdout.flush()
                os.dup2(saved, 1)
                file.seek(0)
                for line in file.read().decode(errors="replace").splitlines():
                    _log.debug("TensorRT: %s", line)
    finally:
        os.close(saved)
