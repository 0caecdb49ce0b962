import asyncio
import gzip
import json
import threading
import tracemalloc
import zlib
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.builders import random_batch, random_packed
from tests.service.live import Watched, ask
from tritserve.model.engine.engine import Engine
from tritserve.service.errors import InvalidError, ServiceError
from tritserve.service.forms.media import OCTETS as BINARY
from tritserve.service.forms.wire import Limits
from tritserve.service.http.compression import MAX_MEMBERS
from tritserve.service.oip.rest.form import HEADER_LENGTH, InferForm

BATCH = random_batch([1, 9, 4], 3)
LIMITS = Limits(embed_dim=3, max_timesteps=9, max_sequences=50)
INFER = "/v2/models/random/infer"
EMPTY_BATCH = "the batch is empty: input 'values' has shape [0, 5, 3]; a batch needs at least one"


def json_inputs(batch=BATCH):
    return [
        {
            "name": "values",
            "shape": list(batch.values.shape),
            "datatype": "FP32",
            "data": batch.values.ravel().tolist(),
        },
        {
            "name": "lengths",
            "shape": [len(batch)],
            "datatype": "INT64",
            "data": batch.lengths.tolist(),
        },
    ]


def binary_request(batch=BATCH, **extra):
    blobs = [batch.values.tobytes(), batch.lengths.tobytes()]
    inputs = json_inputs(batch)
    for given_input, blob in zip(inputs, blobs, strict=True):
        del given_input["data"]
        given_input["parameters"] = {"binary_data_size": len(blob)}
    text = json.dumps({"inputs": inputs, **extra}).encode()
    headers = {HEADER_LENGTH: str(len(text)), "Content-Type": BINARY}
    return text + b"".join(blobs), headers


def expected(engine):
    return engine.embed(BATCH.values, BATCH.lengths)


def test_json_in_and_out(engine):
    async def talk(client):
        request = {"id": "42", "inputs": json_inputs()}
        answer = await client.post(INFER, json=request)
        content = answer.json()
        assert (content["id"], content["model_name"], content["model_version"]) == (
            "42",
            "random",
            "1",
        )
        (output,) = content["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == (
            "embeddings",
            "FP32",
            [3, 16],
        )
        assert np.array(output["data"], np.float32).tobytes() == expected(engine).tobytes()

    ask(engine, talk)


def test_binary_in_and_out(engine):
    async def talk(client):
        body, headers = binary_request(parameters={"binary_data_output": True})
        answer = await client.post(INFER, content=body, headers=headers)
        assert answer.headers["content-type"] == BINARY
        size = int(answer.headers[HEADER_LENGTH])
        head = json.loads(answer.content[:size])
        blob = answer.content[size:]
        assert head["outputs"][0]["parameters"] == {"binary_data_size": len(blob)}
        assert "id" not in head
        assert blob == expected(engine).tobytes()

    ask(engine, talk)


def test_a_dense_batch_needs_no_lengths_and_outputs_choose_their_form(engine):
    dense = random_batch([5, 5], 3)
    values = {"name": "values", "shape": [2, 5, 3], "datatype": "FP64"}
    values["data"] = dense.values.reshape(2, 5, 3).tolist()

    async def talk(client):
        request = {
            "inputs": [values],
            "parameters": {"precision": "int8", "normalize": True},
            "outputs": [
                {"name": "scales"},
                {"name": "embeddings", "parameters": {"binary_data": True}},
            ],
        }
        answer = await client.post(INFER, json=request)
        size = int(answer.headers[HEADER_LENGTH])
        scales, embeddings = json.loads(answer.content[:size])["outputs"]
        assert (embeddings["datatype"], embeddings["shape"]) == ("INT8", [2, 16])
        rows = np.frombuffer(answer.content[size:], np.int8).reshape(2, 16)
        numbers = rows * np.array(scales["data"])[:, None]
        np.testing.assert_allclose(np.linalg.norm(numbers, axis=1), 1, atol=0.01)

    ask(engine, talk)


