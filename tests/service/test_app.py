import asyncio
import io
import json
import threading

import httpx
import numpy as np
import pytest
import safetensors.numpy

from tests.builders import npy, random_batch
from tests.service.live import Watched, ask, live
from tritserve.service.app import create_app
from tritserve.service.forms.media import JSON, NPY, SAFETENSORS
from tritserve.service.settings import Settings

BATCH = random_batch([1, 9, 4], 3)
BODY = {"sequences": [part.tolist() for part in BATCH.split()]}


def test_the_same_embeddings_in_every_form(engine):
    async def talk(client):
        expected = engine.embed(BATCH.values, BATCH.lengths)
        answer = await client.post("/embed", json=BODY)
        assert answer.status_code == 200
        content = answer.json()
        assert np.array(content["embeddings"], np.float32).tobytes() == expected.tobytes()
        assert content["model"] == {
            "name": "random",
            "revision": engine.model.revision,
            "output_size": 16,
            "channels": "joined",
            "quantize": "ternary",
            "bits_per_weight": engine.model.bits_per_weight,
        }
        assert content["usage"] == {"sequences": 3, "timesteps": 14, "truncated": []}
        assert set(content["timing_ms"]) == {"queue", "compute", "total"}
        assert content["timing_ms"]["total"] >= content["timing_ms"]["compute"] > 0

        tensors = safetensors.numpy.save({"values": BATCH.values, "lengths": BATCH.lengths})
        headers = {"Content-Type": SAFETENSORS, "Accept": SAFETENSORS}
        answer = await client.post("/embed", content=tensors, headers=headers)
        assert answer.headers["content-type"] == SAFETENSORS
        got = safetensors.numpy.load(answer.content)
        assert got["embeddings"].tobytes() == expected.tobytes()

        dense = random_batch([5, 5], 3).values.reshape(2, 5, 3)
        headers = {"Content-Type": NPY, "Accept": NPY}
        answer = await client.post("/embed", content=npy(dense), headers=headers)
        rows = np.load(io.BytesIO(answer.content))
        assert rows.tobytes() == engine.embed(dense.reshape(10, 3), np.array([5, 5])).tobytes()
        assert answer.headers["tritserve-revision"] == engine.model.revision
        assert "compute;dur=" in answer.headers["server-timing"]

    ask(engine, talk)


def test_headers_of_one_name_are_one_list(engine):
    async def talk(client):
        async def answer(*headers):
            return await client.post("/embed", json=BODY, headers=headers)

        for accepted in (("text/html", NPY), (NPY, "text/html"), ("application/json;q=0.5", NPY)):
            given = await answer(*(("Accept", media_type) for media_type in accepted))
            assert given.headers["content-type"] == NPY, given.text
        given = await answer(("X-Request-Timeout-Ms", "1000"), ("X-Request-Timeout-Ms", "2000"))
        assert given.status_code == 422
        assert "1000, 2000" in given.json()["error"]["message"]

    ask(engine, talk)


@pytest.mark.parametrize("path", ["/embed", "/v2/models/random/infer"])
def test_behind_a_prefix_fastapi_answers_the_same(engine, path):
    data = BATCH.values.ravel().tolist()
    inputs = [
        {"name": "values", "shape": [14, 3], "datatype": "FP32", "data": data},
        {"name": "lengths", "shape": [3], "datatype": "INT64", "data": [1, 9, 4]},
    ]
    body = {"inputs": inputs} if path.startswith("/v2") else BODY

    async def talk(client):
        def numbers(answer):
            assert answer.status_code == 200, answer.text
            content = answer.json()
            return content["outputs"][0]["data"] if "outputs" in content else content["embeddings"]

        transport = httpx.ASGITransport(client._transport.app, root_path="/prefix")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as prefixed:
            there = await prefixed.post(f"/prefix{path}", json=body)
            wrong = await prefixed.post(f"/prefix{path}", json=body | {"strange": 1})
        here = await client.post(path, json=body)
        assert numbers(there) == numbers(here)
        assert wrong.status_code == 422

    ask(engine, talk)


