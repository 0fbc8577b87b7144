"""How the application behaves, and its limits."""

from dataclasses import dataclass

__all__ = ["MAX_K", "MAX_PAGE", "ServeSettings"]

MAX_K = 10_000
"""Hits of one search."""
MAX_PAGE = 200
"""Hits of one answer."""


@dataclass(frozen=True)
class ServeSettings:
    """hosts: names that clients may call this server by, besides localhost and IP addresses. max_upload: bytes of a
    request's body. max_pixels: of a picture that is uploaded. upload_seconds: that a body may take to arrive. batch,
    wait_ms, queue: see `ModelWorker`. requests: that are worked on at once; more get 503. image_bytes: of JPEGs that
    are kept. queries: uploaded pictures that are kept (as a small JPEG and their code) for further pages.
    """

    hosts: tuple[str, ...] = ()
    max_upload: int = 20 << 20
    max_pixels: int = 40_000_000
    upload_seconds: float = 60
    batch: int = 16
    wait_ms: float = 3
    queue: int = 64
    requests: int = 64
    image_bytes: int = 64 << 20
    queries: int = 256
