"""What one client may ask of the server, and the gate before the application that holds clients to it.

Promises: a body is read whole, within a time and a size, before anything looks at it; without a key where one is
needed, under a foreign name of the host (DNS rebinding), or while the server shuts down nothing is looked at either;
every answer carries the headers that keep browsers from guessing. Not here: what a request may say (schema.py), the
queue (replicas.py).
"""

from __future__ import annotations

import asyncio
import hmac
from collections import deque
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanochat.serve.errors import ApiError
from nanochat.serve.metrics import Metrics

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/health", "/ready")  # without a key: for whoever watches over the process
NEEDS_KEY = ("/v1/", "/metrics")
READ_ON = 8  # times the limit is read and thrown away: who is still sending does not hear an answer
COUNTED = ("/", "/health", "/ready", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions")
SECURITY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


@dataclass(frozen=True)
class Limits:
    """Bounds of a server."""

    body_bytes: int = 2**20
    body_seconds: float = 20.0  # for the body to arrive
    waiting: int = 256  # requests in the queue
    connections: int = 1024  # requests under way, whatever they are
    new_tokens: int = 4096  # of an answer
    request_seconds: float = 120.0  # from a request's arrival to its end
    drain_seconds: float = 30.0  # for what runs when the server is told to end


@dataclass(frozen=True)
class Access:
    """Who may come in. `hosts` empty: under any name."""

    key: str = ""
    hosts: tuple[str, ...] = LOOPBACK
    origins: tuple[str, ...] = ()


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, limits: Limits, access: Access, metrics: Metrics) -> None:
        self.app, self.limits, self.access, self.metrics = app, limits, access, metrics
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
                route = scope["path"] if scope["path"] in COUNTED else "other"
                self.metrics.count("http_requests_total", route=route, status=str(message["status"]))
            await send(message)

        self.under_way += 1
        try:
            headers = Headers(scope=scope)
            self._admit(scope, headers)
            body = await asyncio.wait_for(self._body(headers, receive), self.limits.body_seconds)
        except ApiError as error:
            await error.response()(scope, receive, guarded)
        except TimeoutError:
            late = ApiError(408, f"the body did not arrive within {self.limits.body_seconds:g} s", "body_timeout")
            await late.response()(scope, receive, guarded)
        except ConnectionError:
            return
        else:
            await self.app(scope, _replayed(body, receive), guarded)
        finally:
            self.under_way -= 1

    def _admit(self, scope: Scope, headers: Headers) -> None:
        if self.access.hosts and _host_name(headers.get("host", "")) not in self.access.hosts:
            message = "this server is asked for under a name that is not its own: see `nanochat serve --allow-host`"
            raise ApiError(403, message, "host_not_allowed")
        if self.under_way > self.limits.connections and scope["path"] not in OPEN_PATHS:
            message = f"{self.limits.connections} requests are under way: try again later"
            raise ApiError(429, message, "too_many_requests", retry_after=1)
        if self.access.key and scope["path"].startswith(NEEDS_KEY) and scope["method"] != "OPTIONS":
            kind, _, given = headers.get("authorization", "").partition(" ")
            sent = given.strip().encode("latin-1", "replace")  # as headers are read: the bytes that came
            if kind.lower() != "bearer" or not hmac.compare_digest(sent, self.access.key.encode()):
                message = "the key is missing or wrong: send it as Authorization: Bearer KEY"
                raise ApiError(401, message, "invalid_api_key")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        too_large = ApiError(413, f"the body is larger than {self.limits.body_bytes} bytes", "body_too_large")
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > READ_ON * self.limits.body_bytes:
            raise too_large
        body, size, more = bytearray(), 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            size += len(message.get("body", b""))
            if size <= self.limits.body_bytes:
                body += message.get("body", b"")
            elif size > READ_ON * self.limits.body_bytes:
                break
            more = message.get("more_body", False)
        if size > self.limits.body_bytes:
            raise too_large
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then what comes after it."""
    first: deque[Message] = deque([{"type": "http.request", "body": body, "more_body": False}])

    async def replayed() -> Message:
        return first.popleft() if first else await receive()

    return replayed


def _host_name(host: str) -> str:
    """`localhost` of `localhost:8000`, `::1` of `[::1]:8000`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
