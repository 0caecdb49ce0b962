"""What is seen of each request from outside: its ids, its log line and its metrics.

The request's id comes back with the answer as `X-Request-ID`.
"""

import asyncio
import logging
import time
from functools import partial

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.types import FilteringBoundLogger

from service.metrics import Metrics
from service.notes import levels, name_request
from service.paths import is_polled, route_of

MAX_PATH = 200


class Observed:
    """Names, counts and logs each request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics
        self._log: FilteringBoundLogger = structlog.get_logger().bind()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        path = scope["path"]
        route = route_of(path)
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
                self._metrics.count_answer(route, status)
            else:
                bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, count_received, count_sent)
        finally:
            seconds = time.perf_counter() - start
            self._metrics.request_seconds.labels(route).observe(seconds)
            level = logging.DEBUG if is_polled(path) else logging.INFO
            if levels.isEnabledFor(level):
                fields = {
                    "method": scope["method"],
                    "path": path[:MAX_PATH],
                    "route": route,
                    "status": status,
                    "ms": round(1e3 * seconds, 3),
                    "bytes_in": bytes_in,
                    "bytes_out": bytes_out,
                }
                # uvloop sends what was written when its callbacks are through: answer first.
                write = partial(self._log.log, level, "request", **fields)
                asyncio.get_running_loop().call_soon(write)
