import asyncio
import gzip
import json
import re
import threading
from base64 import b64encode
from hashlib import sha256

import numpy as np
import pytest
from pydantic import ValidationError

from tests.builders import npy
from tests.service.live import Watched, ask
from tritserve.service.embedding.service import EmbeddingService
from tritserve.service.http.credentials import read_api_keys
from tritserve.service.settings import Settings, SettingsError

BODY = {"sequences": [[[0.0] * 3]]}
KEYS = "first-secret, second-secret"


def with_key(key, scheme="Bearer"):
    return {"Authorization": f"{scheme} {key}"}


def test_every_path_but_health_and_the_description_needs_a_key(engine):
    async def talk(client):
        for path in ("/health/live", "/health/ready"):
            assert (await client.get(path)).status_code == 200
        for method, path in [
            ("POST", "/embed"),
            *(
                ("GET", path)
                for path in ("/info", "/metrics", "/docs/", "/docs/nothing", "/nothing")
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


def test_the_page_at_docs_takes_the_key_that_it_does_not_need(engine):
    """As Swagger UI does: it loads the page, what that loads, and the description that it names."""

    async def talk(client):
        page = await client.get("/docs")
        assert page.status_code == 200
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        loaded += re.findall(r"url: '([^']+)'", page.text)
        assert {"openapi.json", "docs/assets/swagger-ui-bundle.js"} <= set(loaded)
        for path in loaded:
            answer = await client.get(f"/{path}")
            assert answer.status_code == 200, path
            assert "secret" not in answer.text if path == "openapi.json" else answer.content
        description = (await client.get("/openapi.json")).json()
        schemes = description["components"]["securitySchemes"]
        assert schemes["api_key"] == {"type": "http", "scheme": "bearer"}
        called = 0
        for path, operations in description["paths"].items():
            for method, operation in operations.items():
                if operation.get("security") != [{"api_key": []}]:
                    continue
                called += 1
                url = re.sub(r"\{\w+\}", "random", path)
                assert (await client.request(method, url)).status_code == 401, path
                keyed = await client.request(method, url, headers=with_key("first-secret"))
                assert keyed.status_code != 401, path
        assert called > 5

    ask(engine, talk, api_keys=KEYS, admin_key="administrator")


@pytest.mark.parametrize("given", ["bytes=0-9", "bytes=99999999-", "bytes=x", "lines=1-2"])
def test_a_file_of_the_page_goes_whole_whatever_range_is_asked_for(engine, given):
    async def talk(client):
        path = "/docs/assets/swagger-ui.css"
        whole = await client.get(path)
        assert whole.headers["accept-ranges"] == "none"
        part = await client.get(path, headers={"Range": given})
        assert part.status_code == 200
        assert part.content == whole.content
        assert (await client.get("/docs/assets/nothing")).json()["error"]["type"] == "not_found"

    ask(engine, talk)


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
        ({"api_keys": "two words"}, "a space"),
        ({"api_keys": "clé"}, "a letter"),
    ]:
        with pytest.raises(SettingsError, match=message):
            read_api_keys(Settings(**settings))
    assert "secret" not in repr(Settings(api_keys="my-secret-key"))


@pytest.mark.parametrize("origins", ["https://app.example/", "app.example", "", "https://a, b"])
def test_origins_that_match_nothing_are_an_error_at_the_start(origins, monkeypatch):
    monkeypatch.setenv("TRITSERVE_CORS_ORIGINS", origins)
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings()


def test_origins_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("TRITSERVE_CORS_ORIGINS", "https://a.example, http://localhost:3000")
    assert Settings().cors_origins == ["https://a.example", "http://localhost:3000"]


def test_cors_is_off_unless_set(engine):
    preflight = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-encoding,content-type,"
        "inference-header-content-length,traceparent,tracestate,x-request-id,x-request-timeout-ms",
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
        assert other.status_code == 400
        assert other.json()["error"] == {
            "type": "origin_not_allowed",
            "message": "Disallowed CORS origin",
        }
        assert "Origin" in other.headers["vary"]
        headers = {"Origin": "https://app.example"} | with_key("first-secret")
        answer = await client.post("/embed", json=BODY, headers=headers)
        exposed = answer.headers["access-control-expose-headers"]
        for name in ("Server-Timing", "Retry-After", "X-Request-ID", "Tritserve-Revision"):
            assert name in exposed
        # A page may read why it was refused.
        refused = await client.post("/embed", headers={"Origin": "https://app.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example"

    ask(engine, closed)
    ask(engine, opened, cors_origins=["https://app.example"], api_keys=KEYS)


def test_browsers_are_told_to_trust_little(engine):
    async def talk(client):
        for path in ("/info", "/docs", "/nothing", "/docs/assets/swagger-ui.css"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (await client.post("/embed", json=BODY)).headers["cache-control"] == "no-store"
        page = await client.get("/docs")
        inline = page.text.split("<script>")[1].split("</script>")[0]
        digest = b64encode(sha256(inline.encode()).digest()).decode()
        (scripts,) = [
            part
            for part in page.headers["content-security-policy"].split("; ")
            if part.startswith("script-src")
        ]
        assert scripts == f"script-src 'self' 'sha256-{digest}'"

    ask(engine, talk)


@pytest.mark.parametrize("path", ["/embed", "/v2/models/random/infer"])
def test_every_answer_of_a_post_route_has_all_headers(engine, monkeypatch, path):
    gate = threading.Event()
    inputs = [{"name": "values", "shape": [1, 1, 3], "datatype": "FP32", "data": [0, 0, 0]}]
    body = {"inputs": inputs} if path.startswith("/v2") else BODY
    policy = "default-src 'none'; frame-ancestors 'none'"

    def broken(*_):
        raise ZeroDivisionError

    async def talk(client):
        async def check(status, method="POST", key="first-secret", path=path, **request):
            headers = {"X-Request-ID": f"id-{status}", "Origin": "https://app.example"}
            headers |= with_key(key)
            answer = await client.request(method, path, headers=headers, **request)
            assert answer.status_code == status, answer.text
            got = answer.headers.multi_items()
            for name, value in [
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("cache-control", "no-store"),
                ("content-security-policy", policy),
                ("x-request-id", f"id-{status}"),
                ("access-control-allow-origin", "https://app.example"),
                ("content-length", str(len(answer.content))),
            ]:
                assert [v for k, v in got if k == name] == [value], (status, name)

        await check(401, key="wrong", json=body)
        await check(404, path=path.replace("embed", "nothing").replace("random", "x"), json=body)
        await check(405, method="GET")
        await check(413, content=b" " * 2000)
        await check(422, json=body | {"strange": 1})
        held = asyncio.create_task(check(200, json=body))
        await asyncio.sleep(0.05)
        await check(429, json=body)
        gate.set()
        await held
        monkeypatch.setattr(EmbeddingService, "answer", broken)
        await check(500, json=body)

    settings = {"api_keys": KEYS, "cors_origins": ["https://app.example"]}
    settings |= {"max_body_bytes": 1000, "queue_timesteps": 1}
    ask(Watched(engine, lambda *_: gate.wait(10)), talk, **settings)


def test_errors_under_v2_have_its_form_and_its_health_needs_no_key(engine):
    async def talk(client):
        answer = await client.post("/v2/models/random/infer")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert isinstance(answer.json()["error"], str)
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await client.get(path)).status_code == 200

    ask(engine, talk, api_keys=KEYS)


def test_a_bug_is_answered_like_every_error(engine, caplog, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a detail of ours")

    monkeypatch.setattr(EmbeddingService, "answer", broken)

    async def talk(client):
        answer = await client.post("/embed", json=BODY)
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "internal"
        assert "detail" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "a detail of ours" in caplog.text
        metrics = (await client.get("/metrics")).text
        assert 'tritserve_requests_total{route="/embed",status="500"} 1.0' in metrics

    ask(engine, talk)


def test_timesteps_of_one_request_are_limited(engine):
    async def talk(client):
        body = {"sequences": [[[0.0] * 3] * 5] * 2}
        assert (await client.post("/embed", json=body)).status_code == 200
        body["sequences"].append([[0.0] * 3])
        answer = await client.post("/embed", json=body)
        assert answer.status_code == 422
        assert "11 timesteps; at most 10 go" in answer.json()["error"]["message"]
        info = (await client.get("/info")).json()
        assert info["limits"]["max_request_timesteps"] == 10

    ask(engine, talk, max_request_timesteps=10)


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 125_000),
        ({"queue_timesteps": 80_000}, 10_000),
        # What one call of the engine takes.
        ({"queue_timesteps": 80}, 8_192),
        # The model's longest sequence.
        ({"queue_timesteps": 10, "batch_timesteps": 5}, 9),
        ({"max_request_timesteps": 7}, 7),
    ],
)
def test_one_request_is_a_small_part_of_the_queue(engine, settings, most):
    async def talk(client):
        info = (await client.get("/info")).json()
        assert info["limits"]["max_request_timesteps"] == most
        body = npy(np.zeros((most + 1, 1, 3), np.float16))
        headers = {"Content-Type": "application/x-npy"}
        answer = await client.post("/embed", content=body, headers=headers)
        assert answer.status_code == 422
        assert f"{most + 1} timesteps; at most {most} go" in answer.json()["error"]["message"]

    ask(engine, talk, max_sequences=200_000, **settings)


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


def zeros(sequences):
    return npy(np.zeros((sequences, 9, 3), np.float32))


@pytest.mark.parametrize("what", ["body", "decompressed body", "answer"])
def test_what_many_requests_hold_shares_a_budget(engine, what):
    gate, entered = threading.Event(), threading.Event()
    width = engine.model.config.hidden_size
    headers = {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}
    body, limit = zeros(20), 3000
    if what == "decompressed body":
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        assert 2 * len(body) + 40 * 4 * width < limit < 2 * len(zeros(20))
    if what == "answer":
        body, headers["Accept"] = zeros(1), "application/json"
        limit = 2 * len(body) + 16 * width

    def compute(*_):
        entered.set()
        gate.wait(10)

    async def talk(client):
        def post():
            return client.post("/embed", content=body, headers=headers)

        held = asyncio.create_task(post())
        await asyncio.to_thread(entered.wait, 10)
        answer = await post()
        assert answer.status_code == 429
        assert "other requests and answers hold" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "1"
        gate.set()
        assert (await held).status_code == 200
        assert (await post()).status_code == 200

    ask(Watched(engine, compute), talk, max_bodies_bytes=limit)


def test_a_request_alone_is_not_refused_for_what_it_holds(engine):
    async def talk(client):
        headers = {"Content-Type": "application/x-npy"}
        for _ in range(2):
            assert (await client.post("/embed", content=zeros(20), headers=headers)).is_success

    ask(engine, talk, max_bodies_bytes=10)


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
