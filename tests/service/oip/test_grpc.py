import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from tests.builders import ROOT, random_batch
from tests.service.live import Watched
from tritserve.service.app import create_app
from tritserve.service.errors import ServiceError
from tritserve.service.forms.wire import Limits
from tritserve.service.observing.notes import add_noted
from tritserve.service.oip.grpc import messages
from tritserve.service.oip.grpc.form import GrpcForm
from tritserve.service.settings import Settings

BATCH = random_batch([1, 9, 4], 3)
LIMITS = Limits(embed_dim=3, max_timesteps=9, max_sequences=50, max_request_timesteps=1000)
Code = grpc.StatusCode


def raw_request(batch=BATCH, **fields):
    request = messages.ModelInferRequest(model_name="random", **fields)
    request.inputs.add(name="values", datatype="FP32", shape=batch.values.shape)
    request.inputs.add(name="lengths", datatype="INT64", shape=[len(batch)])
    request.raw_input_contents.extend([batch.values.tobytes(), batch.lengths.tobytes()])
    return request


def typed_request(batch=BATCH):
    request = messages.ModelInferRequest(model_name="random")
    values = request.inputs.add(name="values", datatype="FP32", shape=batch.values.shape)
    values.contents.fp32_contents.extend(batch.values.ravel())
    lengths = request.inputs.add(name="lengths", datatype="INT32", shape=[len(batch)])
    lengths.contents.int_contents.extend(batch.lengths)
    return request


class Caller:
    """The methods of the service on one channel; bytes are passed as they are."""

    def __init__(self, channel):
        self.channel = channel

    def __call__(self, method, request=b"", **options):
        answer = {m.name: m.output_type for m in messages.SERVICE.methods}[method]
        call = self.channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            request_serializer=lambda r: r if isinstance(r, bytes) else r.SerializeToString(),
            response_deserializer=messages.GetMessageClass(answer).FromString,
        )
        return call(request, **options)


@asynccontextmanager
async def calling(engine, traces=None, **options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = create_app(Settings(grpc_port=port, **options), engine, traces)
    async with (
        app.router.lifespan_context(app),
        grpc.aio.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]
        ) as channel,
    ):
        yield Caller(channel), app


def ask(engine, talk, **options):
    async def main():
        async with calling(engine, **options) as (call, app):
            return await talk(call, app)

    return asyncio.run(main())


async def refusal(call, *arguments, **options):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(*arguments, **options)
    return caught.value


def metric(app, series):
    lines = generate_latest(app.state.service.metrics.registry).decode().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{series} ")]
    return float(line.rsplit(" ", 1)[1])


def rows(response, index=0, dtype=np.float32):
    return np.frombuffer(response.raw_output_contents[index], dtype)


def test_raw_and_typed_contents_give_what_the_engine_gives(engine):
    expected = engine.embed(BATCH.values, BATCH.lengths)

    async def talk(call, app):
        for request in (raw_request(id="7"), typed_request()):
            response = await call("ModelInfer", request)
            assert (response.model_name, response.model_version) == ("random", "1")
            assert response.id == request.id
            (output,) = response.outputs
            assert (output.name, output.datatype) == ("embeddings", "FP32")
            assert list(output.shape) == [3, 16]
            assert rows(response).tobytes() == expected.tobytes()
        assert metric(app, 'tritserve_requests_total{route="grpc/ModelInfer",status="200"}')
        assert metric(app, "tritserve_timesteps_total") == 2 * 14

    ask(engine, talk)


