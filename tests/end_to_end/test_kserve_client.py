"""KServe's own clients, unmodified, over REST and gRPC, against a real server process.

They run in a process of their own: their messages and those of Triton's client have the same
names, of which one process takes one.
"""

import asyncio
import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from tests.builders import DATA, JAPANESE_VOWELS
from tests.end_to_end.server import free_port, serving
from tritserve.model.data.dataset import load
from tritserve.model.engine.engine import Engine

MODEL = "japanese-vowels"


def talk_rest(url, talk, *arguments):
    kserve = importlib.import_module("kserve")

    async def main():
        config = kserve.RESTConfig(protocol="v2", timeout=30)
        async with kserve.InferenceRESTClient(config) as client:
            return await talk(kserve, Rest(client, url), *arguments)

    return run(main())


def talk_grpc(address, talk, *arguments):
    kserve = importlib.import_module("kserve")

    async def main():
        async with kserve.InferenceGRPCClient(address, timeout=30) as client:
            return await talk(kserve, client, *arguments)

    return run(main())


def run(main):
    try:
        return asyncio.run(main)
    except Exception as error:
        # Those of the clients do not come through to the other process.
        raise AssertionError(f"{type(error).__name__}: {error}") from None


class Rest:
    """The REST client, which is told each time whom to ask, with the methods of the other."""

    def __init__(self, client, url):
        self._client, self._url = client, url

    async def infer(self, request):
        return await self._client.infer(self._url, request, model_name=MODEL)

    async def is_server_live(self):
        return await self._client.is_server_live(self._url)

    async def is_server_ready(self):
        return await self._client.is_server_ready(self._url)

    async def is_model_ready(self, name):
        return await self._client.is_model_ready(self._url, name)


async def infer(kserve, client, arrays, form, options):
    """The embeddings of `values` and `lengths`, and what they came as."""
    inputs = []
    for name, (array, datatype) in arrays.items():
        inputs.append(kserve.InferInput(name, list(array.shape), datatype))
        if form == "list":
            inputs[-1].data = array.ravel().tolist()
        else:
            inputs[-1].set_data_from_numpy(array, binary_data=form == "binary")
    request = kserve.InferRequest(MODEL, inputs, request_id="7", **options)
    answer = await client.infer(request)
    assert answer.id == "7"
    (output,) = answer.outputs
    return output.datatype, np.asarray(output.as_numpy(), np.float32)


async def fail(kserve, client, arrays, options):
    """The error of the same."""
    try:
        await infer(kserve, client, arrays, "binary", options)
    except Exception as error:
        return str(error)
    raise AssertionError("it was answered")


async def ask_health(_, client):
    return (
        await client.is_server_live(),
        await client.is_server_ready(),
        await client.is_model_ready(MODEL),
    )


@pytest.fixture(scope="module", params=["rest", "grpc"])
def call(request, tmp_path_factory):
    """Runs a conversation with a server."""
    port = free_port()
    environment = {"TRITSERVE_GRPC_PORT": str(port)}
    log = tmp_path_factory.mktemp("kserve") / "log"
    spawning = multiprocessing.get_context("spawn")
    with (
        serving("--model", JAPANESE_VOWELS, log=log, environment=environment) as (url, _),
        ProcessPoolExecutor(1, mp_context=spawning) as process,
    ):
        if request.param == "rest":
            yield lambda *talk: process.submit(talk_rest, url, *talk).result()
        else:
            address = f"127.0.0.1:{port}"
            yield lambda *talk: process.submit(talk_grpc, address, *talk).result()


@pytest.fixture(scope="module")
def sequences():
    return load(DATA / "JapaneseVowels.npz", "test").sequences.select(np.arange(20))


@pytest.fixture(scope="module")
def engine():
    return Engine.load(JAPANESE_VOWELS)


def to_arrays(sequences, dtype="FP32"):
    values = sequences.values.astype({"FP16": np.float16, "FP32": np.float32}[dtype])
    return {"values": (values, dtype), "lengths": (sequences.lengths, "INT64")}


@pytest.mark.parametrize("form", ["binary", "plain", "list"])
def test_it_infers_from_bytes_and_numbers(call, sequences, engine, form):
    datatype, got = call(infer, to_arrays(sequences), form, {})
    assert datatype == "FP32"
    assert got.tobytes() == engine.embed(sequences.values, sequences.lengths).tobytes()


def test_it_infers_in_half_precision(call, sequences, engine):
    arrays = to_arrays(sequences, "FP16")
    options = {"parameters": {"precision": "float16", "binary_data_output": True}}
    datatype, got = call(infer, arrays, "binary", options)
    assert datatype == "FP16"
    values = arrays["values"][0].astype(np.float32)
    expected = engine.embed(values, sequences.lengths).astype(np.float16)
    assert got.tobytes() == expected.astype(np.float32).tobytes()


def test_its_hints_are_taken(call, sequences, engine):
    options = {
        "parameters": {
            "content_type": "np",
            "priority": 1,
            "timeout": 60_000_000,
            "normalize": True,
        }
    }
    _, got = call(infer, to_arrays(sequences), "binary", options)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_it_reads_health(call):
    assert call(ask_health) == (True, True, True)


def test_it_is_told_what_was_wrong(call, sequences):
    assert "sequence_id" in call(fail, to_arrays(sequences), {"parameters": {"sequence_id": 1}})
    arrays = {"values": (np.empty((0, 5, 12), np.float32), "FP32")}
    message = "the batch is empty: input 'values' has shape [0, 5, 12]"
    assert message in call(fail, arrays, {})
