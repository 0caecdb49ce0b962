"""A model that sees channels one by one, over HTTP: any number of them, joined or kept apart."""

import asyncio
import io
import json
import threading

import numpy as np
import pytest
import safetensors.numpy

from tests.builders import CHANNELS, npy, random_packed
from tests.service.client.test_client import against_app
from tests.service.live import Watched, ask
from tests.service.oip.test_grpc import ask as ask_grpc
from tests.service.oip.test_grpc import raw_request
from tests.service.oip.test_rest import binary_request, json_inputs
from tritserve.model.channels import windows
from tritserve.model.engine.calibration import calibrate
from tritserve.model.engine.engine import Engine
from tritserve.model.packed.file import PackedFileError, parse
from tritserve.model.pretrained import DEFAULT_MODEL
from tritserve.model.sequences import Sequences
from tritserve.model.signature import Signature
from tritserve.service.forms.cost import Cost
from tritserve.service.forms.media import NPY, SAFETENSORS
from tritserve.service.oip.rest.form import HEADER_LENGTH

INFER = "/v2/models/random/infer"
# Of the fixture, as `CHANNELS` has it.
CHANNEL_SIZE, OUTPUT_SIZE, WINDOW, WINDOW_COST = 43, 52, 60, 6
NOT_MINE = "this model joins its features; it cannot keep channels apart"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return random_packed(tmp_path_factory.mktemp("channels") / "m", **CHANNELS)[1]


@pytest.fixture(scope="module")
def by_channel(packed):
    return Engine(packed)


