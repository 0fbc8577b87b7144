"""The web server around the application: its socket, its end."""

import errno
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

from queryopt.errors import MissingError, UsageError
from queryopt.text import install_extra

__all__ = ["is_loopback", "open_socket", "require_packages", "run", "url_of"]

_BACKLOG = 128
_GRACE = 10
"""Seconds that running requests get to finish."""


def require_packages() -> None:
    """Raise MissingError where a package of the extra [serve] is not there."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingError(f"qo-serve needs {error.name or error}: {install_extra('serve')}") from None


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. UsageError where the address can't be had: taken, not this machine's, not allowed."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # the latter for a name that none can have: two dots, or too long
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--host {host}: {why}: give an address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} is taken on {host} (another qo-serve?): give another with --port, or --port 0 for any"
        elif error.errno == errno.EACCES:
            why = f"port {port}: no permission for ports below 1024: give another with --port"
        elif error.errno == errno.EADDRNOTAVAIL:
            why = f"--host {host} is no address of this machine"
        else:
            why = f"can't listen on {host}, port {port}: {error.strerror or error}"
        raise UsageError(why) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    host = listener.getsockname()[0]
    return bool(host == "::1" or host.startswith("127."))


def run(app: Any, listener: socket.socket, ready: Callable[[], object]) -> bool:
    """Serve until SIGTERM or SIGINT; requests that are running then are finished. Whether it was SIGINT (Ctrl-C).

    ready: called when requests are answered.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    interrupted = False

    def caught(number: int, frame: FrameType | None) -> None:
        # uvicorn handles signals itself while it runs, and raises what came once more when it has ended.
        nonlocal interrupted
        interrupted |= number == signal.SIGINT

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ws="none",
        lifespan="on",
        limit_concurrency=1024,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_GRACE,
        proxy_headers=False,
    )
    log = logging.getLogger("uvicorn")
    log.handlers, log.propagate = logging.getLogger("queryopt").handlers, False
    log.setLevel(logging.ERROR)
    before = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()
    return interrupted
