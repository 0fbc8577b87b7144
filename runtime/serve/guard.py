"""What stands before the application: whom it talks to, how much it takes, what browsers may do with answers."""

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from queryopt.runtime.serve.errors import CutOffBodyError, LargeBodyError, RequestError, SlowBodyError
from queryopt.runtime.serve.metrics import Metrics

__all__ = ["HEADERS", "Guard"]

_log = logging.getLogger("queryopt.serve")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""Sent with every answer."""

_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ALWAYS = frozenset({"/healthz", "/metrics"})
"""Answered also when all else is refused for load."""


class Guard:
    """The outermost ASGI application.

    - A Host that is neither localhost nor an IP address nor one of `hosts` gets 421: a foreign page whose name was made
      to lead here (DNS rebinding) reads nothing.
    - A request that changes something and comes from another site's page gets 403 (Origin, Sec-Fetch-Site).
    - Beyond `requests` at once, 503 with Retry-After. Bodies of more than `max_body` bytes get 413, on their way; ones
      that take longer than `body_seconds` get 408.
    - What still runs when the server has waited for it at its end gets 503, too.
    - Every answer has HEADERS, and is counted. An error of the application is logged, and told as 500 without a word.
    """

    def __init__(
        self,
        app: App,
        metrics: Metrics,
        hosts: tuple[str, ...] = (),
        requests: int = 64,
        max_body: int = 20 << 20,
        body_seconds: float = 60,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts) | {"localhost"}
        self._requests = requests
        self._max_body = max_body
        self._body_seconds = body_seconds
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started, status, method = time.perf_counter(), 0, scope["method"]
        if method == "HEAD":
            # Answered as GET; the server below leaves out the body.
            scope = {**scope, "method": "GET"}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in _HEADERS if h[0] not in own)]
            await send(message)

        self._now += 1
        self._metrics.requests_now.set(self._now)
        try:
            await self._guarded(scope, receive, answer)
        except RequestError as refused:
            if not status:
                await _refuse(answer, refused.status, str(refused))
        except asyncio.CancelledError:
            # The server ends, and has waited for this request as long as it does.
            if not status:
                await _refuse(answer, 503, "the server is ending: try again when it is back", retry=True)
        except Exception:
            # The traceback is for whoever runs the server, never for a client.
            _log.exception("%s %s failed", method, scope["path"])
            if not status:
                await _refuse(answer, 500, "the server failed; its log says why")
        finally:
            self._now -= 1
            self._metrics.requests_now.set(self._now)
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - started
            self._metrics.requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            _log.debug("%s %s: %d, %.1f ms", method, scope["path"], status, 1000 * seconds)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._knows(host):
            reason = f"this server is not called {host!r}: if it should be, start it with --allow-host {_name(host)}"
            return await _refuse(send, 421, reason)
        if scope["method"] not in _SAFE and _is_foreign(headers, host):
            return await _refuse(send, 403, "requests from pages of other sites are refused")
        if self._now > self._requests and scope["path"] not in _ALWAYS:
            return await _refuse(send, 503, "too many requests at once: try again in a second", retry=True)
        length = headers.get(b"content-length", "0")
        if length.isdigit() and int(length) > self._max_body:
            return await _refuse(send, 413, _too_large(self._max_body))
        await self._app(scope, receive if scope["method"] in _SAFE else self._limited(receive), send)

    def _limited(self, receive: Receive) -> Receive:
        taken, until = 0, time.monotonic() + self._body_seconds
        done = False

        async def limited() -> Message:
            nonlocal taken, done
            if done:
                return await receive()
            try:
                async with asyncio.timeout(max(until - time.monotonic(), 0)):
                    message = await receive()
            except TimeoutError:
                raise SlowBodyError("the body took too long to arrive") from None
            if message["type"] == "http.disconnect":
                raise CutOffBodyError("the connection ended before the body")
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                done = not message.get("more_body", False)
                if taken > self._max_body:
                    raise LargeBodyError(_too_large(self._max_body))
            return message

        return limited

    def _knows(self, host: str) -> bool:
        name = _name(host)
        if name in self._hosts or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower().rstrip(".") if ":" in host else host.lower().rstrip(".")


def _is_foreign(headers: dict[bytes, str], host: str) -> bool:
    """Whether a browser says that another site's page sent this. Programs that are no browsers say nothing."""
    if headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get(b"origin")
    try:
        return origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    except ValueError:  # no address at all
        return True


def _too_large(most: int) -> str:
    return f"more than {most / (1 << 20):g} MiB: give a smaller file"


async def _refuse(send: Send, status: int, reason: str, retry: bool = False) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry:
        headers.append((b"retry-after", b"1"))
    if status in (408, 413):
        # What is left of the body is not read.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
