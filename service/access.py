"""One log line for each request, and the ids by which its lines are found.

A client's `X-Request-ID` is kept if it is short and plain, otherwise one is made; it comes back
with the answer. The trace id of a W3C `traceparent` is in the lines too. Whoever handles the
request adds what it knows to the line, by `structlog.contextvars.bind_contextvars`.
"""

import logging
import re
import time
from typing import Any
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

# Asked every few seconds by machines.
QUIET = ("/health/", "/v2/health/", "/metrics")
MAX_PATH = 200

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

log = logging.getLogger("tritserve.access")


class AccessLog:
    """Names each request and logs its end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        request_id = _bind_ids(scope["headers"])
        status: int | None = None
        bytes_in = bytes_out = 0

        async def count_received() -> Message:
            nonlocal bytes_in
            message = await receive()
            bytes_in += len(message.get("body", b""))
            return message

        async def count_sent(message: Message) -> None:
            nonlocal status, bytes_out
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            else:
                bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, count_received, count_sent)
        finally:
            level = logging.DEBUG if scope["path"].startswith(QUIET) else logging.INFO
            if log.isEnabledFor(level):
                milliseconds = round(1e3 * (time.perf_counter() - start), 3)
                fields = {
                    "method": scope["method"],
                    "route": route_of(scope) or scope["path"][:MAX_PATH],
                    "status": status,
                    "ms": milliseconds,
                    "bytes_in": bytes_in,
                    "bytes_out": bytes_out,
                }
                log.log(level, "request", extra=fields)


def _bind_ids(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Makes the ids of a request part of its log lines; returns the request id."""
    # A connection's requests follow each other in one context.
    clear_contextvars()
    given = dict(headers)
    request_id = given.get(b"x-request-id", b"")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = uuid4().hex.encode()
    bind_contextvars(request_id=request_id.decode())
    trace = _TRACEPARENT.fullmatch(given.get(b"traceparent", b""))
    if trace:
        bind_contextvars(trace_id=trace[1].decode())
    return request_id


def route_of(scope: Scope) -> str | None:
    """The route of a request as it was declared, None where a path leads nowhere."""
    route: Any = scope.get("route")
    path: str | None = getattr(route, "path", None)
    return path