def test_metadata_and_health(engine):
    async def talk(client):
        server = (await client.get("/v2")).json()
        assert server["name"] == "tritserve"
        assert server["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/random/ready"):
            assert (await client.get(path)).status_code == 200
        for path in ("/v2/models/random", "/v2/models/random/versions/1"):
            metadata = (await client.get(path)).json()
            assert metadata["inputs"][0] == {
                "name": "values",
                "datatype": "FP32",
                "shape": [-1, 3],
            }
            assert metadata["outputs"][0]["shape"] == [-1, 16]
        for path in ("/v2/models/other", "/v2/models/random/versions/2", "/v2/nothing"):
            answer = await client.get(path)
            assert answer.status_code == 404
            assert isinstance(answer.json()["error"], str)
        answer = await client.get(INFER)
        assert answer.status_code == 405
        assert isinstance(answer.json()["error"], str)

    ask(engine, talk)


def test_health_is_open_and_the_rest_is_keyed(engine):
    async def talk(client):
        assert (await client.get("/v2/health/ready")).status_code == 200
        answer = await client.post(INFER, json={"inputs": json_inputs()})
        assert answer.status_code == 401
        assert isinstance(answer.json()["error"], str)

    ask(engine, talk, api_keys="secret-key")


def change(**fields):
    inputs = json_inputs()
    inputs[0] |= fields
    return {"inputs": inputs}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"inputs": []}, "at least 1 item"),
        ({}, "inputs: Field required"),
        ({"inputs": json_inputs()[1:]}, "'values' is missing"),
        ({"inputs": [json_inputs()[0]] * 2}, "given twice"),
        ({"inputs": json_inputs(), "outputs": [{}] * 3}, "outputs: List should have at most 2"),
        ({"inputs": json_inputs(), "outputs": 1}, "outputs: Input should be a valid"),
        ({"inputs": json_inputs(), "parameters": []}, "parameters: Input should be"),
        (change(name="x"), "'values' or 'lengths'"),
        (change(datatype="BYTES"), "datatype"),
        (change(datatype="FP16"), "no JSON form"),
        (change(shape=[14, 2]), "does not have 42 numbers"),
        (change(shape=[-14, -3]), "has shape [-14, -3]; sizes must be 1 or more"),
        (change(shape=[0, 5, 3], data=[]), EMPTY_BATCH),
        (change(shape=[2, 0, 3], data=[[], []]), "a sequence needs at least one timestep"),
        (change(shape=[2**62, 2**62]), "does not have 42 numbers"),
        (change(data=None), "either data or binary_data_size"),
        (change(data=["1"] * 42), "must have FP32 numbers"),
        (change(data=[True] * 42), "must have FP32 numbers"),
        (change(data=[[1.0], 2.0]), "not nested as its shape"),
        (change(data=[1e39] * 42), "must be finite float32"),
        (change(extra=1), "extra"),
        ({"inputs": json_inputs(), "parameters": {"speed": 1}}, "speed"),
        ({"inputs": json_inputs(), "outputs": [{"name": "logits"}]}, "'embeddings' or 'scales'"),
        ({"inputs": json_inputs(), "outputs": [{"name": "scales"}]}, "precision int8 only"),
        ({"inputs": json_inputs(), "outputs": [{"name": "embeddings"}] * 2}, "given twice"),
        (change(data=[10**400] * 42), "out of range"),
        ({"inputs": json_inputs(), "parameters": {"precision": "float16"}}, "no JSON form"),
        ({"inputs": json_inputs(random_batch([10], 3))}, "sequence 0 has 10 timesteps"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_so(engine, request_, message):
    async def talk(client):
        answer = await client.post(INFER, json=request_)
        assert answer.status_code == 422, answer.text
        assert message in answer.json()["error"]

    ask(engine, talk)


@pytest.mark.parametrize(
    "given",
    [
        '"id": "a"',
        '"parameters": {"normalize": true}',
        '"normalize": true',
        '"shape": [1, 1, 3]',
        '"data": [1, 2, 3]',
        '"name": "embeddings"',
        '"binary_data": false',
    ],
)
def test_a_key_given_twice_is_refused_at_every_level(engine, given):
    request = {
        "id": "a",
        "parameters": {"normalize": True},
        "inputs": [{"name": "values", "datatype": "FP32", "shape": [1, 1, 3], "data": [1, 2, 3]}],
        "outputs": [{"name": "embeddings", "parameters": {"binary_data": False}}],
    }
    once = json.dumps(request)
    name = given.split('"')[1]
    # Written in another way, it is the same key.
    again = given.replace(name[0], f"\\u{ord(name[0]):04x}", 1)

    async def talk(client):
        assert (await client.post(INFER, content=once)).status_code == 200
        for other in (given, again):
            assert once.count(given) == 1
            answer = await client.post(INFER, content=once.replace(given, f"{given}, {other}"))
            assert (answer.status_code, answer.json()["error"]) == (422, f"{name} is given twice")

    ask(engine, talk)


@pytest.mark.parametrize(
    ("cut", "header", "message"),
    [
        (-1, None, "cut off"),
        (None, "99999999", "must be at most"),
        (None, "x", "must be at most"),
        (None, "5", "not JSON"),
    ],
)
def test_bodies_that_lie_about_their_parts(engine, cut, header, message):
    body, headers = binary_request()

    async def talk(client):
        changed = headers | ({HEADER_LENGTH: header} if header else {})
        answer = await client.post(INFER, content=body[:cut], headers=changed)
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["error"]
        answer = await client.post(INFER, content=body + b"xyz", headers=headers)
        assert "bytes follow the JSON" in answer.json()["error"]

    ask(engine, talk)


@settings(max_examples=300)
@given(st.data())
def test_damaged_bodies_are_read_or_refused(data):
    good, headers = binary_request()
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    headers = {key.lower(): value for key, value in headers.items()}
    try:
        request = InferForm(headers, "random").decode(bytes(body), LIMITS)
    except ServiceError as error:
        assert error.status in {400, 422}
    else:
        assert np.isfinite(request.sequences.values).all()


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_compressed_bodies_are_read_up_to_the_limit(engine, encoding, compress):
    async def talk(client):
        body, headers = binary_request()
        headers |= {"Content-Encoding": encoding}
        answer = await client.post(INFER, content=compress(body), headers=headers)
        assert answer.status_code == 200
        plain = {"Content-Type": "application/json", "Content-Encoding": encoding}
        small = compress(json.dumps({"sequences": [[[0.0] * 3]]}).encode())
        assert (await client.post("/embed", content=small, headers=plain)).status_code == 200

        bomb = compress(b" " * 50_000_000)
        assert len(bomb) < 100_000
        answer = await client.post("/embed", content=bomb, headers=plain)
        assert answer.status_code == 413
        for damaged in (b"x" + small, small[:-4], small + b"x"):
            answer = await client.post("/embed", content=damaged, headers=plain)
            assert answer.status_code == 400
        plain["Content-Encoding"] = "br"
        assert (await client.post("/embed", content=small, headers=plain)).status_code == 415
        twice = [*plain.items(), ("Content-Encoding", encoding)]
        assert (await client.post("/embed", content=small, headers=twice)).status_code == 415

    ask(engine, talk, max_body_bytes=100_000)


def test_a_gzip_body_may_have_several_members(engine):
    body = json.dumps({"sequences": [[[0.0] * 3] * 9] * 1000}).encode()
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    async def talk(client):
        async def status(*members):
            content = b"".join(gzip.compress(member, 1) for member in members)
            return (await client.post("/embed", content=content, headers=headers)).status_code

        halves = body[:70_000], body[70_000:]
        assert await status(*halves) == 200
        assert await status(*(body[i : i + 100] for i in range(0, len(body), 100))) == 200
        assert await status(b"", body, b"") == 200
        assert await status(*halves, b" " * 200_000) == 413
        assert await status(body, *[b""] * MAX_MEMBERS) == 400
        cut = gzip.compress(halves[0]) + gzip.compress(halves[1])[:-1]
        assert (await client.post("/embed", content=cut, headers=headers)).status_code == 400

    ask(engine, talk, max_body_bytes=300_000)


def test_the_answer_is_that_of_embed(engine):
    async def talk(client):
        parts = {"sequences": [part.tolist() for part in BATCH.split()]}
        ours, theirs = await asyncio.gather(
            client.post("/embed", json=parts), client.post(INFER, json={"inputs": json_inputs()})
        )
        flat = [number for row in ours.json()["embeddings"] for number in row]
        assert flat == theirs.json()["outputs"][0]["data"]

    ask(engine, talk)


def test_data_is_flat_or_nested_as_its_shape_says(engine):
    nested = {"data": BATCH.values.tolist()}

    async def talk(client):
        answer = await client.post(INFER, json=change(**nested))
        got = np.array(answer.json()["outputs"][0]["data"], np.float32)
        assert got.tobytes() == expected(engine).tobytes()
        for data in ([nested["data"]], nested["data"][:-1], [[1.0]] * 42, [[True] * 3] * 14):
            answer = await client.post(INFER, json=change(data=data))
            assert answer.status_code == 422

    ask(engine, talk)


def test_text_in_place_of_numbers_takes_no_memory():
    """An array of text has room for the longest one in every place."""
    request = change(data=["x" * 1_000_000] + [""] * 100_000)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidError, match="bytes of JSON beside its numbers"):
            InferForm({}, "random").decode(json.dumps(request).encode(), LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))
