"""One log line for each request, and the ids by which its lines are found.

A client's `X-Request-ID` is kept if it is short and plain, otherwise one is made; it comes back
with the answer. The trace id of a W3C `traceparent` is in the lines too. Whoever handles the
request adds what it knows by `note`.
"""

import asyncio
import logging
import re
import time
from contextvars import ContextVar
from functools import partial
from random import getrandbits
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.types import EventDict, FilteringBoundLogger

# Asked every few seconds by machines.
QUIET = ("/health/", "/v2/health/", "/metrics")
MAX_PATH = 200

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

# One dictionary for each request: a variable for each field would cost a good part of what
# answering a small request does.
_fields: ContextVar[dict[str, Any] | None] = ContextVar("fields", default=None)

# Says whether lines are wanted; where nobody has set up logging, none are.
levels = logging.getLogger("tritserve.access")


def note(**fields: Any) -> None:
    """Adds fields to the further log lines of the current request, if there is one."""
    noted = _fields.get()
    if noted is not None:
        noted.update(fields)


def add_noted(_: Any, __: str, event: EventDict) -> EventDict:
    """For structlog: what was noted of the current request, on each of its lines."""
    return {**(_fields.get() or {}), **event}


class AccessLog:
    """Names each request and logs its end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._log: FilteringBoundLogger = structlog.get_logger().bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        request_id = name_request(scope["headers"])
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
            if levels.isEnabledFor(level):
                fields = {
                    "method": scope["method"],
                    "route": route_of(scope) or scope["path"][:MAX_PATH],
                    "status": status,
                    "ms": round(1e3 * (time.perf_counter() - start), 3),
                    "bytes_in": bytes_in,
                    "bytes_out": bytes_out,
                }
                # uvloop sends what was written when its callbacks are through: answer first.
                write = partial(self._log.log, level, "request", **fields)
                asyncio.get_running_loop().call_soon(write)


def name_request(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Begins the notes of a request with its ids; returns the request id."""
    given = dict(headers)
    request_id = given.get(b"x-request-id", b"")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = b"%032x" % getrandbits(128)
    fields = {"request_id": request_id.decode()}
    trace = _TRACEPARENT.fullmatch(given.get(b"traceparent", b""))
    if trace:
        fields["trace_id"] = trace[1].decode()
    _fields.set(fields)
    return request_id


def route_of(scope: Scope) -> str | None:
    """The route of a request as it was declared, None where a path leads nowhere."""
    route: Any = scope.get("route")
    path: str | None = getattr(route, "path", None)
    return path
