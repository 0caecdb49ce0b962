import asyncio
import io
import json
import logging
import re
import sys
import warnings

import pytest
import structlog

from tests.service.live import Watched, ask
from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.observing import logs
from tritserve.service.settings import Settings

BODY = {"sequences": [[[0.125] * 3] * 2, [[0.25] * 3]]}
INPUT = {"name": "values", "datatype": "FP32", "shape": [1, 1, 3], "data": [0.625] * 3}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def configured(monkeypatch):
    """Configures logging as the process would; returns a function that reads the lines so far."""
    loggers = [logging.getLogger(name) for name in (None, "tritserve", "uvicorn")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    stream = io.TextIOWrapper(io.BytesIO(), write_through=True)

    def configure(**settings):
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure(Settings(**settings))
        return lambda: [json.loads(line) for line in configure.text().splitlines()]

    configure.text = lambda: stream.buffer.getvalue().decode()
    yield configure
    logging.captureWarnings(False)
    structlog.reset_defaults()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_a_request_is_one_line(engine, configured):
    lines = configured()

    async def talk(client):
        headers = {
            "X-Request-ID": "order-66",
            "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
            "Authorization": "Bearer hush-hush",
        }
        answer = await client.post("/embed", json=BODY, headers=headers)
        assert answer.headers["x-request-id"] == "order-66"
        await asyncio.sleep(0)
        (line,) = lines()
        assert line.pop("ms") > 0
        assert line.pop("timestamp").endswith("Z")
        assert line == {
            **{"event": "request", "level": "info", "method": "POST", "path": "/embed"},
            "route": "/embed",
            **{"status": 200, "sequences": 2, "timesteps": 3, "request_id": "order-66"},
            "trace_id": TRACE,
            "bytes_in": int(answer.request.headers["content-length"]),
            "bytes_out": len(answer.content),
        }
        assert "0.125" not in configured.text()

    ask(engine, talk, api_keys="hush-hush")
    assert "hush-hush" not in configured.text()


@pytest.mark.parametrize(
    "given", [None, "", "x" * 129, 'a"b', "a b", "a\tb", "<script>", "é".encode("latin-1")]
)
def test_a_request_id_that_is_missing_or_strange_is_replaced(engine, configured, given):
    lines = configured()

    async def talk(client):
        headers = {} if given is None else {"X-Request-ID": given}
        ids = [(await client.get("/info", headers=headers)).headers["x-request-id"] for _ in "12"]
        assert all(len(name) == 32 and name.isalnum() for name in ids)
        assert ids[0] != ids[1]
        await asyncio.sleep(0)
        assert [line["request_id"] for line in lines()] == ids

    ask(engine, talk)


@pytest.mark.parametrize(
    "traceparent", ["", "00-xyz", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{TRACE}-{'0' * 16}-01"]
)
def test_a_broken_traceparent_is_not_logged(engine, configured, traceparent):
    lines = configured()

    async def talk(client):
        await client.get("/info", headers={"traceparent": traceparent})
        await asyncio.sleep(0)
        assert "trace_id" not in lines()[0]

    ask(engine, talk)


@pytest.mark.parametrize(
    ("path", "sent", "status", "why"),
    [
        (
            "/embed",
            {"json": {"sequences": [[[0.625] * 2]]}},
            422,
            {"error": "invalid", "row": 0, "timestep": 0},
        ),
        (
            "/embed",
            {"json": {"sequences": [[[0.625] * 3], [[0.625] * 3, [0.625, 0.625, None]]]}},
            422,
            {"error": "invalid", "field": "sequences", "row": 1, "timestep": 1},
        ),
        (
            "/embed",
            {"json": BODY | {"normalise": "hush"}},
            422,
            {"error": "invalid", "field": "normalise"},
        ),
        # A name that is none may be anything, also what was to stay secret.
        ("/embed", {"json": BODY | {"hush hush\n": 1}}, 422, {"error": "invalid"}),
        (
            "/embed",
            {"json": BODY, "params": {"colour": "hush"}},
            422,
            {"error": "invalid", "field": "colour"},
        ),
        (
            "/embed",
            {"json": BODY, "params": {"normalize": "hush"}},
            422,
            {"error": "invalid", "field": "normalize"},
        ),
        ("/embed", {"json": BODY, "params": {"hush hush": "hush"}}, 422, {"error": "invalid"}),
        ("/embed", {"content": b"hush"}, 415, {"error": "unsupported_media_type"}),
        ("/embed", {"json": ["hush"]}, 422, {"error": "invalid", "field": "body"}),
        (
            "/embed",
            {"content": b"{hush", "headers": {"Content-Type": "application/json"}},
            400,
            {"error": "unparseable"},
        ),
        (
            "/embed",
            {"json": {"sequences": [[["hush"] * 300]]}},
            413,
            {"error": "body_too_large", "limit": 1000},
        ),
        (
            "/v2/models/random/infer",
            {"json": {"inputs": []}},
            422,
            {"error": "invalid", "field": "inputs"},
        ),
        (
            "/v2/models/random/infer",
            {"json": {"inputs": [INPUT], "parameters": {"precision": "hush"}}},
            422,
            {"error": "invalid", "field": "parameters.precision"},
        ),
        (
            "/v2/models/random/infer",
            {"json": {"inputs": [INPUT | {"shape": [2, 3]}]}},
            422,
            {"error": "invalid", "field": "inputs.values"},
        ),
        (
            "/v2/models/random/infer",
            {"json": {"inputs": [INPUT | {"data": ["hush"]}]}},
            422,
            {"error": "invalid", "field": "inputs.values"},
        ),
        (
            "/v2/repository/index",
            {"json": {"ready": "hush"}},
            422,
            {"error": "invalid", "field": "ready"},
        ),
        ("/v2/models/hush/infer", {"json": {}}, 404, {"error": "not_found"}),
        ("/info", {}, 405, {"error": "method_not_allowed"}),
        ("/nothing", {}, 404, {"error": "not_found"}),
    ],
)
def test_the_line_of_a_refused_request_says_why_but_not_what(
    engine, configured, path, sent, status, why
):
    lines = configured()

    async def talk(client):
        answer = await client.post(path, **sent)
        assert answer.status_code == status, answer.text
        await asyncio.sleep(0)
        (line,) = lines()
        told = {"error", "field", "row", "timestep", "limit"}
        assert {k: v for k, v in line.items() if k in told} == why

    ask(engine, talk, max_body_bytes=1000)
    text = configured.text().replace(path, "")
    assert "hush" not in text
    assert "0.625" not in text


def test_an_answered_request_has_no_error_in_its_line(engine, configured):
    lines = configured()

    async def talk(client):
        await client.post("/embed", content=b"")
        await client.post("/embed", json=BODY)
        await asyncio.sleep(0)
        assert ["error" in line for line in lines()] == [True, False]

    ask(engine, talk)


def test_refusals_are_lines_too(engine, configured):
    lines = configured()
    long = "/" + "x" * 1000

    async def talk(client):
        await client.post("/embed", json=BODY)
        headers = {"Authorization": "Bearer key"}
        await client.post("/embed", content=b"{", headers=headers)
        await client.get(long, headers=headers)
        await asyncio.sleep(0)
        got = [(line["status"], line["route"], line["path"]) for line in lines()]
        assert got == [
            (401, "/embed", "/embed"),
            (415, "/embed", "/embed"),
            (404, "other", long[:200]),
        ]

    ask(engine, talk, api_keys="key")


def test_every_line_of_a_request_carries_its_id(engine, configured, monkeypatch):
    lines = configured()

    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(EmbeddingService, "answer", broken)

    async def talk(client):
        await client.post("/embed", json=BODY, headers={"X-Request-ID": "one"})
        await asyncio.sleep(0)
        bug, access = lines()
        assert bug["request_id"] == access["request_id"] == "one"
        assert bug["level"] == "error"
        assert "ZeroDivisionError" in bug["exception"]
        assert access["status"] == 500

    ask(engine, talk)


def test_requests_at_once_keep_their_lines_apart(engine, configured):
    lines = configured()

    async def talk(client):
        def post(rows):
            body = {"sequences": [[[0.0] * 3]] * rows}
            return client.post("/embed", json=body, headers={"X-Request-ID": f"rows-{rows}"})

        await asyncio.gather(*(post(rows) for rows in range(1, 20)))
        for line in lines():
            assert line["request_id"] == f"rows-{line['sequences']}"
        assert len(lines()) == 19

    ask(Watched(engine, lambda *_: None), talk)


def test_probes_are_logged_at_debug_only(engine, configured):
    paths = ["/health/live", "/health/ready", "/metrics"]

    async def talk(client):
        for path in paths:
            await client.get(path)

    lines = configured()
    ask(engine, talk)
    assert lines() == []
    configured(log_level="DEBUG")
    ask(engine, talk)
    assert [(line["route"], line["level"]) for line in lines()] == [(p, "debug") for p in paths]


def test_the_level_can_be_raised(engine, configured):
    lines = configured(log_level="error")
    ask(engine, lambda client: client.get("/info"))
    logging.getLogger("httpx").warning("odd")
    assert lines() == []


def test_text_for_a_terminal_shows_no_local_variables(configured):
    configured(log_format="console")
    try:
        secret_local = "payload"  # noqa: F841
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("tritserve").exception("it broke")
    text = configured.text()
    assert "it broke" in text
    assert "ZeroDivisionError" in text
    assert "payload" not in text.replace('secret_local = "payload"', "")


def test_what_a_client_sends_moves_no_cursor(engine, configured):
    configured(log_format="console")
    ask(engine, lambda client: client.get("/x%1b[2J%1b]0;owned%07%c2%9b2J%0d%0a-%c3%a9"))
    (line,) = [line for line in configured.text().splitlines() if "owned" in line]
    assert not re.search("\x1b\\[2J|\x1b\\]0|\x07|\x9b", line)
    assert "é" in line


def test_a_librarys_warning_is_a_line_like_others(configured):
    lines = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure(Settings(log_format="json"))
        warnings.warn("odd", UserWarning, stacklevel=1)
    (line,) = [line for line in lines() if line["level"] == "warning"]
    assert "UserWarning: odd" in line["event"]


def test_loggers_of_others_take_the_same_form(configured):
    lines = configured()
    logging.getLogger("uvicorn.error").info("Started %d", 1, extra={"color_message": "x"})
    logging.getLogger("httpx").info("GET https://example.org")
    logging.getLogger("httpx").warning("odd")
    assert [(line["level"], line["event"]) for line in lines()] == [
        ("info", "Started 1"),
        ("warning", "odd"),
    ]
    assert set(lines()[0]) == {"event", "level", "timestamp"}