json_data = st.recursive(numbers, lambda inner: st.lists(inner, max_size=6), max_leaves=30)


@settings(max_examples=300)
@given(
    data=json_data,
    shape=st.lists(st.integers(-2, 2**70) | st.integers(1, 3), max_size=4),
    datatype=st.sampled_from(["FP16", "FP32", "FP64", "INT32", "INT64", "BOOL"]),
    name=st.sampled_from(["values", "lengths"]),
    size=st.none() | st.integers(-1, 2**70),
)
def test_any_input_is_read_or_refused(data, shape, datatype, name, size):
    tensor = {"name": name, "data": data, "shape": shape, "datatype": datatype}
    if size is not None:
        tensor["parameters"] = {"binary_data_size": size}
    inputs = [*(given for given in json_inputs() if given["name"] != name), tensor]
    try:
        request = InferForm({}, "random").decode(json.dumps({"inputs": inputs}).encode(), LIMITS)
    except ServiceError as error:
        assert error.status in {400, 422}
    else:
        assert np.isfinite(request.sequences.values).all()


@pytest.mark.parametrize(
    "name",
    [
        *("lab/vowels", "a/b/c", "é?", "a%2Fb", "100%", "infer", "ready", "stats", "config"),
        *("a/infer", "a/ready", "a/versions/1", "lab/versions/1/x", "lab/config", "lab/stats"),
    ],
)
def test_a_model_may_have_any_name(tmp_path, name):
    random_packed(tmp_path / "m", name=name, embed_dim=3, hidden_size=16, num_layers=1)
    # Encoded, and as Triton's clients write it.
    paths = [f"/v2/models/{quote(name, safe=safe)}" for safe in ("", "/")]

    async def talk(client):
        for path in paths:
            for end in ("", "/versions/1", "/ready", "/versions/1/ready", "/config"):
                answer = await client.get(path + end)
                assert answer.status_code == 200, end
                assert answer.json()["name"] == name
            for end in ("/stats", "/versions/1/stats"):
                assert (await client.get(path + end)).json()["model_stats"][0]["name"] == name
            for end in ("/infer", "/versions/1/infer"):
                answer = await client.post(path + end, json={"inputs": json_inputs()})
                assert answer.status_code == 200, end
                assert answer.json()["model_name"] == name
                assert (await client.get(path + end)).status_code == 405
                wrong = path.replace("models/", "models/x/") + end
                assert (await client.post(wrong, json={"inputs": json_inputs()})).status_code == 404
            for end in ("/versions/2", "/versions/2/ready", "x", "/x", "/", "/x/ready"):
                assert (await client.get(path + end)).status_code == 404, end
            answer = await client.post(f"{path}/versions/2/infer", json={"inputs": json_inputs()})
            assert "has no version '2'" in answer.json()["error"]
            assert (await client.post(f"{path}/ready")).status_code == 405

    ask(Engine.load(tmp_path / "m"), talk)


