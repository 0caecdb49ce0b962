import asyncio
import os
import sys
import threading
from importlib.metadata import version
from itertools import pairwise

import httpx
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.service.live import Watched, ask
from tritserve.service.observing import tracing

BODY = {"sequences": [[[0.125] * 3] * 2, [[0.25] * 3]]}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
STAGES = ["decode", "queue", "compute", "encode"]


@pytest.fixture
def traces():
    provider = TracerProvider()
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.spans = exporter.get_finished_spans
    return provider


def test_stages_lie_one_after_another_under_the_server_span(engine, traces):
    gate = threading.Event()

    async def talk(client):
        first = asyncio.create_task(client.post("/embed", json=BODY))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(client.post("/embed", json=BODY, headers=TRACEPARENT))
        await asyncio.sleep(0.1)
        gate.set()
        await first
        return await second

    answer = ask(Watched(engine, lambda *_: gate.wait(10)), talk, traces=traces)
    spans = [span for span in traces.spans() if span.context.trace_id == int(TRACE, 16)]
    assert sorted(span.name for span in spans) == sorted([*STAGES, "POST /embed"])
    by_name = {span.name: span for span in spans}
    server = by_name["POST /embed"]
    assert server.kind == SpanKind.SERVER
    assert server.parent.span_id == int(PARENT, 16)
    assert server.attributes["http.route"] == "/embed"
    assert server.attributes["http.response.status_code"] == 200
    assert server.status.status_code == StatusCode.UNSET
    for earlier, later in pairwise(STAGES):
        assert by_name[earlier].end_time <= by_name[later].start_time + 1_000_000
    for name in STAGES:
        assert by_name[name].parent.span_id == server.context.span_id
        assert server.start_time <= by_name[name].start_time <= by_name[name].end_time
    # It waited behind the first one.
    assert by_name["queue"].end_time - by_name["queue"].start_time > 50e6
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{server.context.span_id:016x}-01"
    assert "0.125" not in "".join(span.to_json() for span in spans)


def test_a_broken_traceparent_begins_a_new_trace(engine, traces):
    async def talk(client):
        return await client.post("/embed", json=BODY, headers={"traceparent": "00-xyz"})

    answer = ask(engine, talk, traces=traces)
    server = traces.spans()[-1]
    assert server.parent is None
    assert f"{server.context.trace_id:032x}" in answer.headers["traceresponse"]


def test_errors_are_spans_and_probes_are_not(engine, traces):
    def before(*_):
        raise OSError("disk on fire")

    async def talk(client):
        for path in ("/health/live", "/health/ready", "/metrics"):
            await client.get(path)
        assert traces.spans() == ()
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/embed", json=BODY)).status_code == 503

    ask(Watched(engine, before), talk, traces=traces)
    missing, *_, failed = traces.spans()
    assert missing.name == "GET"
    assert missing.status.status_code == StatusCode.UNSET
    assert failed.name == "POST /embed"
    assert failed.status.status_code == StatusCode.ERROR


def test_requests_at_once_keep_their_spans_apart(engine, traces):
    async def talk(client):
        body = {"sequences": np.zeros((3, 2, 3)).tolist()}
        await asyncio.gather(*(client.post("/embed", json=body) for _ in range(10)))

    ask(engine, talk, traces=traces)
    by_trace = {}
    for span in traces.spans():
        by_trace.setdefault(span.context.trace_id, []).append(span.name)
    assert len(by_trace) == 10
    assert all(sorted(names) == sorted([*STAGES, "POST /embed"]) for names in by_trace.values())


@pytest.fixture
def started(monkeypatch, caplog):
    """Starts tracing in an environment; the provider, and what was warned of."""
    made = []

    def start(**variables):
        caplog.clear()
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("OTEL_")]:
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(f"OTEL_{name}", value)
            made.append(tracing.start())
        return made[-1], caplog.text

    yield start
    for provider in filter(None, made):
        provider.shutdown()


ENDPOINT = {"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"EXPORTER_OTLP_ENDPOINT": ""},
        ENDPOINT | {"SDK_DISABLED": "true"},
        ENDPOINT | {"SDK_DISABLED": "True"},
        ENDPOINT | {"TRACES_EXPORTER": "none"},
        ENDPOINT | {"TRACES_EXPORTER": "none", "EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"TRACES_EXPORTER": "none"},
    ],
)
def test_tracing_is_off_in_silence_where_nobody_asks_for_it(started, monkeypatch, variables):
    # Nor is anything imported.
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    assert started(**variables) == (None, "")


@pytest.mark.parametrize(
    "variables",
    [
        ENDPOINT,
        {"EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"},
        ENDPOINT | {"TRACES_EXPORTER": "otlp"},
        ENDPOINT | {"EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        ENDPOINT
        | {"EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "EXPORTER_OTLP_PROTOCOL": "grpc"},
        # At the address that the standard gives it.
        {"TRACES_EXPORTER": "otlp"},
    ],
)
def test_tracing_is_on_where_it_is_asked_for(started, variables):
    provider, warned = started(**variables)
    assert provider
    assert warned == ""


@pytest.mark.parametrize(
    ("variables", "warning"),
    [
        ({"EXPORTER_OTLP_PROTOCOL": "grpc"}, "by http/protobuf, not by grpc"),
        ({"TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER names zipkin"),
        ({"BSP_MAX_QUEUE_SIZE": "0"}, "max_queue_size must be a positive integer"),
        ({"SPAN_ATTRIBUTE_COUNT_LIMIT": "-5"}, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be"),
    ],
)
def test_traces_that_cannot_be_had_are_a_warning(started, variables, warning):
    provider, warned = started(**ENDPOINT, **variables)
    assert provider is None
    assert warning in warned


def test_tracing_without_its_packages_is_a_warning_that_says_what_helps(started, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    provider, warned = started(**ENDPOINT)
    assert provider is None
    assert "install tritserve with its extra 'tracing'" in warned
    assert "OTEL_TRACES_EXPORTER=none" in warned


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "tritserve"),
        ({"RESOURCE_ATTRIBUTES": "service.name=speakers"}, "speakers"),
        ({"RESOURCE_ATTRIBUTES": "service.name=speakers", "SERVICE_NAME": "vowels"}, "vowels"),
    ],
)
def test_spans_name_the_service_as_the_environment_does(started, variables, name):
    provider, _ = started(**ENDPOINT, **variables)
    assert provider.resource.attributes["service.name"] == name
    assert provider.resource.attributes["service.version"] == version("tritserve")


def test_without_tracing_an_answer_names_no_span(engine):
    async def talk(client):
        answer = await client.post("/embed", json=BODY, headers=TRACEPARENT)
        assert "traceresponse" not in answer.headers

    ask(engine, talk)


def test_an_answer_is_the_same_with_tracing(engine, traces):
    async def talk(client: httpx.AsyncClient):
        return (await client.post("/embed", json=BODY)).json()["embeddings"]

    assert ask(engine, talk, traces=traces) == ask(engine, talk)