def test_options_in_json(engine):
    async def talk(client):
        body = {"sequences": [np.ones((12, 3)).tolist()]}
        answer = await client.post("/embed", json=body)
        assert answer.status_code == 422
        assert answer.json()["error"]["row"] == 0
        cut = await client.post("/embed", json=body | {"overlong": "keep_last"})
        assert cut.json()["usage"]["truncated"] == [0]
        unit = await client.post("/embed", json=BODY | {"normalize": True})
        norms = np.linalg.norm(unit.json()["embeddings"], axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-6)
        int8 = (await client.post("/embed", json=BODY | {"precision": "int8"})).json()
        numbers = np.array(int8["embeddings"]) * np.array(int8["scales"])[:, None]
        headers = {"Accept": NPY}
        wrong = await client.post("/embed", json=BODY | {"precision": "int8"}, headers=headers)
        assert wrong.status_code == 422
        message = f"npy has no place for the scales of int8; accept {JSON} or {SAFETENSORS}"
        assert wrong.json()["error"]["message"] == message
        expected = engine.embed(BATCH.values, BATCH.lengths)
        np.testing.assert_allclose(numbers, expected, atol=np.abs(expected).max() / 127)
        bits = (await client.post("/embed", json=BODY | {"precision": "binary"})).json()
        assert np.array(bits["embeddings"]).tolist() == np.packbits(expected > 0, axis=1).tolist()

    ask(engine, talk)


@pytest.mark.parametrize(
    ("method", "path", "request_", "status", "error_type"),
    [
        (
            "POST",
            "/embed",
            {"content": b"{", "headers": {"Content-Type": JSON}},
            400,
            "unparseable",
        ),
        ("POST", "/embed", {"json": {"sequences": [[[1, 2]]]}}, 422, "invalid"),
        ("POST", "/embed", {"content": b"x"}, 415, "unsupported_media_type"),
        (
            "POST",
            "/embed",
            {"json": BODY, "headers": {"Accept": "text/html"}},
            406,
            "not_acceptable",
        ),
        (
            "POST",
            "/embed",
            {"json": BODY | {"sequences": [[[1e5] * 3] * 60]}},
            413,
            "body_too_large",
        ),
        ("POST", "/embed?x=1", {"json": BODY}, 422, "invalid"),
        (
            "POST",
            "/embed",
            {"json": BODY, "headers": {"X-Request-Timeout-Ms": "-1"}},
            422,
            "invalid",
        ),
        ("POST", "/embed", {"json": {"sequences": [[[3e38] * 3] * 2]}}, 422, "invalid"),
        ("GET", "/embed", {}, 405, "method_not_allowed"),
        ("GET", "/nothing", {}, 404, "not_found"),
        ("POST", "/info", {}, 405, "method_not_allowed"),
    ],
)
def test_errors_have_one_form(engine, method, path, request_, status, error_type):
    async def talk(client):
        answer = await client.request(method, path, **request_)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert error["type"] == error_type
        assert error["message"]
        if status == 413:
            assert error["limit"] == 900
        if status == 405:
            assert answer.headers["allow"]
        return answer

    ask(engine, talk, max_body_bytes=900)


def test_a_405_names_each_method_once(engine):
    async def talk(client):
        for path, allow in [
            ("/info", "GET, HEAD"),
            ("/docs/assets/swagger-ui.css", "GET, HEAD"),
            ("/embed", "POST"),
        ]:
            answer = await client.delete(path)
            assert answer.status_code == 405
            assert answer.headers["allow"] == allow

    ask(engine, talk)


@pytest.mark.parametrize("path", ["/embed", "/info", "/health/live", "/v2/models/random/infer"])
def test_a_line_break_is_part_of_a_path(engine, path):
    async def talk(client):
        for method in ("GET", "POST"):
            answer = await client.request(method, f"{path}%0A", json=BODY)
            assert answer.status_code == 404
            assert "error" in answer.json()

    ask(engine, talk)


def test_a_body_that_hides_its_length_is_cut_off_at_the_limit(engine):
    sent = []

    async def stream():
        for _ in range(100):
            sent.append(1)
            yield b" " * 1000

    async def talk(client):
        answer = await client.post("/embed", content=stream(), headers={"Content-Type": JSON})
        assert answer.status_code == 413
        assert len(sent) < 10

    ask(engine, talk, max_body_bytes=3000)


def test_overflow_inside_the_model_harms_no_neighbour(engine):
    async def talk(client):
        bad = {"sequences": [[[0.0] * 3], [[3e38, -3e38, 3e38]]]}
        good, refused, also_good = await asyncio.gather(
            client.post("/embed", json=BODY),
            client.post("/embed", json=bad),
            client.post("/embed", json=BODY),
        )
        assert good.json()["embeddings"] == also_good.json()["embeddings"]
        assert refused.status_code == 422
        assert refused.json()["error"]["row"] == 1
        assert (await client.get("/health/ready")).status_code == 200

    ask(engine, talk)