def test_the_name_follows_a_reload(tmp_path):
    model = tmp_path / "m"
    random_packed(model, name="a/infer", embed_dim=3, hidden_size=16, num_layers=1)

    async def talk(client):
        infer = "/v2/models/a/infer/infer"
        assert (await client.post(infer, json={"inputs": json_inputs()})).status_code == 200
        random_packed(model, name="a", embed_dim=3, hidden_size=16, num_layers=1)
        key = {"Authorization": "Bearer administrator"}
        assert (await client.post("/admin/reload", headers=key)).status_code == 200
        assert (await client.post(infer, json={"inputs": json_inputs()})).status_code == 404
        infer = "/v2/models/a/infer"
        assert (await client.post(infer, json={"inputs": json_inputs()})).status_code == 200

    ask(Engine.load(model), talk, model=model, admin_key="administrator")


def test_the_configuration_is_what_triton_writes(engine):
    async def talk(client):
        for path in ("/v2/models/random/config", "/v2/models/random/versions/1/config"):
            assert (await client.get(path)).json() == {
                "name": "random",
                "platform": "tritserve",
                "backend": "tritserve",
                "max_batch_size": 0,
                "input": [
                    {"name": "values", "data_type": "TYPE_FP32", "dims": [-1, 3]},
                    {"name": "lengths", "data_type": "TYPE_INT64", "dims": [-1]},
                ],
                "output": [{"name": "embeddings", "data_type": "TYPE_FP32", "dims": [-1, 16]}],
                "model_transaction_policy": {"decoupled": False},
            }
        for path in ("/v2/models/x/config", "/v2/models/random/versions/2/config"):
            assert (await client.get(path)).status_code == 404

    ask(engine, talk)