def test_calls_are_traced_with_their_stages(engine):
    traces, spans = TracerProvider(), InMemorySpanExporter()
    traces.add_span_processor(SimpleSpanProcessor(spans))
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

    async def talk(call, _):
        running = call(
            "ModelInfer", raw_request(), metadata=[("traceparent", f"00-{trace}-{parent}-01")]
        )
        await running
        wrong = raw_request()
        wrong.model_name = "other"
        await refusal(call, "ModelInfer", wrong)
        await call("ServerLive", b"")
        return dict(await running.trailing_metadata())

    trailing = ask(engine, talk, traces=traces)
    *stages, server, failed_decode, failed = spans.get_finished_spans()
    assert sorted(span.name for span in stages) == ["compute", "decode", "encode", "queue"]
    assert all(span.parent.span_id == server.context.span_id for span in stages)
    assert server.name == "inference.GRPCInferenceService/ModelInfer"
    assert server.kind == SpanKind.SERVER
    assert server.parent.span_id == int(parent, 16)
    assert server.attributes["rpc.grpc.status_code"] == 0
    assert trailing["traceresponse"] == f"00-{trace}-{server.context.span_id:016x}-01"
    assert failed_decode.parent.span_id == failed.context.span_id
    assert failed.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]


def test_refused_calls_leave_nothing_behind(engine):
    wrong = raw_request()
    wrong.raw_input_contents[0] += bytes(3 * 2**20)

    async def talk(call, _):
        await refusal(call, "ModelInfer", wrong)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(5):
                assert "does not have" in (await refusal(call, "ModelInfer", wrong)).details()
            # The last answer may be here before its call has ended over there.
            await asyncio.sleep(0.2)
            assert tracemalloc.get_traced_memory()[0] < 2**20
        finally:
            tracemalloc.stop()
            gc.enable()

    ask(engine, talk)


@asynccontextmanager
async def silent_streams(app, count, method="ModelInfer"):
    """Open calls that send no message, all on one connection of their own."""
    address = f"127.0.0.1:{app.state.service.settings.grpc_port}"
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        stream = channel.stream_unary(f"/inference.GRPCInferenceService/{method}")
        yield [stream() for _ in range(count)]


def test_streams_that_send_nothing_do_not_keep_others_out(engine):
    async def talk(call, app):
        # Health looks at no message.
        async with silent_streams(app, 1, "ServerReady") as (stream,):
            assert await asyncio.wait_for(stream, 20) == b"\x08\x01"
        # Room for 16 messages at once.
        async with silent_streams(app, 20):
            while app.state.service.served.users < 20:
                await asyncio.sleep(0.01)
            assert (await call("ServerReady")).ready
            assert (await call("ModelInfer", raw_request(), timeout=20)).outputs

    ask(engine, talk, max_bodies_bytes=2**20, grpc_message_bytes=2**16, body_seconds=120)


def test_a_call_whose_turn_does_not_come_is_told_so(engine):
    async def talk(_, app):
        async with silent_streams(app, 6) as streams:
            errors = await asyncio.gather(*streams, return_exceptions=True)
        details = [error.details() for error in errors]
        # The second may get its turn in the very moment in which it gives up.
        assert details.count("the message was not there after 1 seconds") in {1, 2}
        refused = [error for error in errors if error.code() == Code.RESOURCE_EXHAUSTED]
        assert len(refused) >= 4
        assert "other messages" in refused[0].details()
        assert dict(refused[0].trailing_metadata())["retry-after"] == "1"

    ask(engine, talk, grpc_message_bytes=2**20, max_bodies_bytes=2**20, body_seconds=1)


def test_a_full_service_answers_health_and_tells_others(engine, caplog):
    async def talk(call, app):
        infer = call.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        held = [infer() for _ in range(3)]
        await asyncio.sleep(0.1)
        for _ in range(20):
            assert (await call("ServerLive")).live
            assert (await call("ServerReady")).ready
            assert await call.channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        for method in ("ModelInfer", "ServerMetadata"):
            error = await refusal(call, method)
            assert error.code() == Code.UNAVAILABLE
            assert error.details() == "3 calls are open; there are no more"
            assert dict(error.trailing_metadata())["retry-after"] == "1"
        assert metric(app, 'tritserve_refused_connections_total{reason="too_many"}') == 2
        assert metric(app, 'tritserve_requests_total{route="grpc/ModelInfer",status="503"}') == 1
        held.pop().cancel()
        await asyncio.sleep(0.1)
        assert (await call("ModelInfer", raw_request())).outputs
        for stream in held:
            stream.cancel()

    with caplog.at_level("INFO", "tritserve.access"), capture_logs([add_noted]) as lines:
        ask(engine, talk, max_connections=3)
    assert [line["status"] for line in lines].count(503) == 2


