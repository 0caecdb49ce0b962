"""What a connection may cost before and after a request: headers, silence, and unread answers.

uvicorn bounds neither the size of headers nor the time that they take, so that a client which
sends a byte now and then would hold a connection for ever. This is its HTTP protocol with limits:

- A request's line and headers (and trailers) are complete within `header_seconds` of their first
  byte, and are at most `max_header_bytes`. A connection that never asks is closed as soon.
- So is one that goes on sending a body whose request has been answered already.
- A client that takes nothing of its answers for `send_seconds`, at most twice as long, is cut off,
  and with it the memory that they hold.
- At most 64 requests wait behind the one that is being answered: the next are not read, and the
  connection is closed after the last answer. Trailers are counted, but never taken for headers.
- At most `max_connections` are open. A few more are let in for probes, so that a full service is
  not taken for a dead one: each gets one answer, a refusal to whatever does not ask for health.
  The next one is told so at once and closed.

Handshakes are bounded in `tls.py`. Bodies are the application's part (`body.py`): it knows when it
waits for one.
"""

import asyncio
from typing import Any, ClassVar, NoReturn

import orjson
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tritserve.service.errors import (
    HeadersTooLargeError,
    ServiceError,
    SlowHeadersError,
    UnavailableError,
    UnparseableError,
)
from tritserve.service.http.request_parser import RequestParser
from tritserve.service.http.security import SECURITY_HEADERS
from tritserve.service.observing.metrics import Metrics
from tritserve.service.paths import is_health
from tritserve.service.settings import Settings

SPARE_CONNECTIONS = 8
MAX_PIPELINED = 64


def guarded(settings: Settings, metrics: Metrics) -> type[HttpToolsProtocol]:
    """The protocol with the limits of `settings`; uvicorn makes one for each connection."""
    return type("Guarded", (_Guarded,), {"limits": settings, "metrics": metrics})


class _Flow(FlowControl):
    """Stops reading only when what was read has been parsed, and more of the request is to come.

    uvicorn stops in the midst of a body over its limit, even if the body's end has been read with
    it; to stop and to go on costs two system calls.
    """

    _stopped = False

    def pause_reading(self) -> None:
        self.read_paused = True

    def resume_reading(self) -> None:
        self.read_paused = False
        if self._stopped:
            self._stopped = False
            self._transport.resume_reading()

    def stop_if_paused(self) -> None:
        """Makes good what `pause_reading` put off."""
        if self.read_paused and not self._stopped:
            self._stopped = True
            self._transport.pause_reading()