async def statistics(client, path="/v2/models/random/stats"):
    (model,) = (await client.get(path)).json()["model_stats"]
    return model


def test_statistics_are_what_the_metrics_say(engine):
    async def talk(client):
        before = await statistics(client)
        assert (before["inference_count"], before["execution_count"]) == (0, 0)
        assert {d["count"] for d in before["inference_stats"].values()} == {0}
        for _ in range(3):
            await client.post(INFER, json={"inputs": json_inputs()})
        await client.post(INFER, json=change(shape=[14, 2]))
        after = await statistics(client)
        assert (after["name"], after["version"]) == ("random", "1")
        assert (after["inference_count"], after["execution_count"]) == (9, 3)
        durations = after["inference_stats"]
        stages = ["queue", "compute_input", "compute_infer", "compute_output"]
        assert {durations[name]["count"] for name in ["success", *stages]} == {3}
        assert all(durations[name]["ns"] > 0 for name in stages)
        parts = sum(durations[name]["ns"] for name in stages)
        assert abs(durations["success"]["ns"] - parts) <= 4
        assert durations["cache_hit"] == durations["cache_miss"] == {"count": 0, "ns": 0}
        for path in ("/v2/models/stats", "/v2/models/random/versions/1/stats"):
            assert await statistics(client, path) == after
        assert (await client.get("/v2/models/x/stats")).status_code == 404

    ask(engine, talk)


