"""What an operator sees of a real server process."""

import json
import socket

import httpx

from tests.end_to_end.server import serving

ENVIRONMENT = {
    "TRITSERVE_API_KEYS": "hush-hush",
    "TRITSERVE_ADMIN_KEY": "hush-hush-too",
    "TRITSERVE_LOG_LEVEL": "debug",
}


def parse(text):
    """Every line, but for what nanobind itself may write when a process ends."""
    noise = ("nanobind:", " - leaked", "See https://nanobind")
    return [json.loads(line) for line in text.splitlines() if not line.startswith(noise)]


def test_every_line_of_the_log_is_json_without_keys_or_payloads(tmp_path):
    log = tmp_path / "log"
    with serving(log=log, environment=ENVIRONMENT) as (url, process):
        key = {"Authorization": "Bearer hush-hush", "X-Request-ID": "mine"}
        body = {"sequences": [[[0.515625] * 12]]}
        assert httpx.post(f"{url}/embed", json=body, headers=key).status_code == 200
        wrong = {"Authorization": "Bearer hush-wrong"}
        assert httpx.get(f"{url}/info?key=hush-query", headers=wrong).status_code == 401
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"hush-rubbish\r\n\r\n")
            assert b"400" in connection.recv(4096)
        admin = {"Authorization": "Bearer hush-hush-too"}
        assert httpx.post(f"{url}/admin/reload", headers=admin).status_code == 200
        process.terminate()
        assert process.wait(10) == 0
    text = log.read_text()
    assert "hush" not in text
    assert "0.515625" not in text
    lines = parse(text)
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    events = " ".join(line["event"] for line in lines)
    assert "Started server process" in events, "uvicorn's lines are missing"
    assert "SIGTERM: finishing" in events
    (line,) = [line for line in lines if line.get("request_id") == "mine"]
    assert (line["route"], line["status"], line["timesteps"]) == ("/embed", 200, 1)


def test_workers_log_in_the_same_form(tmp_path):
    log = tmp_path / "log"
    with serving("--workers", "2", log=log) as (_, process):
        process.terminate()
        assert process.wait(20) == 0
    lines = parse(log.read_text())
    assert any("finishing" in line["event"] for line in lines)