def test_connections_are_bounded_and_not_only_calls(engine, monkeypatch):
    monkeypatch.setattr("tritserve.service.oip.grpc.server.SPARE_CALLS", 1)

    async def talk(call, app):
        address = f"127.0.0.1:{app.state.service.settings.grpc_port}"

        async def held():
            connection = await asyncio.open_connection(*address.split(":"))
            stack.push_async_callback(close, connection[1])
            connection[1].write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
            return await connection[0].read(9)

        async def close(writer):
            writer.close()
            await writer.wait_closed()

        async with AsyncExitStack() as stack:
            greetings = [await asyncio.wait_for(held(), 10) for _ in range(4)]
        # Three are greeted by the server's own settings.
        assert [bool(greeting) for greeting in greetings] == [True, True, True, False]

    ask(engine, talk, max_connections=2)


def test_the_line_of_a_refused_call_says_why(engine, caplog):
    async def talk(call, _):
        await refusal(call, "ModelInfer", b"\xff")
        await call("ModelInfer", raw_request())

    with caplog.at_level("INFO", "tritserve.access"), capture_logs([add_noted]) as lines:
        ask(engine, talk)
    assert [line.get("error") for line in lines] == ["unparseable", None]


def test_the_line_of_a_refused_call_says_which_field(engine, caplog):
    unknown, misshapen = raw_request(), raw_request()
    unknown.parameters["colour"].string_param = "hush"
    misshapen.inputs[1].shape[:] = [2]

    async def talk(call, _):
        await refusal(call, "ModelInfer", unknown)
        await refusal(call, "ModelInfer", misshapen)

    with caplog.at_level("INFO", "tritserve.access"), capture_logs([add_noted]) as lines:
        ask(engine, talk)
    assert [line["field"] for line in lines] == ["colour", "inputs.lengths"]


def test_the_line_of_a_method_that_is_not_there_names_it_in_short(engine, caplog):
    async def talk(call, _):
        for path in ("/inference.GRPCInferenceService/ModelLoad", f"/x/\u202e{'y' * 5000}"):
            await refusal(call.channel.unary_unary(path), b"")

    with caplog.at_level("INFO", "tritserve.access"), capture_logs([add_noted]) as lines:
        ask(engine, talk)
    assert [(line["error"], line["status"]) for line in lines] == [("unknown_method", 501)] * 2
    assert lines[0]["path"] == "/inference.GRPCInferenceService/ModelLoad"
    assert lines[1]["path"].startswith("/x/\\u202eyyy")
    assert len(lines[1]["path"]) < 220


def test_messages_have_a_limit_of_their_own(engine):
    async def talk(call, _):
        name = messages.ModelMetadataRequest(name="x" * 4500)
        assert "at most 4096" in (await refusal(call, "ModelMetadata", name)).details()
        name = messages.ModelMetadataRequest(name="\N{GRINNING FACE}" * 1000)
        error = await refusal(call, "ModelReady", name)
        assert error.code() == grpc.StatusCode.NOT_FOUND
        large = raw_request()
        large.raw_input_contents[0] += bytes(6000)
        error = await refusal(call, "ModelInfer", large)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    ask(engine, talk, grpc_message_bytes=5500)


def test_options_outputs_and_dense_batches(engine):
    async def talk(call, _):
        request = messages.ModelInferRequest(model_name="random", model_version="1")
        dense = random_batch([12, 12], 3).values.astype(np.float16)
        request.inputs.add(name="values", datatype="FP16", shape=[2, 12, 3])
        request.raw_input_contents.append(dense.tobytes())
        request.parameters["normalize"].bool_param = True
        request.parameters["precision"].string_param = "int8"
        request.parameters["overlong"].string_param = "keep_last"
        request.outputs.add(name="scales")
        request.outputs.add(name="embeddings")
        response = await call("ModelInfer", request)
        assert [(o.name, o.datatype) for o in response.outputs] == [
            ("scales", "FP32"),
            ("embeddings", "INT8"),
        ]
        numbers = rows(response, 1, np.int8).reshape(2, 16) * rows(response, 0)[:, None]
        np.testing.assert_allclose(np.linalg.norm(numbers, axis=1), 1, atol=0.01)
        assert response.parameters["truncated"].int64_param == 2

    ask(engine, talk)