def test_statistics_are_those_of_requests_that_were_answered(engine):
    gate, entered = threading.Event(), threading.Event()
    body, one = {"sequences": [[[0.5] * 3]]}, {"inputs": json_inputs()}
    # What is wrong with it is found when its embeddings are there.
    other = {"name": "embeddings", "datatype": "INT8"}

    def compute(*_):
        entered.set()
        gate.wait(10)

    async def talk(client):
        held = asyncio.create_task(client.post("/embed", json=body))
        await asyncio.to_thread(entered.wait, 10)
        late = await client.post(INFER, json=one, headers={"X-Request-Timeout-Ms": "50"})
        gate.set()
        refused = await client.post(INFER, json={**one, "outputs": [other]})
        assert (late.status_code, refused.status_code) == (504, 422)
        timing = (await held).json()["timing_ms"]
        durations = (await statistics(client))["inference_stats"]
        stages = ["queue", "compute_input", "compute_infer", "compute_output"]
        assert {durations[name]["count"] for name in ["success", *stages]} == {1}
        for stage, name in (("queue", "queue"), ("compute", "compute_infer")):
            assert abs(durations[name]["ns"] - 1e6 * timing[stage]) <= 501
        parts = sum(durations[name]["ns"] for name in stages)
        assert abs(durations["success"]["ns"] - parts) <= 4

    ask(Watched(engine, compute), talk)


def test_the_index_says_what_is_served_and_why_it_is_not_ready(engine):
    async def talk(client):
        index, twice = "/v2/repository/index", b'{"ready": true, "ready": false}'
        served = {"name": "random", "version": "1", "state": "READY", "reason": ""}
        for asked in (b"", b"{}", b'{"ready": true}'):
            assert (await client.post(index, content=asked)).json() == [served]
        for wrong, status in [
            (b"{", 400),
            (b'{"redy": true}', 422),
            (twice, 422),
            (bytes(5000), 413),
        ]:
            answer = await client.post(index, content=wrong)
            assert answer.status_code == status
            assert isinstance(answer.json()["error"], str)
        client._transport.app.state.service.draining = True
        served |= {"state": "UNAVAILABLE", "reason": "the service is stopping"}
        assert (await client.post(index)).json() == [served]
        assert (await client.post(index, json={"ready": True})).json() == []
        client._transport.app.state.service.draining = False

    ask(engine, talk)


HINTS = {"timeout": 60_000_000, "priority": 7, "content_type": "np"}


def test_hints_do_not_change_the_answer(engine):
    inputs = [given | {"parameters": {"content_type": "np"}} for given in json_inputs()]
    outputs = [{"name": "embeddings", "parameters": {"content_type": "np"}}]

    async def talk(client):
        for fields in (
            {"parameters": HINTS, "outputs": outputs},
            {"parameters": dict.fromkeys(HINTS)},
            {"parameters": {"timeout": 0, "priority": 0, "sequence_id": None}},
            {"model_name": "random", "model_version": "1"},
            {"outputs": [{"name": "embeddings", "datatype": "FP32", "shape": [3, 16]}]},
            {"outputs": [{"name": "embeddings", "datatype": "FP32", "shape": [-1, 16]}]},
            {"outputs": [{"name": "embeddings", "datatype": None, "shape": None}]},
        ):
            answer = await client.post(INFER, json={"inputs": inputs, **fields})
            assert answer.status_code == 200, answer.text
            (output,) = answer.json()["outputs"]
            assert np.array(output["data"], np.float32).tobytes() == expected(engine).tobytes()

    ask(engine, talk)


