"""OpenTelemetry traces: a server span for each request, and one for each stage under it.

    POST /embed, or a gRPC ModelInfer: decode -> queue -> compute -> encode

Off unless OTEL_EXPORTER_OTLP_ENDPOINT says where spans go; all OTEL_ variables of the SDK count.
A caller's W3C `traceparent` is the parent, the answer's `traceresponse` names the server span, and
the log lines have the `trace_id`. The packages come with the extra `tracing`; nothing of them is
imported while tracing is off.
"""

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritserve.service.observing.notes import note
from tritserve.service.paths import is_polled
from tritserve.service.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, StatusCode, Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
FLUSH_SECONDS = 2.0

_tracer: ContextVar["Tracer | None"] = ContextVar("tracer", default=None)
_nothing = nullcontext()

log = logging.getLogger("tritserve")


def start(environment: Mapping[str, str]) -> "TracerProvider | None":
    """Where spans go as the environment says, or None if tracing is off.

    Raises:
        SettingsError: it is asked for, but cannot be had.
    """
    disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or not any(environment.get(name) for name in ENDPOINTS):
        return None
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), None)
    if protocol not in {None, "http/protobuf"}:
        raise SettingsError(f"traces are sent by http/protobuf, not by {protocol}")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tracing is on, but {error.name} is missing; install tritserve with its extra "
            "'tracing'"
        ) from error
    about = {"service.version": version("tritserve")}
    if not environment.get("OTEL_SERVICE_NAME"):
        about["service.name"] = "tritserve"
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def finish(provider: "TracerProvider") -> None:
    """Sends what is left; gives up after `FLUSH_SECONDS`, for the process is about to end."""
    flush = threading.Thread(target=provider.shutdown, daemon=True)
    flush.start()
    flush.join(FLUSH_SECONDS)
    if flush.is_alive():
        log.warning("the last spans were not sent in %g seconds", FLUSH_SECONDS)


def stage(name: str) -> AbstractContextManager[object]:
    """A span around a part of the current request."""
    tracer = _tracer.get()
    return _nothing if tracer is None else tracer.start_as_current_span(name)


def record_stages(begin: int, **seconds: float) -> None:
    """Spans of stages that are over and followed each other from `begin`, in nanoseconds."""
    tracer = _tracer.get()
    if tracer is None:
        return
    for name, duration in seconds.items():
        end = begin + int(duration * 1e9)
        tracer.start_span(name, start_time=begin).end(end)
        begin = end


class ServerSpans:
    """Makes the server span of each request, whatever carries it."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        self._tracer = provider.get_tracer("tritserve")
        self._parent = TraceContextTextMapPropagator()
        self._kind = trace.SpanKind.SERVER
        self._failed = trace.StatusCode.ERROR

    @contextmanager
    def around(
        self, name: str, headers: Iterable[tuple[bytes, bytes]], attributes: dict[str, Any]
    ) -> Iterator["ServerSpan"]:
        """The span of one request, from its headers until its answer."""
        given = {k.decode("latin-1"): v.decode("latin-1") for k, v in headers}
        with self._tracer.start_as_current_span(
            name, context=self._parent.extract(given), kind=self._kind, attributes=attributes
        ) as span:
            _tracer.set(self._tracer)
            yield ServerSpan(span, self._failed)


class ServerSpan:
    """A request's span while it is answered.

    Attributes:
        span: what OpenTelemetry knows.
        traceresponse: W3C's name of it, to go with the answer.
    """

    def __init__(self, span: "Span", failed: "StatusCode") -> None:
        self.span = span
        self._failed = failed
        ids = span.get_span_context()
        trace_id, span_id = f"{ids.trace_id:032x}", f"{ids.span_id:016x}"
        note(trace_id=trace_id)
        self.traceresponse = f"00-{trace_id}-{span_id}-{int(ids.trace_flags):02x}"

    def answered(self, attribute: str, code: int, fault: bool) -> None:
        """Records the answer's status under `attribute`, and whether the service is at fault."""
        self.span.set_attribute(attribute, code)
        if fault:
            self.span.set_status(self._failed)


class Traced:
    """The server span of each HTTP request; probes have none."""

    def __init__(self, app: ASGIApp, provider: "TracerProvider") -> None:
        self.app = app
        self._spans = ServerSpans(provider)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_polled(scope["path"]):
            await self.app(scope, receive, send)
            return
        attributes: dict[str, Any] = {
            "http.request.method": scope["method"],
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
        }
        with self._spans.around(scope["method"], scope["headers"], attributes) as server:
            response = (b"traceresponse", server.traceresponse.encode())

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    server.answered("http.response.status_code", status, status >= 500)
                    message["headers"] = [*message["headers"], response]
                await send(message)

            try:
                await self.app(scope, receive, answer)
            finally:
                # As it was declared; None where a path leads nowhere.
                route = getattr(scope.get("route"), "path_format", None)
                if route is not None:
                    server.span.update_name(f"{scope['method']} {route}")
                    server.span.set_attribute("http.route", route)