def test_info_tells_the_configuration(engine):
    async def talk(client):
        info = (await client.get("/info")).json()
        assert info["config"] == engine.model.config.model_dump()
        assert info["limits"]["max_timesteps"] == 9
        assert info["limits"]["max_sequences"] == 7
        assert info["packed_bytes"] * 8 / engine.model.packed_weights == info["bits_per_weight"]
        assert set(info) == {
            *("name", "revision", "version", "config", "output_size", "bits_per_weight"),
            *("nominal_bits_per_weight", "bits_per_parameter", "parameters", "packed_bytes"),
            *("kernel", "threads", "limits", "features"),
        }

    ask(engine, talk, max_sequences=7)


def test_a_full_queue_answers_429_and_recovers(engine):
    gate = threading.Event()

    async def talk(client):
        body = {"sequences": [[[0.0] * 3] * 5]}
        first = asyncio.create_task(client.post("/embed", json=body))
        second = asyncio.create_task(client.post("/embed", json=body))
        await asyncio.sleep(0.05)
        full = await client.post("/embed", json={"sequences": [[[0.0] * 3]]})
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        metrics = (await client.get("/metrics")).text
        assert "tritserve_queue_timesteps 10.0" in metrics
        assert "tritserve_queue_requests 2.0" in metrics
        gate.set()
        assert (await first).status_code == (await second).status_code == 200
        assert (await client.post("/embed", json=body)).status_code == 200
        metrics = (await client.get("/metrics")).text
        assert "tritserve_queue_timesteps 0.0" in metrics
        assert "tritserve_rejected_total 1.0" in metrics
        assert 'tritserve_requests_total{route="/embed",status="200"} 3.0' in metrics

    ask(Watched(engine, lambda *_: gate.wait(10)), talk, queue_timesteps=10)


def test_a_deadline_is_kept(engine):
    gate = threading.Event()

    async def talk(client):
        held = asyncio.create_task(client.post("/embed", json=BODY))
        await asyncio.sleep(0.05)
        late = await client.post("/embed", json=BODY, headers={"X-Request-Timeout-Ms": "50"})
        assert late.status_code == 504
        # It waited too, for all of its time.
        metrics = (await client.get("/metrics")).text
        assert 'tritserve_queue_seconds_bucket{le="0.025"} 0.0' in metrics
        assert "tritserve_queue_seconds_count 1.0" in metrics
        gate.set()
        assert (await held).status_code == 200

    ask(Watched(engine, lambda *_: gate.wait(10)), talk)


def test_a_client_that_leaves_frees_its_place(engine):
    gate = threading.Event()
    seen = []

    def before(values, _):
        seen.append(len(values))
        gate.wait(10)

    async def talk(client):
        held = asyncio.create_task(client.post("/embed", json=BODY))
        await asyncio.sleep(0.05)
        app = client._transport.app
        scope_body = json.dumps({"sequences": [[[0.0] * 3] * 3]}).encode()
        messages = iter([{"type": "http.request", "body": scope_body}, {"type": "http.disconnect"}])
        leave = asyncio.Event()

        async def receive():
            message = next(messages)
            if message["type"] == "http.disconnect":
                await leave.wait()
            return message

        async def send(_):
            pass

        scope = {
            **{"type": "http", "method": "POST", "path": "/embed", "raw_path": b"/embed"},
            **{"query_string": b"", "headers": [(b"content-type", b"application/json")]},
            **{"http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": None},
        }
        leaving = asyncio.create_task(app(scope, receive, send))
        await asyncio.sleep(0.05)
        assert "tritserve_queue_requests 2.0" in (await client.get("/metrics")).text
        leave.set()
        await leaving
        metrics = (await client.get("/metrics")).text
        assert "tritserve_queue_requests 1.0" in metrics
        assert "tritserve_cancelled_total 1.0" in metrics
        gate.set()
        assert (await held).status_code == 200
        assert seen == [14]

    ask(Watched(engine, before), talk)


def test_a_failed_engine_makes_the_service_unready_with_a_reason(engine):
    def before(*_):
        raise OSError("disk on fire")

    async def talk(client):
        assert (await client.get("/health/ready")).status_code == 200
        assert (await client.post("/embed", json=BODY)).status_code == 503
        for path in ("/health/ready", "/embed"):
            answer = await client.request("GET" if "ready" in path else "POST", path)
            assert answer.status_code == 503
            assert "disk on fire" in answer.json()["error"]["message"]
        assert (await client.get("/health/live")).status_code == 503

    ask(Watched(engine, before), talk)


def test_a_stuck_engine_is_noticed(engine):
    gate = threading.Event()

    async def talk(client):
        held = asyncio.create_task(client.post("/embed", json=BODY))
        await asyncio.sleep(0.2)
        answer = await client.get("/health/ready")
        assert answer.status_code == 503
        assert "in one call" in answer.json()["error"]["message"]
        assert (await held).status_code == 503
        assert (await client.post("/embed", json=BODY)).status_code == 503
        assert (await client.get("/health/live")).status_code == 503
        metrics = (await client.get("/metrics")).text
        assert "tritserve_ready 0.0" in metrics
        assert "tritserve_stuck 1.0" in metrics
        gate.set()
        await asyncio.sleep(0.05)
        assert (await client.post("/embed", json=BODY)).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200

    ask(Watched(engine, lambda *_: gate.wait(10)), talk, stuck_seconds=0.1)