def test_metadata_and_health(engine):
    async def talk(call, app):
        assert (await call("ServerLive")).live
        assert (await call("ServerReady")).ready
        name = messages.ModelReadyRequest(name="random")
        assert (await call("ModelReady", name)).ready
        assert (await call("ServerMetadata")).name == "tritserve"
        request = messages.ModelMetadataRequest(name="random", version="1")
        metadata = await call("ModelMetadata", request)
        assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [
            ("values", "FP32", [-1, 3]),
            ("lengths", "INT64", [-1]),
        ]
        for method, fields in [
            ("ModelReady", {"name": "other"}),
            ("ModelMetadata", {"name": "random", "version": "2"}),
        ]:
            request = messages.ModelMetadataRequest(**fields)
            assert (await refusal(call, method, request)).code() == Code.NOT_FOUND
        app.state.service.draining = True
        assert not (await call("ServerReady")).ready
        assert not (await call("ModelReady", name)).ready
        app.state.service._refusing = True
        assert (await refusal(call, "ModelInfer", raw_request())).code() == Code.UNAVAILABLE
        app.state.service.draining = False

    ask(engine, talk)


def test_hints_do_not_change_the_answer(engine):
    expected = engine.embed(BATCH.values, BATCH.lengths)
    size = BATCH.values.nbytes

    async def talk(call, _):
        request = hinted("request", timeout=60_000_000, content_type="np", binary_data_output=True)
        request.parameters["priority"].uint64_param = 7
        hinted("values", request, binary_data_size=size, content_type="np")
        hinted("output", request, binary_data=True, content_type="np")
        for asked in (request, hinted("request", timeout=0, binary_data_output=False)):
            assert rows(await call("ModelInfer", asked)).tobytes() == expected.tobytes()

    ask(engine, talk)


def test_configuration_statistics_and_index(engine):
    async def talk(call, app):
        name = messages.ModelConfigRequest(name="random", version="1")
        config = (await call("ModelConfig", name)).config
        assert (config.name, config.max_batch_size) == ("random", 0)
        assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
            ("values", 11, [-1, 3]),
            ("lengths", 9, [-1]),
        ]
        assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
            ("embeddings", 11, [-1, 16])
        ]
        await call("ModelInfer", raw_request())
        for asked in (messages.ModelStatisticsRequest(name="random"), b""):
            (model,) = (await call("ModelStatistics", asked)).model_stats
            assert (model.name, model.inference_count, model.execution_count) == ("random", 3, 1)
            durations = model.inference_stats
            assert durations.success.count == durations.compute_infer.count == 1
            assert durations.success.ns > durations.compute_infer.ns > 0
        for method, request in [
            ("ModelConfig", messages.ModelConfigRequest(name="other")),
            ("ModelStatistics", messages.ModelStatisticsRequest(name="random", version="2")),
        ]:
            assert (await refusal(call, method, request)).code() == Code.NOT_FOUND
        (model,) = (await call("RepositoryIndex")).models
        assert (model.name, model.version, model.state) == ("random", "1", "READY")
        request = messages.RepositoryIndexRequest(repository_name="x")
        error = await refusal(call, "RepositoryIndex", request)
        assert "there is no repository 'x'" in error.details()
        app.state.service.draining = True
        (model,) = (await call("RepositoryIndex")).models
        assert (model.state, model.reason) == ("UNAVAILABLE", "the service is stopping")
        request = messages.RepositoryIndexRequest(ready=True)
        assert not (await call("RepositoryIndex", request)).models
        app.state.service.draining = False

    ask(engine, talk)


