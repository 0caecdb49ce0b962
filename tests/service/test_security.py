import asyncio
import io
import json
import threading

import numpy as np
import pytest

from service.settings import Settings, SettingsError, check_environment
from tests.service.live import Watched, ask

BODY = {"sequences": [[[0.0] * 3]]}
KEYS = "first-secret, second-secret"


def with_key(key, scheme="Bearer"):
    return {"Authorization": f"{scheme} {key}"}


def test_every_path_but_health_needs_a_key(engine):
    async def talk(client):
        for path in ("/health/live", "/health/ready"):
            assert (await client.get(path)).status_code == 200
        for method, path in [
            ("POST", "/embed"),
            *(
                ("GET", path)
                for path in ("/info", "/metrics", "/docs", "/openapi.json", "/nothing")
            ),
        ]:
            for headers in ({}, with_key("wrong"), with_key(""), with_key("first-secret", "Basic")):
                answer = await client.request(method, path, headers=headers)
                assert answer.status_code == 401, (path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["type"] == "unauthorized"
                assert "secret" not in answer.text
        for key in ("first-secret", "second-secret"):
            answer = await client.post("/embed", json=BODY, headers=with_key(key))
            assert answer.status_code == 200
        assert (await client.get("/info", headers=with_key("first-secret", "bearer"))).is_success
        info = await client.get("/info", headers=with_key("first-secret"))
        assert "secret" not in info.text
        metrics = await client.get("/metrics", headers=with_key("first-secret"))
        assert 'tritserve_requests_total{route="/embed",status="401"} 4.0' in metrics.text

    ask(engine, talk, api_keys=KEYS)


def test_a_body_without_a_key_is_not_read(engine):
    sent = []

    async def stream():
        for _ in range(50):
            sent.append(1)
            yield b" " * 1000

    async def talk(client):
        assert (await client.post("/embed", content=stream())).status_code == 401
        assert len(sent) <= 1

    ask(engine, talk, api_keys=KEYS)


def test_keys_come_from_a_file_too(engine, tmp_path):
    path = tmp_path / "keys"
    path.write_text("# for the dashboard\n\n  file-secret \n")

    async def talk(client):
        for key, status in [("file-secret", 200), ("first-secret", 200), ("# for", 401)]:
            assert (await client.get("/info", headers=with_key(key))).status_code == status

    ask(engine, talk, api_keys=KEYS, api_keys_file=path)


def test_keys_that_make_no_sense_are_an_error_at_the_start(tmp_path):
    (tmp_path / "empty").write_text("# nothing\n")
    for settings, message in [
        ({"api_keys": "a,,b"}, "an empty key"),
        ({"api_keys": ""}, "an empty key"),
        ({"api_keys_file": tmp_path / "empty"}, "holds no API key"),
        ({"api_keys_file": tmp_path / "none"}, "cannot be read"),
    ]:
        with pytest.raises(SettingsError, match=message):
            Settings(**settings).read_api_keys()
    assert "secret" not in repr(Settings(api_keys="my-secret-key"))


def test_unknown_variables_are_an_error():
    check_environment(["PATH", "TRITSERVE_PORT", "TRITSERVE_ISA"])
    with pytest.raises(SettingsError, match=r"TRITSERVE_PROT: no such setting; there are .*PORT"):
        check_environment(["TRITSERVE_PROT"])


def test_cors_is_off_unless_set(engine):
    preflight = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }

    async def closed(client):
        answer = await client.options("/embed", headers=preflight)
        assert answer.status_code == 405
        assert "access-control-allow-origin" not in answer.headers

    async def opened(client):
        answer = await client.options("/embed", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        other = await client.options(
            "/embed", headers=preflight | {"Origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in other.headers
        headers = {"Origin": "https://app.example"} | with_key("first-secret")
        answer = await client.post("/embed", json=BODY, headers=headers)
        assert "Server-Timing" in answer.headers["access-control-expose-headers"]

    ask(engine, closed)
    ask(engine, opened, cors_origins=["https://app.example"], api_keys=KEYS)


def test_browsers_are_told_to_trust_little(engine):
    async def talk(client):
        for path in ("/info", "/docs", "/nothing"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]

    ask(engine, talk)


def test_a_slow_body_is_given_up(engine):
    async def stream():
        yield b"{"
        await asyncio.sleep(10)

    async def talk(client):
        headers = {"Content-Type": "application/json"}
        answer = await client.post("/embed", content=stream(), headers=headers)
        assert answer.status_code == 408
        assert answer.headers["connection"] == "close"
        assert "1 bytes had come" in answer.json()["error"]["message"]

    ask(engine, talk, body_seconds=0.1)


def test_bodies_of_many_requests_share_a_budget(engine):
    gate = threading.Event()

    async def talk(client):
        stream = io.BytesIO()
        np.save(stream, np.zeros((20, 9, 3), np.float32))
        headers = {"Content-Type": "application/x-npy"}

        def post():
            return client.post("/embed", content=stream.getvalue(), headers=headers)

        held = asyncio.create_task(post())
        await asyncio.sleep(0.05)
        answer = await post()
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1"
        gate.set()
        assert (await held).status_code == 200
        assert (await post()).status_code == 200

    ask(Watched(engine, lambda *_: gate.wait(10)), talk, max_bodies_bytes=3000)


@pytest.mark.parametrize("depth", [10, 1000, 100_000])
def test_deep_json_is_refused(engine, depth):
    async def talk(client):
        body = b'{"sequences": ' + b"[" * depth + b"]" * depth + b"}"
        answer = await client.post(
            "/embed", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in {400, 422}

    ask(engine, talk)


def test_secrets_stay_out_of_errors(engine):
    async def talk(client):
        answer = await client.post(
            "/embed", content=json.dumps({"sequences": "x"}), headers=with_key("first-secret")
        )
        assert answer.status_code == 415
        assert "first-secret" not in answer.text

    ask(engine, talk, api_keys=KEYS)
