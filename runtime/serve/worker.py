"""One thread that owns the model: requests that come together are one run of it."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from queryopt.runtime.hasher import Hasher
from queryopt.runtime.serve.errors import BusyError

__all__ = ["Hashed", "ModelWorker"]


@dataclass(frozen=True, eq=False)
class Hashed:
    """One picture's code uint8 [bytes], logits float32 [bits], and maps float32 [bits, g, g] if they were asked for."""

    code: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    maps: npt.NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class _Job:
    pixels: npt.NDArray[np.uint8]
    explain: bool
    future: "Future[Hashed]"


class ModelWorker:
    """Hashes pictures for many threads. Close it: what was submitted before is still done.

    hasher: used by this worker alone from now on, and closed by it. batch: the most pictures of one run. wait_ms: how
    long a run waits for pictures that are being decoded (`expecting`); where there are none, it starts at once. depth:
    pictures that wait; BusyError for more. observe: called with the number of pictures of each run, and its seconds.
    """

    def __init__(
        self,
        hasher: Hasher,
        batch: int = 16,
        wait_ms: float = 3,
        depth: int = 64,
        observe: Callable[[int, float], object] = lambda count, seconds: None,
    ) -> None:
        self.hasher = hasher
        self._batch = batch
        self._wait = wait_ms / 1000
        self._queue: queue.Queue[_Job | None] = queue.Queue(depth)
        self._observe = observe
        self._expected = 0
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="queryopt-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that wait for a run."""
        return self._queue.qsize()

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """A picture is on its way: a run that is about to start waits a moment for it."""
        with self._lock:
            self._expected += 1
        try:
            yield
        finally:
            with self._lock:
                self._expected -= 1

    def submit(self, pixels: npt.NDArray[np.uint8], explain: bool = False) -> "Future[Hashed]":
        """Have a picture hashed: uint8 [s, s, 3], as the model takes it. BusyError for too many, or after close."""
        job = _Job(pixels, explain, Future())
        with self._lock:
            if self._closed:
                raise BusyError("the server is stopping")
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise BusyError("too many pictures wait for the model: try again in a second") from None
        return job.future

    def close(self) -> None:
        """Do what was submitted, then end the thread and free the model."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._queue.put(None)
            self._thread.join()
            self.hasher.close()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            jobs = [job]
            ends = not self._gather(jobs)
            self._run(jobs)
            if ends:
                return

    def _gather(self, jobs: list[_Job]) -> bool:
        """Add what waits, or comes in a moment; whether there is to be a next run."""
        until = time.monotonic() + self._wait
        while len(jobs) < self._batch:
            try:
                left = until - time.monotonic()
                job = self._queue.get(timeout=left) if self._expected and left > 0 else self._queue.get_nowait()
            except queue.Empty:
                return True
            if job is None:
                return False
            jobs.append(job)
        return True

    def _run(self, jobs: list[_Job]) -> None:
        started = time.perf_counter()
        pixels = np.stack([job.pixels for job in jobs])
        try:
            if any(job.explain for job in jobs):
                done = self.hasher.explain_pixels(pixels)
            else:
                done = self.hasher.hash_pixels(pixels)
        except Exception as error:
            for job in jobs:
                job.future.set_exception(error)
            return
        self._observe(len(jobs), time.perf_counter() - started)
        for row, job in enumerate(jobs):
            maps = done.maps[row] if job.explain and done.maps is not None else None
            job.future.set_result(Hashed(done.codes[row], done.logits[row], maps))