def test_not_ready_before_the_start(engine):
    async def main():
        transport = httpx.ASGITransport(create_app(Settings(), engine))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/health/ready")).status_code == 503
            assert (await client.post("/embed", json=BODY)).status_code == 503
            assert (await client.get("/health/live")).status_code == 200

    asyncio.run(main())


def test_metrics_are_there_from_the_start(engine):
    async def talk(client):
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        for line in (
            'tritserve_requests_total{route="/embed",status="429"} 0.0',
            "tritserve_timesteps_total 0.0",
            "tritserve_queue_requests 0.0",
            "tritserve_queue_timesteps 0.0",
            "tritserve_batch_sequences_count 0.0",
            'tritserve_queue_seconds_bucket{le="0.0001"} 0.0',
            "tritserve_compute_seconds_count 0.0",
            "tritserve_decode_seconds_count 0.0",
            "tritserve_encode_seconds_count 0.0",
            "tritserve_rejected_total 0.0",
            "tritserve_cancelled_total 0.0",
        ):
            assert line in answer.text

    ask(engine, talk)


def test_the_docs_load_nothing_from_elsewhere(engine):
    async def talk(client):
        page = (await client.get("/docs")).text
        assert "://" not in page
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
            assert f"docs/assets/{asset}" in page
            assert (await client.get(f"/docs/assets/{asset}")).status_code == 200

    ask(engine, talk)


def test_the_api_is_described(engine):
    async def talk(client):
        api = (await client.get("/openapi.json")).json()
        embed = api["paths"]["/embed"]["post"]
        assert set(embed["requestBody"]["content"]) == {JSON, NPY, SAFETENSORS}
        assert set(embed["responses"]["200"]["content"]) == {JSON, NPY, SAFETENSORS}
        declared = {"200", "400", "406", "408", "413", "415", "422", "429"}
        declared |= {"431", "503", "504"}
        assert set(embed["responses"]) == declared
        for path in ("/info", "/metrics", "/v2"):
            assert set(api["paths"][path]["get"]["responses"]) == {"200", "431"}
        infer = api["paths"]["/v2/models/{name}/infer"]["post"]
        assert set(infer["responses"]) == declared - {"406"} | {"404"}
        assert not api["components"]["securitySchemes"]
        example = embed["requestBody"]["content"][JSON]["example"]
        assert set(example) == {"sequences"}
        # What the page at /docs would send without being asked to.
        sent = [p for p in embed["parameters"] if p["required"] or "default" in p["schema"]]
        assert not sent

    ask(engine, talk)


def test_the_description_says_what_needs_a_key(engine):
    key = {"Authorization": "Bearer abc"}

    async def talk(client):
        api = (await client.get("/openapi.json", headers=key)).json()
        for path, operations in api["paths"].items():
            for operation in operations.values():
                keyed = "/health/" not in path
                assert ("security" in operation) == keyed, path
                assert ("401" in operation["responses"]) == keyed, path
        assert api["paths"]["/info"]["get"]["security"] == [{"api_key": []}]
        assert api["paths"]["/admin/reload"]["post"]["security"] == [{"admin_key": []}]
        bearer = {"type": "http", "scheme": "bearer"}
        assert api["components"]["securitySchemes"] == {"api_key": bearer, "admin_key": bearer}

    ask(engine, talk, api_keys="abc", admin_key="abcdefgh")


def test_many_clients_at_once_get_their_own_answers(engine):
    async def talk(client):
        batches = [random_batch([1 + i % 9, 3], 3, i) for i in range(60)]
        answers = await asyncio.gather(
            *(
                client.post("/embed", json={"sequences": [part.tolist() for part in batch.split()]})
                for batch in batches
            )
        )
        for batch, answer in zip(batches, answers, strict=True):
            got = np.array(answer.json()["embeddings"], np.float32)
            assert got.tobytes() == engine.embed(batch.values, batch.lengths).tobytes()

    ask(engine, talk)


def test_two_applications_live_in_one_process(engine):
    async def main():
        async with live(engine) as one, live(engine) as two:
            await one.post("/embed", json=BODY)
            assert "tritserve_timesteps_total 14.0" in (await one.get("/metrics")).text
            assert "tritserve_timesteps_total 0.0" in (await two.get("/metrics")).text

    asyncio.run(main())