def with_output(**fields):
    return {"inputs": json_inputs(), "outputs": [{"name": "embeddings", **fields}]}


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"model_name": "other"}, 404, "there is no model 'other', only 'random'"),
        ({"model_version": "2"}, 404, "'random' has no version '2'"),
        ({"parameters": {"content_type": "pd"}}, 422, "parameters.content_type: Input should be"),
        ({"parameters": {"sequence_id": 5}}, 422, "no state is kept between requests"),
        ({"parameters": {"timeout": -1}}, 422, "parameters.timeout"),
        ({"parameters": {"timeout": "1"}}, 422, "parameters.timeout"),
        ({"parameters": {"priority": True}}, 422, "parameters.priority"),
        (change(parameters={"content_type": "str"}), 422, "content_type: Input should be 'np'"),
        (change(parameters={"shared_memory_region": "x"}), 422, "shared memory is not read"),
        (with_output(parameters={"classification": 3}), 422, "nothing is classified"),
        (with_output(datatype="FP16"), 422, "'embeddings' is FP32, not 'FP16'; the parameter 'pre"),
        (with_output(shape=[3, 64]), 422, "'embeddings' has shape [3, 16], not [3, 64]"),
        (with_output(shape=[3]), 422, "'embeddings' has shape [3, 16], not [3]"),
        (with_output(shape=[]), 422, "'embeddings' has shape [3, 16], not []"),
    ],
)
def test_what_would_change_the_answer_is_refused(engine, request_, status, message):
    async def talk(client):
        answer = await client.post(INFER, json={"inputs": json_inputs(), **request_})
        assert answer.status_code == status, answer.text
        assert message in answer.json()["error"]

    ask(engine, talk)


def test_a_timeout_is_a_deadline_in_microseconds(engine):
    async def talk(client):
        request = {"inputs": json_inputs(), "parameters": {"timeout": 1}}
        for headers in ({}, {"X-Request-Timeout-Ms": "60000"}):
            answer = await client.post(INFER, json=request, headers=headers)
            assert answer.status_code == 504
            assert "time limit passed" in answer.json()["error"]
        assert (await statistics(client))["execution_count"] == 0

    ask(engine, talk)


def test_an_empty_batch_is_told_so_in_bytes_too(engine):
    body, headers = binary_request()
    head = json.loads(body[: int(headers[HEADER_LENGTH])])
    for given_input in head["inputs"]:
        given_input["parameters"]["binary_data_size"] = 0
    head["inputs"][0]["shape"] = [0, 5, 3]
    text = json.dumps(head).encode()

    async def talk(client):
        changed = headers | {HEADER_LENGTH: str(len(text))}
        answer = await client.post(INFER, content=text, headers=changed)
        assert answer.status_code == 422
        assert EMPTY_BATCH in answer.json()["error"]

    ask(engine, talk)


def test_null_is_no_value(engine):
    inputs = [given | {"parameters": None} for given in json_inputs()]
    outputs = [{"name": "embeddings", "parameters": None}]

    async def talk(client):
        for fields in (
            {"id": None, "parameters": None, "outputs": None},
            {"outputs": outputs},
        ):
            answer = await client.post(INFER, json={"inputs": inputs, **fields})
            assert answer.status_code == 200, answer.text
            (output,) = answer.json()["outputs"]
            assert np.array(output["data"], np.float32).tobytes() == expected(engine).tobytes()

    ask(engine, talk)


def test_an_error_is_short_whatever_was_wrong(engine):
    async def talk(client):
        for wrong in (
            {"outputs": [{}] * 20_000},
            {f"field-{i}": 1 for i in range(3000)},
            {"x" * 50_000: 1},
            {"parameters": {"x" * 50_000: 1}},
        ):
            answer = await client.post(INFER, json={"inputs": json_inputs(), **wrong})
            assert answer.status_code == 422
            assert len(answer.content) < 2000
        fields = {f"field-{i}": 1 for i in range(3000)}
        answer = await client.post(INFER, json={"inputs": json_inputs(), **fields})
        assert answer.json()["error"].endswith("; and 2990 more")

    ask(engine, talk)
