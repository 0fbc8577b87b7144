"""What Prometheus reads from the server."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # processor time, memory, open files; on Linux alone
        self.requests = Counter(
            "queryopt_requests", "Requests that were answered.", ["method", "route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "queryopt_request_seconds", "Time to answer a request.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.requests_now = Gauge(
            "queryopt_requests_in_progress", "Requests that are being worked on.", registry=registry
        )
        self._search_seconds = Histogram(
            "queryopt_search_seconds", "Time of one search of the index.", buckets=_SECONDS, registry=registry
        )
        self._model_seconds = Histogram(
            "queryopt_model_run_seconds", "Time of one run of the model.", buckets=_SECONDS, registry=registry
        )
        self._model_pictures = Histogram(
            "queryopt_model_run_pictures",
            "Pictures in one run of the model.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self._images = Gauge("queryopt_index_images", "Pictures in the index.", registry=registry)
        self._waiting = Gauge("queryopt_model_queue", "Pictures that wait for the model.", registry=registry)

    def model_run(self, pictures: int, seconds: float) -> None:
        self._model_pictures.observe(pictures)
        self._model_seconds.observe(seconds)

    @contextmanager
    def searching(self) -> Iterator[None]:
        with self._search_seconds.time():
            yield

    def text(self, images: int, waiting: int) -> bytes:
        """All of it, in Prometheus's text format 0.0.4; with the pictures of the index and those that wait."""
        self._images.set(images)
        self._waiting.set(waiting)
        return generate_latest(self._registry)
