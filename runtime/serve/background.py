"""Results that take seconds: made in a thread of their own, shown as far as they have come, made anew when the index
has changed.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

__all__ = ["Background"]

_log = logging.getLogger("queryopt")

T = TypeVar("T")

_REST = 10
"""After a run, the next one waits so many times as long as that took: at most a tenth of a core is spent."""


class Background(Generic[T]):
    """The latest result of some work on an index that may change.

    work: called in a thread; yields the result so far, again and again, the last time the whole of it. It is stopped
    (its generator closed) when the server stops. name: for the log.
    """

    def __init__(self, work: Callable[[], Iterator[T]], name: str) -> None:
        self._work = work
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._result: T | None = None
        self._revision: Hashable = None
        self._rest_until = 0.0

    def get(self, revision: Hashable) -> T | None:
        """The latest result, None before there is any. Starts the work where it was done for another revision."""
        with self._lock:
            idle = self._thread is None or not self._thread.is_alive()
            if idle and revision != self._revision and time.monotonic() >= self._rest_until and not self._stop.is_set():
                first = self._result is None
                self._revision = revision
                self._thread = threading.Thread(
                    target=self._run, args=(first,), name=f"queryopt-{self._name}", daemon=True
                )
                self._thread.start()
            return self._result

    def wait(self) -> None:
        """Until what was started is done."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """Stop what is being done."""
        self._stop.set()
        self.wait()

    def _run(self, show_parts: bool) -> None:
        started = time.monotonic()
        result: T | None = None
        parts = self._work()
        try:
            for result in parts:
                if self._stop.is_set():
                    return
                if show_parts:
                    self._result = result
            self._result = result
        except Exception as error:
            # The index may be damaged, or gone; whoever asks next starts it again.
            _log.warning("%s: %s", self._name, error)
            self._revision = None
        finally:
            parts.close()  # type: ignore[attr-defined]
            self._rest_until = time.monotonic() + _REST * (time.monotonic() - started)
