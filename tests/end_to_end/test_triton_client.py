"""Unmodified Triton clients, over HTTP and gRPC, against a real server process."""

import asyncio
import os
import shutil
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.builders import DATA, JAPANESE_VOWELS, random_packed
from tests.end_to_end.server import free_port, run_command, serving
from tests.end_to_end.test_connections import certificate
from tests.end_to_end.test_life import SLOW, first, large_batch, queued, wait_for
from tritserve.model.data.dataset import load
from tritserve.model.engine.engine import Engine
from tritserve.service.oip.grpc import messages as grpc_messages

MODEL = "japanese-vowels"
HTTP, GRPC = tritonclient.http, tritonclient.grpc


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """Where a server answers, for each client library."""
    port = free_port()
    environment = {"TRITSERVE_GRPC_PORT": str(port)}
    log = tmp_path_factory.mktemp("triton") / "log"
    with serving("--model", JAPANESE_VOWELS, log=log, environment=environment) as (url, _):
        yield {HTTP: url.removeprefix("http://"), GRPC: f"127.0.0.1:{port}"}


@pytest.fixture(params=[HTTP, GRPC], ids=["http", "grpc"])
def client(request, addresses):
    with request.param.InferenceServerClient(addresses[request.param]) as connected:
        connected.library = request.param
        yield connected


def test_a_log_that_cannot_be_written_is_no_failure(tmp_path):
    port = free_port()
    with serving(
        "--model",
        JAPANESE_VOWELS,
        log=tmp_path / "log",
        environment={"TRITSERVE_GRPC_PORT": str(port)},
        program=first("os.dup2(os.open('/dev/full', os.O_WRONLY), 2)"),
    ) as (url, process):
        for library, address in ((HTTP, url.removeprefix("http://")), (GRPC, f"127.0.0.1:{port}")):
            with library.InferenceServerClient(address) as client:
                assert client.get_model_metadata(MODEL)
        process.terminate()
        assert process.wait(10) == 0


@pytest.fixture(scope="module")
def sequences():
    return load(DATA / "JapaneseVowels.npz", "test").sequences.select(np.arange(40))


@pytest.fixture(scope="module")
def expected(sequences):
    return Engine.load(JAPANESE_VOWELS).embed(sequences.values, sequences.lengths)


def inputs(library, sequences, **form):
    made = []
    for name, array, datatype in [
        ("values", sequences.values, "FP32"),
        ("lengths", sequences.lengths, "INT64"),
    ]:
        made.append(library.InferInput(name, list(array.shape), datatype))
        made[-1].set_data_from_numpy(array, **form)
    return made


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_http_infers(addresses, sequences, expected, binary, compression):
    outputs = [HTTP.InferRequestedOutput("embeddings", binary_data=binary)]
    with HTTP.InferenceServerClient(addresses[HTTP]) as client:
        for asked in (outputs, None):
            result = client.infer(
                MODEL,
                inputs(HTTP, sequences, binary_data=binary),
                outputs=asked,
                request_id="7",
                request_compression_algorithm=compression,
            )
            got = result.as_numpy("embeddings").astype(np.float32)
            assert got.tobytes() == expected.tobytes()
            assert result.get_response()["id"] == "7"


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_grpc_infers(addresses, sequences, expected, compression):
    with GRPC.InferenceServerClient(addresses[GRPC]) as client:
        for asked in ([GRPC.InferRequestedOutput("embeddings")], None):
            result = client.infer(
                MODEL,
                inputs(GRPC, sequences),
                outputs=asked,
                request_id="7",
                client_timeout=10,
                compression_algorithm=compression,
            )
            assert result.as_numpy("embeddings").tobytes() == expected.tobytes()
            assert result.get_response().id == "7"


@pytest.mark.parametrize("library", [HTTP, GRPC], ids=["http", "grpc"])
def test_asynchronous_clients_infer_and_ask(addresses, sequences, expected, library):
    async def talk():
        async with library.aio.InferenceServerClient(addresses[library]) as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready(MODEL, "1")
            assert (await client.get_server_metadata()) is not None
            results = await asyncio.gather(
                *(client.infer(MODEL, inputs(library, sequences)) for _ in range(8))
            )
            for result in results:
                assert result.as_numpy("embeddings").tobytes() == expected.tobytes()

    asyncio.run(talk())


def test_options_are_parameters(client, sequences):
    result = client.infer(
        MODEL,
        inputs(client.library, sequences),
        parameters={"normalize": True, "precision": "float16"},
    )
    rows = result.as_numpy("embeddings")
    assert rows.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1, atol=1e-3)


def test_they_read_metadata_and_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    # The gRPC client gives these as messages, unless asked for dictionaries.
    options = {"as_json": True} if client.library is GRPC else {}
    assert client.get_server_metadata(**options)["name"] == "tritserve"
    metadata = client.get_model_metadata(MODEL, "1", **options)
    assert [int(size) for size in metadata["outputs"][0]["shape"]] == [-1, 64]


