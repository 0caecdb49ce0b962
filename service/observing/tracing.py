"""OpenTelemetry traces: a server span for each request, and one for each stage under it.

    POST /embed, or a gRPC ModelInfer: decode -> queue -> compute -> encode

Off unless OTEL_EXPORTER_OTLP_ENDPOINT says where spans go, or OTEL_TRACES_EXPORTER is `otlp`; all
OTEL_ variables of the SDK mean what they mean. They are often set for every process of a cluster,
so that none of them keeps the service from starting: what cannot be had is a warning.
A caller's W3C `traceparent` is the parent, unless OTEL_PROPAGATORS names another way; the answer's
`traceresponse` names the server span, and the log lines have the `trace_id`. The packages come with
the extra `tracing`; nothing of them is imported while tracing is off.
"""

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tritserve.service.observing.notes import note
from tritserve.service.paths import is_polled

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, StatusCode, Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROPAGATORS = "OTEL_PROPAGATORS"
# `otlp`, and the SDK's own name of it over HTTP.
EXPORTERS = {"otlp", "otlp_proto_http"}
HTTP = "http/protobuf"
FLUSH_SECONDS = 2.0

_tracer: ContextVar["Tracer | None"] = ContextVar("tracer", default=None)
_nothing = nullcontext()

log = logging.getLogger("tritserve")


def pass_over_unknown_propagators() -> None:
    """Takes out of OTEL_PROPAGATORS what is not installed; the log warns of it.

    FastAPI imports OpenTelemetry's API, tracing or not, and that import fails of such a name: so
    this comes before it.
    """
    given = [name.strip() for name in os.environ.get(PROPAGATORS, "").split(",") if name.strip()]
    known = [
        name
        for name in given
        if name.lower() == "none" or entry_points(group="opentelemetry_propagator", name=name)
    ]
    if known == given:
        return
    missing = ", ".join(name for name in given if name not in known)
    log.warning("%s names %s, which is not installed and is passed over", PROPAGATORS, missing)
    os.environ[PROPAGATORS] = ",".join(known)


def start() -> "TracerProvider | None":
    """Where spans go as the environment says; None if tracing is off, or cannot be had.

    The log warns of what is asked for and cannot be had.
    """
    if not _asked_for():
        return None
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), HTTP)
    if protocol.strip() != HTTP:
        log.warning("no traces: they are sent by %s, not by %s as OTEL_ asks", HTTP, protocol)
        return None
    try:
        return _make_provider()
    except ModuleNotFoundError as error:
        log.warning(
            "no traces: OTEL_ asks for them, but %s is missing; install tritserve with its extra "
            "'tracing', or set OTEL_TRACES_EXPORTER=none",
            error.name,
        )
    except Exception as error:
        # The SDK refuses some values in errors of many kinds.
        log.warning("no traces: an OTEL_ variable cannot be used: %s", error)
    return None


def _asked_for() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = {name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",")}
    exporters.discard("")
    if not exporters:
        return any(os.environ.get(name) for name in ENDPOINTS)
    if others := sorted(exporters - EXPORTERS - {"none"}):
        log.warning("OTEL_TRACES_EXPORTER names %s; traces go by otlp only", ", ".join(others))
    return not exporters.isdisjoint(EXPORTERS) and "none" not in exporters


def _make_provider() -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    about = {"service.name": "tritserve", "service.version": version("tritserve")}
    # What the environment says of the service comes before what it says of itself.
    resource = Resource.create({**about, **OTELResourceDetector().detect().attributes})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
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
        from opentelemetry.propagate import get_global_textmap  # noqa: PLC0415

        self._tracer = provider.get_tracer("tritserve")
        self._parent = get_global_textmap()
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
