"""OpenTelemetry traces: a server span for each request, and one for each stage under it.

    POST /embed: decode -> queue -> compute -> encode

Off unless OTEL_EXPORTER_OTLP_ENDPOINT says where spans go; all OTEL_ variables of the SDK count.
A caller's W3C `traceparent` is the parent, the answer's `traceresponse` names the server span, and
the log lines have the `trace_id`. The packages come with the extra `tritserve[tracing]`; nothing
of them is imported while tracing is off.
"""

import logging
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.notes import note
from service.paths import is_polled
from service.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

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
    if not any(environment.get(name) for name in ENDPOINTS):
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
            f"tracing is on, but {error.name} is missing; install it with: "
            "pip install 'tritserve[tracing]'"
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


class Traced:
    """The server span of each request; probes have none."""

    def __init__(self, app: ASGIApp, provider: "TracerProvider") -> None:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
            TraceContextTextMapPropagator,
        )

        self.app = app
        self._tracer = provider.get_tracer("tritserve")
        self._parent = TraceContextTextMapPropagator()
        self._kind = trace.SpanKind.SERVER
        self._failed = trace.StatusCode.ERROR

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_polled(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        attributes: dict[str, Any] = {
            "http.request.method": scope["method"],
            "url.scheme": scope["scheme"],
            "url.path": scope["path"],
        }
        with self._tracer.start_as_current_span(
            scope["method"],
            context=self._parent.extract(headers),
            kind=self._kind,
            attributes=attributes,
        ) as span:
            ids = span.get_span_context()
            trace_id, span_id = f"{ids.trace_id:032x}", f"{ids.span_id:016x}"
            note(trace_id=trace_id)
            response = f"00-{trace_id}-{span_id}-{int(ids.trace_flags):02x}".encode()

            async def answer(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(self._failed)
                    message["headers"] = [*message["headers"], (b"traceresponse", response)]
                await send(message)

            _tracer.set(self._tracer)
            try:
                await self.app(scope, receive, answer)
            finally:
                # As it was declared; None where a path leads nowhere.
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.update_name(f"{scope['method']} {route}")
                    span.set_attribute("http.route", route)