@pytest.mark.parametrize(
    "path",
    [
        "/inference.GRPCInferenceService/ModelStreamInfer",
        "/inference.GRPCInferenceService/RepositoryModelLoad",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_a_method_that_is_not_there_says_what_is(engine, path):
    async def talk(call, app):
        error = await refusal(call.channel.unary_unary(path), b"\x0a\x01x")
        assert error.code() == Code.UNIMPLEMENTED
        assert f"there is no method {path}; there are, of inference." in error.details()
        for method in messages.SERVICE.methods:
            assert method.name in error.details()
        assert metric(app, 'tritserve_requests_total{route="grpc/other",status="501"}') == 1

    ask(engine, talk)


def test_grpcs_own_health_protocol_says_whether_it_is_ready(engine):
    async def talk(call, app):
        check = call.channel.unary_unary("/grpc.health.v1.Health/Check")
        serving, not_serving = b"\x08\x01", b"\x08\x02"
        # One service is served, so it does not matter for which one is asked.
        for request in (b"", b"\x0a\x1dinference.GRPCInferenceService"):
            assert await check(request) == serving
        app.state.service.draining = True
        assert await check(b"") == not_serving
        app.state.service.draining = False
        assert metric(app, 'tritserve_requests_total{route="grpc/Check",status="200"}') == 3

    ask(engine, talk, api_keys="secret-key")


def changed(**fields):
    request = raw_request()
    for path, value in fields.items():
        if path == "values":
            for name, inner in value.items():
                if name == "shape":
                    request.inputs[0].shape[:] = inner
                else:
                    setattr(request.inputs[0], name, inner)
        elif path == "raw":
            request.raw_input_contents[:] = value
        elif path == "parameter":
            request.parameters[value[0]].string_param = value[1]
        else:
            setattr(request, path, value)
    return request


def with_nan():
    values = BATCH.values.copy()
    values[4, 1] = np.nan
    return changed(raw=[values.tobytes(), BATCH.lengths.tobytes()])


EMPTY_BATCH = "the batch is empty: input 'values' has shape [0, 5, 3]; a batch needs at least one"


def emptied():
    request = messages.ModelInferRequest(model_name="random")
    request.inputs.add(name="values", datatype="FP32", shape=[0, 5, 3])
    return request


def hinted(where, request=None, **parameters):
    """A request with parameters of its own, of its input `values`, or of an output."""
    request = request or raw_request()
    if where == "output" and not request.outputs:
        request.outputs.add(name="embeddings")
    part = {"request": [request], "values": request.inputs, "output": request.outputs}[where][0]
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(part.parameters[name], kind, value)
    return request


def edited(edit, request=None):
    request = request or raw_request()
    edit(request)
    return request


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (b"\xff", Code.INVALID_ARGUMENT, "not a ModelInferRequest"),
        (changed(model_name="x"), Code.NOT_FOUND, "no model 'x'"),
        (changed(model_version="2"), Code.NOT_FOUND, "no version '2'"),
        (with_nan(), Code.INVALID_ARGUMENT, "sequence 1, timestep 3, feature 1 is nan"),
        (changed(values={"name": "x"}), Code.INVALID_ARGUMENT, "no input 'x'"),
        (changed(values={"name": "lengths"}), Code.INVALID_ARGUMENT, "given twice"),
        (changed(values={"datatype": "BYTES"}), Code.INVALID_ARGUMENT, "one of FP16"),
        (changed(values={"shape": []}), Code.INVALID_ARGUMENT, "0 axes"),
        (changed(values={"shape": [14, 4]}), Code.INVALID_ARGUMENT, "does not have 168 bytes"),
        (changed(values={"shape": [2**62, 12]}), Code.INVALID_ARGUMENT, "does not have"),
        (changed(values={"shape": [0, 5, 3]}, raw=[b"", b""]), Code.INVALID_ARGUMENT, EMPTY_BATCH),
        (emptied(), Code.INVALID_ARGUMENT, EMPTY_BATCH),
        (changed(values={"shape": [-1, 3]}), Code.INVALID_ARGUMENT, "sizes must be 1 or more"),
        (hinted("values", content_type="pd"), Code.INVALID_ARGUMENT, "Input should be 'np'"),
        (
            hinted("values", binary_data_size=4),
            Code.INVALID_ARGUMENT,
            "has binary_data_size 4; its",
        ),
        (hinted("request", sequence_id=1), Code.INVALID_ARGUMENT, "no state is kept"),
        (hinted("request", timeout="1"), Code.INVALID_ARGUMENT, "timeout: Input should be a valid"),
        (hinted("request", timeout=1), Code.DEADLINE_EXCEEDED, "time limit passed"),
        (hinted("output", classification=2), Code.INVALID_ARGUMENT, "nothing is classified"),
        (changed(raw=[b""]), Code.INVALID_ARGUMENT, "1 raw_input_contents for 2 inputs"),
        (changed(raw=[b"", b""]), Code.INVALID_ARGUMENT, "does not have 0 bytes"),
        (changed(parameter=("speed", "1")), Code.INVALID_ARGUMENT, "speed"),
        (changed(model_name="x" * 100_000), Code.NOT_FOUND, "no model 'xxx"),
        (edited(lambda r: r.inputs.add(name="x")), Code.INVALID_ARGUMENT, "3 inputs; at most 2"),
        (changed(parameter=("normalize", "true")), Code.INVALID_ARGUMENT, "normalize"),
        (edited(lambda r: r.parameters["normalize"]), Code.INVALID_ARGUMENT, "has no value"),
        (edited(lambda r: r.outputs.add(name="x")), Code.INVALID_ARGUMENT, "no output 'x'"),
        (
            edited(lambda r: r.inputs[0].contents.fp32_contents.append(1)),
            Code.INVALID_ARGUMENT,
            "beside raw_input_contents",
        ),
        (
            edited(lambda r: r.inputs[0].contents.bytes_contents.append(b"1"), typed_request()),
            Code.INVALID_ARGUMENT,
            "goes in fp32_contents, not in bytes_contents",
        ),
        (
            edited(lambda r: r.inputs[0].contents.fp32_contents.append(1), typed_request()),
            Code.INVALID_ARGUMENT,
            "does not have 43 numbers",
        ),
        (
            edited(lambda r: r.inputs[0].parameters["x"], typed_request()),
            Code.INVALID_ARGUMENT,
            "parameters of input 'values': 'x' has no value",
        ),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_so(engine, request_, code, message):
    async def talk(call, _):
        error = await refusal(call, "ModelInfer", request_)
        assert error.code() == code
        assert message in error.details()

    ask(engine, talk)


def part(field, content=b""):
    """A part of a message: its tag, its size in three bytes, and what is in it."""
    size = len(content)
    tag = field << 3 | 2
    return bytes([tag, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + content


@pytest.mark.parametrize(
    "parts",
    [
        *(part(field) * 500_000 for field in (4, 5, 6, 7)),
        part(5, part(5)) * 500_000,
        # The parameters of an input, and of an output.
        part(5, part(4) * 500_000),
        part(6, part(2) * 500_000),
        # A longer way to write a tag.
        b"\xaa\x80\x00\x00" * 500_000,
    ],
    ids=["parameters", "inputs", "outputs", "raw", "contents", "input", "output", "longer tag"],
)
def test_very_many_parts_are_refused_before_they_are_parsed(engine, parts):
    async def talk(call, _):
        error = await refusal(call, "ModelInfer", part(1, b"random") + parts)
        assert error.code() == Code.INVALID_ARGUMENT
        assert "more than 64 parts" in error.details()

    ask(engine, talk)


def test_keys_are_asked_for_before_the_message_is_read(engine):
    async def talk(call, app):
        assert (await call("ServerLive")).live
        assert (await call("ServerReady")).ready
        silent = call.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await silent
        assert caught.value.code() == Code.UNAUTHENTICATED
        wrong = (("authorization", "Bearer other-key"),)
        for method in ("ModelReady", "ModelMetadata", "ServerMetadata", "ModelInfer"):
            for metadata in ((), wrong):
                error = await refusal(call, method, metadata=metadata)
                assert error.code() == Code.UNAUTHENTICATED
        right = (("authorization", "Bearer secret-key"),)
        assert (await call("ModelInfer", raw_request(), metadata=right)).outputs
        series = 'tritserve_requests_total{route="grpc/ModelInfer",status="401"}'
        assert metric(app, series) == 3

    ask(engine, talk, api_keys="secret-key")


@pytest.mark.parametrize("limit", [{"queue_timesteps": 20}, {"max_bodies_bytes": 400}])
def test_a_full_service_says_when_to_come_back(engine, limit):
    held = threading.Event()

    async def talk(call, app):
        first = asyncio.ensure_future(call("ModelInfer", raw_request()))
        while not app.state.service.served.batcher.admitted_requests:
            await asyncio.sleep(0.001)
        error = await refusal(call, "ModelInfer", raw_request())
        assert error.code() == Code.RESOURCE_EXHAUSTED
        assert int(dict(error.trailing_metadata())["retry-after"]) >= 1
        held.set()
        assert (await first).outputs
        assert metric(app, "tritserve_rejected_total") == 1

    ask(Watched(engine, lambda *_: held.wait(5)), talk, **limit)


def note_deadlines(service):
    """The list to which the deadline of every call is added, as the service is told it."""
    deadlines, embed = [], service.embed

    async def noting(body, form, accepted, received, deadline):
        deadlines.append(deadline)
        return await embed(body, form, accepted, received, deadline)

    service.embed = noting
    return deadlines


@pytest.mark.parametrize("leave", ["cancel", "deadline"])
def test_who_leaves_or_is_late_frees_the_place(engine, leave):
    held, computed = threading.Event(), []

    def before(values, _):
        computed.append(len(values))
        held.wait(5)

    async def talk(call, app):
        batcher = app.state.service.served.batcher
        deadlines = note_deadlines(app.state.service)
        first = asyncio.ensure_future(call("ModelInfer", raw_request()))
        while not computed:
            await asyncio.sleep(0.001)
        timeout = 0.2 if leave == "deadline" else None
        second = call("ModelInfer", raw_request(random_batch([5], 3)), timeout=timeout)
        while batcher.admitted_requests < 2:
            await asyncio.sleep(0.001)
        if leave == "cancel":
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second
            assert caught.value.code() == Code.DEADLINE_EXCEEDED
            assert abs(deadlines[1] - time.monotonic()) < 0.15
        assert deadlines[0] is None
        while batcher.admitted_requests > 1:
            await asyncio.sleep(0.001)
        held.set()
        await first
        assert batcher.admitted_timesteps == 0
        assert computed == [14]
        statuses = ("499", "504")
        series = 'tritserve_requests_total{{route="grpc/ModelInfer",status="{}"}}'
        left = [metric(app, series.format(status)) for status in statuses]
        assert sum(left) == 1
        if leave == "cancel":
            assert left[0] == 1

    ask(Watched(engine, before), talk)


@asynccontextmanager
async def answers_untaken(app, count):
    """Calls whose answers, of 20 kB each, have been computed, and are not read."""
    address = f"127.0.0.1:{app.state.service.settings.grpc_port}"
    options = [("grpc.http2.lookahead_bytes", 0), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        infer = channel.stream_stream("/inference.GRPCInferenceService/ModelInfer")
        request = raw_request(random_batch([1] * 300, 3)).SerializeToString()
        calls = []
        for _ in range(count):
            calls.append(infer())
            await calls[-1].write(request)
            await calls[-1].done_writing()
            while metric(app, "tritserve_timesteps_total") < 300 * len(calls):
                await asyncio.sleep(0.01)
        yield calls


def test_who_leaves_while_the_answer_is_on_its_way_is_no_error(engine, caplog):
    async def talk(_, app):
        async with answers_untaken(app, 10):
            # Until gRPC has begun to send.
            await asyncio.sleep(0.2)
        # The service sees a moment later that nobody is there.
        series = 'tritserve_requests_total{{route="grpc/ModelInfer",status="{}"}}'
        while sum(metric(app, series.format(status)) for status in (200, 499)) < 10:
            await asyncio.sleep(0.01)
        assert metric(app, series.format(499)) > 0

    ask(engine, talk)
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_answers_that_nobody_takes_share_the_memory_of_bodies(engine):
    async def talk(call, app):
        large = raw_request(random_batch([1] * 3000, 3))
        async with answers_untaken(app, 10) as calls:
            error = await refusal(call, "ModelInfer", large)
            assert error.code() == Code.RESOURCE_EXHAUSTED
            assert "other requests and answers hold" in error.details()
            for taken in calls:
                assert len(await taken.read()) > 300 * 16 * 4
                assert await taken.read() is grpc.aio.EOF
            # What is alone is never refused.
            assert (await call("ModelInfer", large)).outputs

    ask(engine, talk, max_bodies_bytes=550_000)


def test_a_bug_is_internal_and_keeps_to_itself(engine, caplog):
    def fail(*_):
        raise RuntimeError("secret detail")

    async def talk(call, app):
        app.state.service.embed = fail
        error = await refusal(call, "ModelInfer", raw_request())
        assert error.code() == Code.INTERNAL
        assert "secret" not in error.details()
        assert "secret detail" in caplog.text

    ask(engine, talk)


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_large_messages_are_refused(engine, compression):
    async def talk(call, _):
        error = await refusal(call, "ModelInfer", bytes(100_000_000), compression=compression)
        assert error.code() == Code.RESOURCE_EXHAUSTED
        assert (await call("ServerLive")).live

    ask(engine, talk, max_body_bytes=1000)


def test_a_message_that_does_not_come_is_given_up(engine):
    async def talk(call, _):
        stream = call.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream
        assert caught.value.code() == Code.DEADLINE_EXCEEDED
        assert "0.2 seconds" in caught.value.details()
        stream = call.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")()
        await stream.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream
        assert caught.value.code() == Code.INVALID_ARGUMENT

    ask(engine, talk, body_seconds=0.2)


@settings(max_examples=300)
@given(st.data())
def test_damaged_messages_are_read_or_refused(data):
    request = data.draw(st.sampled_from([raw_request(), typed_request()]))
    body = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = GrpcForm("random").decode(bytes(body), LIMITS)
    except ServiceError as error:
        assert error.status in {400, 404, 422}
    else:
        assert np.isfinite(decoded.sequences.values).all()


def test_a_statement_that_is_not_understood_is_an_error():
    with pytest.raises(ValueError, match="stream"):
        messages.parse("service S {\n  rpc A(stream B) returns (C) {}\n}")


def test_nothing_of_grpc_is_imported_unless_it_is_asked_for():
    code = (
        "import sys, tritserve.service.process.supervisor\n"
        "print(sorted({'grpc', 'google'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_a_call_has_an_id_and_a_log_line(engine, caplog):
    async def talk(call, _):
        pending = call("ModelInfer", raw_request(), metadata=(("x-request-id", "abc-1"),))
        await pending
        assert dict(await pending.trailing_metadata())["x-request-id"] == "abc-1"
        error = await refusal(call, "ModelInfer", b"\xff")
        assert len(dict(error.trailing_metadata())["x-request-id"]) == 32
        await call("ServerLive")

    with caplog.at_level("INFO", "tritserve.access"), capture_logs([add_noted]) as lines:
        ask(engine, talk)
    assert [(line["route"], line["status"]) for line in lines] == [
        ("grpc/ModelInfer", 200),
        ("grpc/ModelInfer", 400),
    ]
    assert lines[0]["request_id"] == "abc-1"
    assert (lines[0]["sequences"], lines[0]["timesteps"]) == (3, 14)
