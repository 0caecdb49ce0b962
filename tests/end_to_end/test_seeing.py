"""What an operator sees of a real server process."""

import gzip
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.builders import JAPANESE_VOWELS, random_packed
from tests.end_to_end.server import connect, log_lines, refused_start, serving, wait_for
from tritserve.service.http.listening import listen
from tritserve.service.settings import Settings

ENVIRONMENT = {
    "TRITSERVE_API_KEYS": "hush-hush",
    "TRITSERVE_ADMIN_KEY": "hush-hush-too",
    "TRITSERVE_LOG_LEVEL": "debug",
}


def test_every_line_of_the_log_is_json_without_keys_or_payloads(tmp_path):
    log = tmp_path / "log"
    with serving(log=log, environment=ENVIRONMENT) as (url, process):
        key = {"Authorization": "Bearer hush-hush", "X-Request-ID": "mine"}
        body = {"sequences": [[[0.515625] * 12]]}
        assert httpx.post(f"{url}/embed", json=body, headers=key).status_code == 200
        wrong = {"Authorization": "Bearer hush-wrong"}
        assert httpx.get(f"{url}/info?key=hush-query", headers=wrong).status_code == 401
        with connect(url) as connection:
            connection.sendall(b"hush-rubbish\r\n\r\n")
            assert b"400" in connection.recv(4096)
        admin = {"Authorization": "Bearer hush-hush-too"}
        assert httpx.post(f"{url}/admin/reload", headers=admin).status_code == 200
        process.terminate()
        assert process.wait(10) == 0
    text = log.read_text()
    assert "hush" not in text
    assert "0.515625" not in text
    lines = log_lines(log)
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    events = " ".join(line["event"] for line in lines)
    assert "Started server process" in events, "uvicorn's lines are missing"
    assert "SIGTERM: finishing" in events
    (line,) = [line for line in lines if line.get("request_id") == "mine"]
    assert (line["route"], line["status"], line["timesteps"]) == ("/embed", 200, 1)


def served(log):
    """The lines that tell what is served, without what differs from run to run."""
    lines = [line for line in log_lines(log) if line["event"] == "now serving"]
    return [{k: v for k, v in line.items() if k != "timestamp"} for line in lines]


def test_the_log_says_what_is_served_and_where(tmp_path):
    model, log = shutil.copy(JAPANESE_VOWELS, tmp_path / "model.safetensors"), tmp_path / "log"
    environment = {"TRITSERVE_ADMIN_KEY": "administrator", "TRITSERVE_THREADS": "1"}
    with serving("--model", model, log=log, environment=environment) as (url, process):
        first = httpx.get(f"{url}/info").json()
        random_packed(tmp_path / "other", embed_dim=12, hidden_size=16)
        (tmp_path / "other").replace(model)
        headers = {"Authorization": "Bearer administrator", "X-Request-ID": "mine"}
        assert httpx.post(f"{url}/admin/reload", headers=headers).status_code == 200
        second = httpx.get(f"{url}/info").json()
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(served(log)) == 3)
    common = {"event": "now serving", "level": "info", "threads": 1, "address": url}
    lines = [
        common | {"model": info["name"], "revision": info["revision"], "kernel": info["kernel"]}
        for info in (first, second)
    ]
    assert served(log) == [lines[0], lines[1] | {"request_id": "mine"}, lines[1]]
    assert first["revision"] != second["revision"]


@contextmanager
def serving_anywhere(log, *arguments, **options):
    """A service on a port that only its log tells; options are those of `Popen`."""
    command = [
        sys.executable,
        "-m",
        "tritserve.service.commands.cli",
        "serve",
        "--port",
        "0",
        *arguments,
    ]
    with log.open("wb") as output, subprocess.Popen(command, stderr=output, **options) as process:
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(20) == 0


@pytest.mark.parametrize(("host", "written"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_log_tells_the_port_that_was_free(tmp_path, host, written):
    try:
        listen(Settings(host=host), 0)[0].close()
    except OSError:
        pytest.skip(f"this machine has no {host}")
    log = tmp_path / "log"
    with serving_anywhere(log, "--host", host):
        wait_for(lambda: len(served(log)) == 1)
        (line,) = served(log)
        assert line["address"].startswith(f"http://{written}:")
        assert "worker" not in line
        assert httpx.get(f"{line['address']}/info").status_code == 200


def test_workers_say_which_they_are_and_where_they_serve(tmp_path):
    log = tmp_path / "log"
    with serving_anywhere(log, "--workers", "2"):
        wait_for(lambda: len(served(log)) == 2)
        assert {line["worker"] for line in served(log)} == {0, 1}
        (url,) = {line["address"] for line in served(log)}
        assert httpx.get(f"{url}/info").status_code == 200
    lines = log_lines(log)
    assert {line["worker"] for line in lines if "finishing" in line["event"]} == {0, 1}
    (request,) = [line for line in lines if line["event"] == "request"]
    assert request["worker"] in {0, 1}
    assert all("worker" in line for line in lines)


class Collector(BaseHTTPRequestHandler):
    """Takes spans over OTLP."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_spans_reach_a_collector_before_the_process_ends(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        collector.received = []
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with serving(log=tmp_path / "log", environment=environment) as (url, process):
            body = {"sequences": [[[0.5] * 12]]}
            trace = "4bf92f3577b34da6a3ce929d0e0e4736"
            headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
            answer = httpx.post(f"{url}/embed", json=body, headers=headers)
            assert answer.headers["traceresponse"].split("-")[1] == trace
            process.terminate()
            assert process.wait(20) == 0
        collector.shutdown()
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    resources = [part for _, request in collector.received for part in request.resource_spans]
    names = {a.value.string_value for part in resources for a in part.resource.attributes}
    assert "tritserve" in names
    spans = [span for part in resources for scope in part.scope_spans for span in scope.spans]
    assert {span.name for span in spans if span.trace_id.hex() == trace} == {
        *("POST /embed", "decode", "queue", "compute", "encode")
    }


def test_a_collector_that_is_away_harms_nothing(tmp_path):
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with serving(log=tmp_path / "log", environment=environment) as (url, process):
        body = {"sequences": [[[0.5] * 12]]}
        assert httpx.post(f"{url}/embed", json=body).status_code == 200
        start = time.monotonic()
        process.terminate()
        assert process.wait(20) == 0
        assert time.monotonic() - start < 5
    log_lines(tmp_path / "log")


@pytest.mark.parametrize(
    ("name", "value", "warning"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "not by grpc"),
        ("OTEL_PROPAGATORS", "tracecontext,b3", "OTEL_PROPAGATORS names b3"),
    ],
)
def test_what_is_set_for_a_whole_cluster_keeps_no_service_from_starting(
    tmp_path, name, value, warning
):
    log = tmp_path / "log"
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", name: value}
    with serving("--workers", "2", log=log, environment=environment) as (url, process):
        assert httpx.get(f"{url}/info").status_code == 200
        process.terminate()
        assert process.wait(20) == 0
    warnings = [line["event"] for line in log_lines(log) if line["level"] == "warning"]
    assert any(warning in event for event in warnings)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TRITSERVE_API_KEYS": "a,,hush"}, "an empty key"),
        ({"TRITSERVE_SSL_KEYFILE": __file__}, "without TRITSERVE_SSL_CERTFILE"),
    ],
)
def test_settings_that_no_worker_could_start_with_end_the_supervisor(environment, message):
    written = refused_start("--workers", "2", environment=environment)
    assert message in written
    assert "hush" not in written