def test_they_are_told_what_was_wrong(client, sequences):
    damaged = sequences.select([0])
    damaged.values[3, 2] = np.nan
    with pytest.raises(InferenceServerException, match="sequence 0, timestep 3, feature 2 is nan"):
        client.infer(MODEL, inputs(client.library, damaged))
    with pytest.raises(InferenceServerException, match="no model 'other'"):
        client.infer("other", inputs(client.library, sequences))
    with pytest.raises(InferenceServerException, match="no state is kept between requests"):
        client.infer(MODEL, inputs(client.library, sequences), sequence_id=7, sequence_start=True)
    with pytest.raises(InferenceServerException, match="nothing is classified"):
        asked = [client.library.InferRequestedOutput("embeddings", class_count=3)]
        client.infer(MODEL, inputs(client.library, sequences), outputs=asked)
    with pytest.raises(InferenceServerException, match="time limit passed"):
        client.infer(MODEL, inputs(client.library, sequences), timeout=1)
    empty = client.library.InferInput("values", [0, 5, 12], "FP32")
    empty.set_data_from_numpy(np.empty((0, 5, 12), np.float32))
    with pytest.raises(InferenceServerException, match=r"the batch is empty: .*\[0, 5, 12\]"):
        client.infer(MODEL, [empty])


def test_they_say_how_to_schedule_a_request(client, sequences, expected):
    hints = {"priority": 1, "timeout": 60_000_000, "parameters": {"content_type": "np"}}
    result = client.infer(MODEL, inputs(client.library, sequences), **hints)
    assert result.as_numpy("embeddings").tobytes() == expected.tobytes()


def test_compressed_answers_may_be_asked_for(addresses, sequences, expected):
    with HTTP.InferenceServerClient(addresses[HTTP]) as client:
        for algorithm in ("gzip", "deflate"):
            got = client.infer(
                MODEL, inputs(HTTP, sequences), response_compression_algorithm=algorithm
            )
            assert got.as_numpy("embeddings").tobytes() == expected.tobytes()


def test_they_read_configuration_statistics_and_index(client, sequences):
    # The gRPC client gives these as messages, unless asked for dictionaries; 64 bits as strings.
    is_grpc = client.library is GRPC
    options = {"as_json": True} if is_grpc else {}
    config = client.get_model_config(MODEL, "1", **options)
    config = config["config"] if is_grpc else config
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert [int(size) for size in config["input"][0]["dims"]] == [-1, 12]
    before = client.get_inference_statistics(MODEL, "1", **options)["model_stats"][0]
    client.infer(MODEL, inputs(client.library, sequences))
    (after,) = client.get_inference_statistics(**options)["model_stats"]
    assert int(after["inference_count"]) - int(before.get("inference_count", 0)) == len(sequences)
    assert int(after["inference_stats"]["success"]["ns"]) > 0
    index = client.get_model_repository_index(**options)
    (model,) = index["models"] if is_grpc else index
    assert (model["name"], model["state"]) == (MODEL, "READY")


def test_a_method_that_is_not_there_says_what_is(addresses):
    with GRPC.InferenceServerClient(addresses[GRPC]) as client:
        with pytest.raises(InferenceServerException, match=r"no method /.*Load; .*ModelInfer"):
            client.load_model(MODEL)
        answers = SimpleQueue()
        client.start_stream(lambda result, error: answers.put(error))
        message = str(answers.get(timeout=20))
        assert "no method /inference.GRPCInferenceService/ModelStreamInfer" in message
        client.stop_stream()


def test_our_messages_are_those_of_the_protocol():
    """Each of ours, field by field, has the type and number that Triton's client has.

    A message that clients send has all of the fields: none would be passed over unseen.
    """
    theirs = service_pb2.DESCRIPTOR
    assert grpc_messages.SERVICE.full_name == "inference.GRPCInferenceService"
    methods = theirs.services_by_name["GRPCInferenceService"].methods_by_name
    for method in grpc_messages.SERVICE.methods:
        official = methods[method.name]
        assert method.input_type.full_name == official.input_type.full_name
        assert method.output_type.full_name == official.output_type.full_name
    compared = 0
    sent = [method.input_type.full_name for method in grpc_messages.SERVICE.methods]
    messages = list(grpc_messages.FILE.message_types_by_name.values())
    for ours in messages:
        messages += ours.nested_types
        official = theirs.pool.FindMessageTypeByName(ours.full_name)
        described = {describe(field) for field in official.fields}
        assert {describe(field) for field in ours.fields} <= described
        if ours.full_name.startswith(tuple(sent)):
            assert len(ours.fields) == len(described), ours.full_name
        compared += len(ours.fields)
    assert compared > 90
    for ours in grpc_messages.FILE.enum_types_by_name.values():
        official = theirs.pool.FindEnumTypeByName(ours.full_name)
        assert values_of(ours) == values_of(official)


def values_of(enumeration):
    return [(value.name, value.number) for value in enumeration.values]