def walk(width, timesteps=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((timesteps, width)).cumsum(axis=0).astype(np.float32)


def batch_of(*sequences):
    return Sequences.from_list(sequences)


def with_gaps(values):
    gaps = values.copy()
    gaps[1, 0] = gaps[-1, -1] = np.nan
    return gaps


def as_lists(batch):
    """The sequences as JSON has them, null where a value is missing."""
    return [
        [[None if np.isnan(x) else float(x) for x in row] for row in part] for part in batch.split()
    ]


def rows_of(answer):
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embeddings"], np.float32)


def tensors_of(batch):
    return safetensors.numpy.save({"values": batch.values, "lengths": batch.lengths})


def oip_json(batch):
    inputs = json_inputs(batch)
    inputs[0]["data"] = [None if np.isnan(x) else float(x) for x in batch.values.ravel()]
    return inputs


async def answers_of(client, batch, **options):
    """A request's embeddings in every form that takes it."""
    yield await client.post("/embed", json={"sequences": as_lists(batch)} | options)
    padded = " " * 70_000
    text = json.dumps({"sequences": as_lists(batch)} | options).replace("[[[", f"[{padded}[[")
    yield await client.post("/embed", content=text, headers={"Content-Type": "application/json"})
    dense = npy(batch.values.reshape(len(batch), -1, batch.values.shape[1]))
    for content, kind in ((tensors_of(batch), SAFETENSORS), (dense, NPY)):
        headers = {"Content-Type": kind}
        yield await client.post("/embed", content=content, headers=headers, params=options)


@pytest.mark.parametrize("width", [1, 3, 40])
@pytest.mark.parametrize("missing", [False, True])
def test_any_number_of_channels_and_missing_values_in_every_form(by_channel, width, missing):
    values = walk(width, 18)
    values = with_gaps(values) if missing else values
    batch = Sequences(values, np.array([9, 9]))
    expected = by_channel.embed(batch.values, batch.lengths)

    async def talk(client):
        async for answer in answers_of(client, batch):
            assert rows_of(answer).tobytes() == expected.tobytes()
            assert answer.json()["model"]["output_size"] == OUTPUT_SIZE
            assert answer.json()["model"]["channels"] == "joined"
        content, headers = binary_request(batch)
        for answer in (
            await client.post(INFER, content=content, headers=headers),
            await client.post(INFER, json={"inputs": oip_json(batch)}),
        ):
            (output,) = answer.json()["outputs"]
            assert output["shape"] == [2, OUTPUT_SIZE]
            assert np.array(output["data"], np.float32).tobytes() == expected.tobytes()

    ask(by_channel, talk)


def test_channels_kept_apart_are_told_in_every_form(by_channel):
    batch = Sequences(walk(3, 18), np.array([9, 9]))
    expected = by_channel.embed(batch.values, batch.lengths, apart=True)
    assert expected.shape == (2, 3 * CHANNEL_SIZE)

    async def talk(client):
        async for answer in answers_of(client, batch, channels="apart"):
            assert rows_of(answer).tobytes() == expected.tobytes()
            assert answer.json()["model"]["output_size"] == 3 * CHANNEL_SIZE
            assert answer.json()["model"]["channels"] == "apart"
        content = tensors_of(batch)

        async def answer(accept):
            headers = {"Content-Type": SAFETENSORS, "Accept": accept}
            params = {"channels": "apart"}
            return await client.post("/embed", content=content, headers=headers, params=params)

        as_npy = await answer(NPY)
        assert as_npy.headers["tritserve-channels"] == "apart"
        assert np.load(io.BytesIO(as_npy.content)).tobytes() == expected.tobytes()
        told = (await answer(SAFETENSORS)).content
        header = json.loads(told[8 : 8 + int.from_bytes(told[:8], "little")])
        assert json.loads(header["__metadata__"]["model"])["channels"] == "apart"
        asked = {"inputs": json_inputs(batch), "parameters": {"channels": "apart"}}
        (output,) = (await client.post(INFER, json=asked)).json()["outputs"]
        assert np.array(output["data"], np.float32).tobytes() == expected.tobytes()

    ask(by_channel, talk)


def test_a_model_that_joins_features_takes_neither_gaps_nor_channels_apart(engine):
    batch = Sequences(with_gaps(walk(3, 18)), np.array([9, 9]))

    async def talk(client):
        async for answer in answers_of(client, batch):
            error = answer.json()["error"]
            assert (answer.status_code, error["row"], error["timestep"]) == (422, 0, 1)
            assert "valid number" in error["message"] or "must be finite" in error["message"]
        refused = await client.post(INFER, json={"inputs": oip_json(batch)})
        assert refused.json() == {"error": "input 'values' must have FP32 numbers as its data"}
        async for answer in answers_of(client, batch, channels="apart"):
            assert answer.status_code == 422
        whole = Sequences(walk(3, 18), np.array([9, 9]))
        async for answer in answers_of(client, whole, channels="apart"):
            error = answer.json()["error"]
            assert (answer.status_code, error["field"]) == (422, "channels")
            assert error["message"] == NOT_MINE
        async for answer in answers_of(client, whole, channels="joined"):
            assert answer.status_code == 200

    ask(engine, talk)


def test_infinity_is_wrong_for_every_model(by_channel):
    values = walk(2, 18)
    values[11, 1] = np.inf

    async def talk(client):
        for kind, content in (
            (SAFETENSORS, tensors_of(Sequences(values, np.array([9, 9])))),
            (NPY, npy(values.reshape(2, 9, 2))),
            ("application/json", b'{"sequences": [[[1]], [[1], [null], [1e39]]]}'),
        ):
            answer = await client.post("/embed", content=content, headers={"Content-Type": kind})
            error = answer.json()["error"]
            assert (answer.status_code, error["row"], error["timestep"]) == (422, 1, 2)
            assert "is inf; values must be finite, or NaN where one is missing" in error["message"]

    ask(by_channel, talk)


@pytest.mark.parametrize("padding", [0, 70_000])
def test_the_sequences_of_a_request_have_as_many_channels(by_channel, padding):
    async def talk(client):
        async def message(*sequences):
            text = json.dumps({"sequences": sequences})
            text = text.replace("]], [[", f"]],{' ' * padding} [[")
            headers = {"Content-Type": "application/json"}
            answer = await client.post("/embed", content=text, headers=headers)
            assert answer.status_code == 422
            error = answer.json()["error"]
            return error["message"], error["row"], error["timestep"]

        as_many = "all timesteps of a request have as many"
        told = "sequence 1, timestep 1 has 3 channels; " + as_many + ", 2 here"
        assert await message([[1, 2]], [[1, 2], [1, 2, 3]]) == (told, 1, 1)
        told = "sequence 0, timestep 0 has 0 channels; " + as_many + ", 1 here"
        assert await message([[]], [[1]]) == (told, 0, 0)

    ask(by_channel, talk)


def test_a_batch_holds_requests_of_one_width_and_kind_and_changes_no_byte(by_channel):
    """Alone and beside any others, joined or apart: the same bytes."""
    asked = [
        (batch_of(walk(width, 5 + seed, seed), walk(width, 70, seed)), kind)
        for seed in range(4)
        for width in (1, 2, 5)
        for kind in ("joined", "apart")
    ]
    seen, entered, opened = [], threading.Event(), threading.Event()

    def before(values, lengths):
        seen.append((values.shape[1], len(lengths)))
        entered.set()
        assert opened.wait(30)

    async def talk(client):
        async def embed(batch, kind):
            headers = {"Content-Type": SAFETENSORS}
            params = {"channels": kind}
            content = tensors_of(batch)
            return rows_of(
                await client.post("/embed", content=content, headers=headers, params=params)
            )

        first = asyncio.create_task(embed(*asked[0]))
        await asyncio.to_thread(entered.wait, 30)
        others = [asyncio.create_task(embed(*request)) for request in asked[1:]]
        while f"tritserve_queue_requests {len(asked)}.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0)
        opened.set()
        return await asyncio.gather(first, *others)

    answers = ask(Watched(by_channel, before), talk)
    for (batch, kind), rows in zip(asked, answers, strict=True):
        alone = by_channel.embed(batch.values, batch.lengths, apart=kind == "apart")
        assert rows.tobytes() == alone.tobytes()
    # One call for the first, one for each kind that waited.
    assert sorted(width for width, _ in seen[1:]) == [1, 1, 2, 2, 5, 5]
    assert sum(sequences for _, sequences in seen) == 2 * len(asked)


def test_a_sequence_counts_what_is_computed_of_it():
    lengths = np.array([1, 59, 60, 61, 119, 120, 121, 1000])
    batch = Sequences(np.zeros((int(lengths.sum()), 7), np.float32), lengths)
    counted = Cost(WINDOW, WINDOW_COST).of(batch)
    assert counted.tolist() == [7 * 6 * len(windows(int(n), WINDOW)) for n in lengths]
    assert Cost().of(batch) is lengths


def test_many_channels_count_as_much_as_they_take(by_channel):
    batch = batch_of(*(walk(10, 1) for _ in range(2)))

    async def talk(client):
        limits = (await client.get("/info")).json()["limits"]
        assert (limits["window"], limits["window_cost"]) == (WINDOW, WINDOW_COST)
        answer = await client.post("/embed", json={"sequences": as_lists(batch)})
        return answer.status_code, answer.json()

    limit = 2 * 10 * WINDOW_COST
    common = {"batch_timesteps": 1, "queue_timesteps": 10_000}
    status, told = ask(by_channel, talk, max_request_timesteps=limit, **common)
    assert status == 200
    assert told["usage"]["timesteps"] == 2
    status, told = ask(by_channel, talk, max_request_timesteps=limit - 1, **common)
    assert status == 422
    assert told["error"]["limit"] == limit - 1
    assert "2 timesteps of 10 channels, which count as 120; at most 119" in told["error"]["message"]


def test_a_full_queue_is_full_of_what_is_computed(by_channel):
    entered, opened = threading.Event(), threading.Event()

    def before(values, lengths):
        entered.set()
        assert opened.wait(30)

    async def talk(client):
        body = {"sequences": as_lists(batch_of(walk(10, 1)))}
        first = asyncio.create_task(client.post("/embed", json=body))
        await asyncio.to_thread(entered.wait, 30)
        refused = await client.post("/embed", json=body)
        opened.set()
        return await first, refused

    first, refused = ask(Watched(by_channel, before), talk, queue_timesteps=119)
    assert first.status_code == 200
    assert refused.status_code == 429
    assert "60 timesteps are waiting, this request counts 60" in refused.json()["error"]["message"]


def test_the_client_sends_parts_that_are_within_the_limits(by_channel):
    batch = batch_of(*(with_gaps(walk(10, 3 + i % 90, i)) for i in range(50)))
    statuses = []

    async def talk(client):
        await client.info()
        return await client.embed_detailed(batch.split(), channels="apart")

    async def note(app, request):
        statuses.append(request.url.path)

    limits = {"max_request_timesteps": 400, "batch_timesteps": 100}
    answer = against_app(by_channel, talk, note, **limits)
    expected = by_channel.embed(batch.values, batch.lengths, apart=True)
    assert answer.embeddings.tobytes() == expected.tobytes()
    assert (answer.model.channels, answer.model.output_size) == ("apart", 10 * CHANNEL_SIZE)
    # As few as can be, none of them refused: a second question about limits would follow.
    counted = Cost(WINDOW, WINDOW_COST).of(batch).sum()
    assert counted / 400 <= statuses.count("/embed") <= 2 * counted / 400
    assert statuses.count("/info") == 1


def test_the_client_cuts_a_series_with_gaps(by_channel):
    long = with_gaps(walk(2, 1500))

    async def talk(client):
        await client.info()
        return await client.embed_detailed([long], overlong="keep_last")

    answer = against_app(by_channel, talk)
    assert answer.truncated == [0]
    expected = by_channel.embed(long[-1000:], np.array([1000]))
    assert answer.embeddings.tobytes() == expected.tobytes()


def test_info_and_the_protocol_tell_of_channels(by_channel):
    async def talk(client):
        info = (await client.get("/info")).json()
        assert info["config"]["embed_dim"] is None
        assert (info["output_size"], info["channel_size"]) == (OUTPUT_SIZE, CHANNEL_SIZE)
        assert info["calibrated_channels"] == 0
        model = (await client.get("/v2/models/random")).json()
        shapes = {tensor["name"]: tensor["shape"] for tensor in model["inputs"] + model["outputs"]}
        assert shapes == {"values": [-1, -1], "lengths": [-1], "embeddings": [-1, OUTPUT_SIZE]}
        dims = (await client.get("/v2/models/random/config")).json()["input"][0]["dims"]
        assert dims == [-1, -1]

    ask(by_channel, talk)


def test_a_request_may_fill_an_eighth_of_the_queue_however_long_a_series_may_be():
    async def talk(client):
        limits = (await client.get("/info")).json()["limits"]
        assert limits["max_timesteps"] == 2**20
        assert limits["max_request_timesteps"] == limits["queue_timesteps"] // 8 == 125_000

    ask(Engine.load(DEFAULT_MODEL), talk)


def test_a_model_that_joins_features_tells_nothing_of_channels(engine):
    async def talk(client):
        info = (await client.get("/info")).json()
        assert not {"channel_size", "calibrated_channels"} & set(info)
        assert not {"window", "window_cost"} & set(info["limits"])

    ask(engine, talk)


def test_a_pooling_that_is_twice_as_wide_is_told(tmp_path):
    file = random_packed(tmp_path / "m", embed_dim=3, hidden_size=16, pooling="mean_max")[1]

    async def talk(client):
        answer = (await client.post("/embed", json={"sequences": [[[1, 2, 3]]]})).json()
        info = (await client.get("/info")).json()
        model = (await client.get("/v2/models/random")).json()
        assert len(answer["embeddings"][0]) == 32
        assert answer["model"]["output_size"] == info["output_size"] == 32
        assert model["outputs"][0]["shape"] == [-1, 32]

    ask(Engine(file), talk)


def test_a_calibrated_model_knows_its_channels_by_name(packed):
    names = Signature(feature_names=("speed", "torque"))
    statistics = np.array([5, -2], np.float32), np.array([4, 0.5], np.float32)
    calibrated = Engine(parse(calibrate(packed, *statistics, names)))
    values = walk(2)
    expected = calibrated.embed(values, np.array([8]))

    async def talk(client):
        info = (await client.get("/info")).json()
        assert info["calibrated_channels"] == 2
        assert info["features"]["names"] == ["speed", "torque"]
        turned = {"sequences": [values[:, ::-1].tolist()]}
        answer = await client.post("/embed", json=turned | {"features": ["torque", "speed"]})
        assert rows_of(answer).tobytes() == expected.tobytes()
        answer = await client.post("/embed", json=turned | {"features": ["torque", "pace"]})
        assert answer.json()["error"]["missing"] == ["speed"]
        # Without names, columns are in order, and there may be more than are known.
        answer = await client.post("/embed", json={"sequences": [walk(3).tolist()]})
        assert rows_of(answer).shape == (1, OUTPUT_SIZE)

    ask(calibrated, talk)


def test_bytes_of_the_protocol_may_be_channels_apart(by_channel):
    batch = batch_of(walk(4), walk(4, 3))
    parameters = {"channels": "apart", "binary_data_output": True}
    content, headers = binary_request(batch, parameters=parameters)

    async def talk(client):
        answer = await client.post(INFER, content=content, headers=headers)
        return answer.content[int(answer.headers[HEADER_LENGTH]) :]

    expected = by_channel.embed(batch.values, batch.lengths, apart=True)
    assert ask(by_channel, talk) == expected.tobytes()


def test_over_grpc_values_may_be_missing_and_channels_apart(by_channel):
    batch = batch_of(with_gaps(walk(4)), walk(4, 3))
    request = raw_request(batch)
    request.parameters["channels"].string_param = "apart"

    async def talk(call, _):
        return (await call("ModelInfer", request)).raw_output_contents[0]

    expected = by_channel.embed(batch.values, batch.lengths, apart=True)
    assert ask_grpc(by_channel, talk) == expected.tobytes()


def test_names_of_other_channels_than_those_that_are_calibrated_are_refused(packed):
    ones = np.ones(3, np.float32)
    with pytest.raises(PackedFileError, match="there are 2 feature names, and 3 features"):
        calibrate(packed, ones, ones, Signature(feature_names=("speed", "torque")))