class _Guarded(HttpToolsProtocol):
    flow: _Flow
    limits: ClassVar[Settings]
    metrics: ClassVar[Metrics]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.new_parser()
        # The line and headers of a request that offers an upgrade, without the offer.
        self._offer: bytes | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        # How often more became unsent, or almost all was sent.
        self._turns = 0
        # More was pipelined than may wait; the rest is not read.
        self._deaf = False
        self._in_head = False
        self._head_bytes = 0
        # The parser keeps an unfinished header to itself: bytes that led to no event are counted.
        self._heard = False
        self._unheard_bytes = 0
        self._in_message = False
        self._spare = False
        # Why a request is refused in the midst of parsing it.
        self._refusal: tuple[str, ServiceError] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self.metrics.connections.inc()
        over = len(self.connections) - self.limits.max_connections
        if over > SPARE_CONNECTIONS:
            self._refuse(*self._no_more())
            return
        self._spare = over > 0
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.metrics.connections.dec()
        for timer in (self._head_timer, self._send_timer):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._deaf:
            return
        self._heard = False
        super().data_received(data)
        self._unheard_bytes = 0 if self._heard else self._unheard_bytes + len(data)
        if self.transport.is_closing():
            return
        if self._in_message or self.pipeline:
            self.flow.stop_if_paused()
        if self._unheard_bytes > self.limits.max_header_bytes:
            self._refuse(*self._too_large())
        elif self._head_timer is None and not self._busy:
            self._await_head()

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_message_begin(self) -> None:
        if len(self.pipeline) == MAX_PIPELINED:
            self._stop_parsing("pipelined", UnavailableError("too many requests wait"))
        self._heard = self._in_head = self._in_message = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + len(b": \r\n"))
        # What a trailer says must not be taken for what the head said.
        if self._in_head:
            super().on_header(name, value)

    def new_parser(self) -> RequestParser:
        """Takes another parser, which begins with the line of a request."""
        parser = RequestParser(self)
        # As uvicorn sets its own.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser = parser
        return parser

    def take_offer(self) -> bytes | None:
        """What to read once more where the parser has stopped at the offer of an upgrade."""
        offer, self._offer = self._offer, None
        return offer

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offer = self._head_without_upgrade()
            return
        self._heard, self._in_head = True, False
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
        # RFC 9112, 3.2.
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts < 1 and self.parser.get_http_version() == "1.1"):
            message = f"the request has {hosts} Host headers; it must have one"
            self._stop_parsing("malformed", UnparseableError(message))
        if self._spare and self.cycle is None:
            # Others may have gone since it came.
            self._spare = len(self.connections) > self.limits.max_connections
            if self._spare and not is_health(self.url.decode("latin-1")):
                self._stop_parsing(*self._no_more())
        if self.parser.get_http_version() == "1.0":
            # It knows no answer before the answer (RFC 9110, 10.1.1).
            self.expect_100_continue = False
        super().on_headers_complete()
        # After CONNECT, whatever it is answered, the parser reads nothing more.
        if self._spare or self.parser.get_method() == b"CONNECT":
            self.cycle.keep_alive = False

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_complete(self) -> None:
        if self._offer is not None:
            return
        self._in_message = False
        super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._heard = True
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Called when the parser gave up, or was stopped."""
        malformed = "malformed", UnparseableError("the request is not HTTP/1.1")
        reason, error = self._refusal or malformed
        if len(self.pipeline) < MAX_PIPELINED:
            self._refuse(reason, error)
            return
        self.metrics.refused_connections.labels(reason).inc()
        self._deaf = True
        # The last that waits.
        self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        self._turns += 1
        self._watch_reader()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._turns += 1

    def _count_head(self, size: int) -> None:
        self._heard = True
        self._head_bytes += size
        if self._head_bytes > self.limits.max_header_bytes:
            self._stop_parsing(*self._too_large())

    def _stop_parsing(self, reason: str, error: ServiceError) -> NoReturn:
        self._refusal = reason, error
        # Out of the parser; uvicorn then calls `send_400_response`.
        raise error

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self._give_up_head)

    def _give_up_head(self) -> None:
        self._head_timer = None
        if self._in_head:
            message = f"the headers were not complete after {self.limits.header_seconds:g} seconds"
            self._refuse("slow_headers", SlowHeadersError(message))
        else:
            self.transport.close()

    def _watch_reader(self) -> None:
        if self._send_timer is None:
            unsent = self.transport.get_write_buffer_size()
            self._send_timer = self.loop.call_later(
                self.limits.send_seconds, self._check_reader, unsent, self._turns
            )

    def _check_reader(self, unsent_then: int, turns_then: int) -> None:
        self._send_timer = None
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            return
        if unsent < unsent_then or self._turns > turns_then:
            self._watch_reader()
            return
        self.metrics.refused_connections.labels("slow_reader").inc()
        self.transport.abort()

    def _too_large(self) -> tuple[str, ServiceError]:
        limit = self.limits.max_header_bytes
        message = f"line and headers are over {limit} bytes"
        return "large_headers", HeadersTooLargeError(message, limit=limit)

    def _no_more(self) -> tuple[str, ServiceError]:
        many = f"{self.limits.max_connections} connections are open; there are no more"
        return "too_many", UnavailableError(many)

    def _refuse(self, reason: str, error: ServiceError) -> None:
        """Answers and closes; without an answer where it would pass for that of another request."""
        self.metrics.refused_connections.labels(reason).inc()
        if not (self._busy and (self.cycle.response_started or not self.cycle.more_body)):
            body = orjson.dumps(error.body())
            headers = {
                **SECURITY_HEADERS,
                **error.headers,
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
            lines = [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
            self.transport.write(b"".join([STATUS_LINE[error.status], *lines, b"\r\n", body]))
            self._watch_reader()
        self.transport.close()