def describe(field):
    return (
        field.name,
        field.number,
        field.type,
        field.is_repeated,
        field.message_type and field.message_type.full_name,
        field.enum_type and field.enum_type.full_name,
        field.containing_oneof and field.containing_oneof.name,
    )


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
@pytest.mark.parametrize("joined", [False, True], ids=["two files", "one file"])
def test_tls_is_for_grpc_too(tmp_path, sequences, expected, joined):
    cert, key = certificate(tmp_path)
    port = free_port()
    environment = {"TRITSERVE_GRPC_PORT": str(port), "TRITSERVE_SSL_CERTFILE": str(cert)}
    trusted = cert.read_bytes()
    if joined:
        cert.write_bytes(trusted + key.read_bytes())
    else:
        environment["TRITSERVE_SSL_KEYFILE"] = str(key)
    (tmp_path / "trusted.pem").write_bytes(trusted)
    context = ssl.create_default_context(cafile=tmp_path / "trusted.pem")
    arguments = {"log": tmp_path / "log", "environment": environment, "verify": context}
    with (
        serving("--model", JAPANESE_VOWELS, **arguments),
        GRPC.InferenceServerClient(
            f"127.0.0.1:{port}", ssl=True, root_certificates=str(tmp_path / "trusted.pem")
        ) as client,
    ):
        got = client.infer(MODEL, inputs(GRPC, sequences)).as_numpy("embeddings")
        assert got.tobytes() == expected.tobytes()


def test_workers_share_the_port_and_finish_what_they_accepted(tmp_path, sequences, expected):
    port = free_port()
    environment = {"TRITSERVE_GRPC_PORT": str(port)}
    arguments = ("--workers", "2", "--model", JAPANESE_VOWELS)
    with (
        serving(*arguments, log=tmp_path / "log", environment=environment) as (_, process),
        GRPC.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        for _ in range(3):
            got = client.infer(MODEL, inputs(GRPC, sequences)).as_numpy("embeddings")
            assert got.tobytes() == expected.tobytes()
        (model,) = client.get_inference_statistics(MODEL).model_stats
        assert model.inference_stats.success.count == 3, "whichever worker is asked"
        process.terminate()
        assert process.wait(20) == 0
        with pytest.raises(InferenceServerException):
            client.is_server_live()


def test_settings_that_make_no_sense_end_the_start(tmp_path):
    cert, key = tmp_path / "cert", tmp_path / "key"
    for path in (cert, key):
        path.touch()
    with socket.socket() as taken:
        # Its owner would share it; we must not.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        taken_port = taken.getsockname()[1]
        for options, message in [
            ({"GRPC_PORT": "0"}, "grpc_port"),
            ({"GRPC_PORT": str(taken_port)}, f"TRITSERVE_GRPC_PORT is {taken_port}: "),
            (
                {
                    "GRPC_PORT": "1",
                    "SSL_CERTFILE": str(cert),
                    "SSL_KEYFILE": str(key),
                    "SSL_KEYFILE_PASSWORD": "secret",
                },
                "gRPC cannot use a TLS key with a password",
            ),
        ]:
            environment = {f"TRITSERVE_{name}": value for name, value in options.items()}
            run = run_command("serve", "--port", "0", environment=environment)
            assert run.returncode
            assert message in run.stderr


def test_without_its_packages_grpc_says_what_to_install(tmp_path):
    (tmp_path / "grpc.py").write_text("raise ModuleNotFoundError('no grpc', name='grpc')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": path, "TRITSERVE_GRPC_PORT": "1"}
    run = run_command("serve", "--port", "0", environment=environment)
    assert run.returncode == 1
    assert "grpc is missing; install tritserve with its extra 'grpc'" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_signal_lets_accepted_grpc_calls_finish(tmp_path):
    random_packed(tmp_path / "slow", **SLOW)
    batch = large_batch()
    port = free_port()
    given = GRPC.InferInput("values", list(batch.shape), "FP32")
    given.set_data_from_numpy(batch)
    environment = {"TRITSERVE_GRPC_PORT": str(port)}
    with (
        serving("--model", tmp_path / "slow", log=tmp_path / "log", environment=environment) as (
            url,
            process,
        ),
        GRPC.InferenceServerClient(f"127.0.0.1:{port}") as client,
        ThreadPoolExecutor() as pool,
    ):
        pending = pool.submit(client.infer, "random", [given])
        wait_for(lambda: queued(url) == 1)
        process.terminate()
        wait_for(lambda: not client.is_server_ready())
        assert client.is_server_live()
        with pytest.raises(InferenceServerException, match="stopping"):
            client.infer("random", [given])
        assert not pending.done(), "the call was over before the signal could matter"
        got = pending.result().as_numpy("embeddings")
        assert process.wait(20) == 0
    engine = Engine.load(tmp_path / "slow")
    expected = engine.embed(batch.reshape(-1, 64), np.full(len(batch), 500))
    assert got.tobytes() == expected.tobytes()
