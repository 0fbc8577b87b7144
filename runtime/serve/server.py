"""The web server around the application: its socket, its end."""

import asyncio
import errno
import logging
import resource
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from queryopt.errors import MissingError, UsageError
from queryopt.text import install_extra

__all__ = ["host_of", "is_loopback", "open_socket", "require_packages", "run", "url_of", "waiting_protocol"]

_BACKLOG = 128
_GRACE = 10
"""Seconds that running requests get to finish."""
_HEAD_SECONDS = 15
"""A request whose head has not arrived by then, in twice the time at the latest, is given up."""
_DESCRIPTORS = 65_536
"""Open files, and so connections, that the server allows itself, where the system does."""


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
    host, port = host_of(listener), listener.getsockname()[1]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def host_of(listener: socket.socket) -> str:
    """The address that it listens on, or, of all, this machine's name."""
    host: str = listener.getsockname()[0]
    return socket.gethostname() if host in ("0.0.0.0", "::") else host


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    host = listener.getsockname()[0]
    return bool(host == "::1" or host.startswith("127."))


def waiting_protocol(seconds: float) -> type[asyncio.Protocol]:
    """HTTP as uvicorn speaks it, for clients that send the head of a request in `seconds`, or in up to twice as many.

    Without it, one that never ends its head keeps its connection for good, and a thousand of them keep all others out.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Waiting(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._look(waited=False)

        def connection_lost(self, exc: Exception | None) -> None:
            self._next_look.cancel()
            super().connection_lost(exc)

        def _look(self, waited: bool) -> None:
            answering = self.cycle is not None and not self.cycle.response_complete
            waits = self.conn.their_state is h11.IDLE and not answering and self.timeout_keep_alive_task is None
            if waits and waited:
                self.transport.close()
            self._next_look = self.loop.call_later(seconds, self._look, waits)

    return Waiting


class _Faults:
    """What asyncio has nobody to tell: that no connection can be taken is said once a minute, not each time."""

    def __init__(self) -> None:
        self._said = -60.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said >= 60:
            self._said = time.monotonic()
            logging.getLogger("queryopt.serve").error(
                "no more connections can be taken: %s: allow this process more with ulimit -n", error.strerror
            )


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run(app: Any, listener: socket.socket, ready: Callable[[], object]) -> bool:
    """Serve until SIGTERM or SIGINT; requests that are running then are finished. Whether it was SIGINT (Ctrl-C).

    ready: called when requests are answered.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            asyncio.get_running_loop().set_exception_handler(_Faults())
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
        http=waiting_protocol(_HEAD_SECONDS),
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
    _allow_descriptors()
    before = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()
    return interrupted
