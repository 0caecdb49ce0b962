"""What is seen of each request from outside: its ids, its log line and its metrics.

It is the outermost layer, so that no answer gets past it: here each is given the headers that all
have, and the request's id as `X-Request-ID`.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.types import FilteringBoundLogger

from tritserve.service.errors import StoppedError
from tritserve.service.http.answers import error_answer
from tritserve.service.observing.metrics import Metrics
from tritserve.service.observing.notes import levels, name_request
from tritserve.service.paths import is_polled, route_of

MAX_PATH = 200


class Observed:
    """Names, counts and logs each request.

    Args:
        app: answers the requests.
        metrics: where they are counted.
        headers: those of every answer that has none of the same name.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, headers: Mapping[str, str]) -> None:
        self.app = app
        self._headers = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
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
                given = dict(message["headers"])
                missing = [pair for pair in self._headers if pair[0] not in given]
                named = (b"x-request-id", request_id)
                message["headers"] = [*message["headers"], *missing, named]
                self._metrics.count_answer(route, status)
            else:
                bytes_out += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, count_received, count_sent)
        except asyncio.CancelledError:
            # The server waits no longer for its last requests.
            if status is not None:
                raise
            await error_answer(StoppedError(), path)(scope, receive, count_sent)
        finally:
            seconds = time.perf_counter() - start
            self._metrics.time_request(route, seconds)
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
                # All answers that are ready go first: lines between them would spread their clients
                # out, whose next requests would then come too late for one batch.
                write = partial(self._log.log, level, "request", **fields)
                asyncio.get_running_loop().call_soon(write)
