"""A real server process: how it starts, drains, reloads and ends."""

import os
import re
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from tests.builders import ATTACKS, DATA, JAPANESE_VOWELS, npy, random_packed
from tests.end_to_end.server import (
    connect,
    log_lines,
    refused_start,
    run_command,
    serving,
    wait_for,
    wait_until_served,
)
from tests.service.test_settings import SERVICE_LINKS
from tritserve.model.engine.engine import Engine
from tritserve.service.client.client import Client, RequestError

# Slow on purpose: a call of the engine takes a while, so that requests are caught in it.
SLOW = {"embed_dim": 64, "hidden_size": 512, "num_layers": 4, "window_size": 500}
SLOW_DECODING = (Path(__file__).with_name("slow_decoding.py"),)
SLOW_LOADING = (Path(__file__).with_name("slow_loading.py"),)


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("life") / "slow.safetensors"
    random_packed(path, **SLOW)
    return path


def large_batch(count=24):
    return np.random.default_rng(0).standard_normal((count, 500, 64)).astype(np.float32)


def embed(url, batch):
    with Client(url, retry_seconds=0) as client:
        return client.embed(batch)


def queued(url):
    for line in httpx.get(f"{url}/metrics").text.splitlines():
        if line.startswith("tritserve_queue_requests "):
            return float(line.split()[1])
    raise AssertionError("no such metric")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_accepted_requests_finish(slow_model, tmp_path, number):
    log, batch = tmp_path / "log", large_batch()
    with (
        serving("--model", slow_model, log=log) as (url, process),
        ThreadPoolExecutor() as pool,
    ):
        pending = pool.submit(embed, url, batch)
        wait_for(lambda: queued(url) == 1)
        process.send_signal(number)
        wait_for(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        assert httpx.get(f"{url}/health/live").status_code == 200
        refused = httpx.post(f"{url}/embed", json={"sequences": [[[0.0] * 64]]})
        assert refused.status_code == 503
        assert not pending.done(), "the request was over before the signal could matter"
        embeddings = pending.result()
        assert process.wait(20) == 0, log.read_text()
    engine = Engine.load(slow_model)
    expected = engine.embed(batch.reshape(-1, 64), np.full(len(batch), 500))
    assert embeddings.tobytes() == expected.tobytes()


@pytest.mark.parametrize("seconds", [None, "0.5"])
def test_an_answer_on_its_way_is_finished_too(tmp_path, seconds):
    random_packed(tmp_path / "m", embed_dim=1, hidden_size=512, num_layers=1, window_size=9)
    log, size = tmp_path / "log", 10_000 * 512 * 4
    environment = {"TRITSERVE_DRAIN_SECONDS": seconds} if seconds else {}
    with (
        serving("--model", tmp_path / "m", log=log, environment=environment) as (url, process),
        httpx.stream(
            "POST",
            f"{url}/embed",
            content=npy(np.zeros((10_000, 1, 1), np.float32)),
            headers={"Content-Type": "application/x-npy", "Accept": "application/x-npy"},
        ) as answer,
    ):
        pieces = answer.iter_raw(1_000_000)
        received = len(next(pieces))
        process.send_signal(signal.SIGTERM)
        if seconds:
            with pytest.raises(httpx.RemoteProtocolError):
                for piece in pieces:
                    time.sleep(0.3)
                    received += len(piece)
            assert received < size
            assert process.wait(10) == 1
        else:
            for piece in pieces:
                # More than uvicorn would wait for.
                time.sleep(0.4)
                received += len(piece)
            assert received > size
            assert process.wait(10) == 0


def test_a_second_signal_ends_at_once(slow_model, tmp_path):
    with (
        serving("--model", slow_model, log=tmp_path / "log") as (url, process),
        ThreadPoolExecutor() as pool,
    ):
        pending = pool.submit(embed, url, large_batch(64))
        wait_for(lambda: queued(url) == 1)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 1
        assert time.monotonic() - start < 1
        with pytest.raises(httpx.TransportError):
            pending.result()


def test_what_cannot_finish_in_time_is_answered_and_the_process_ends(slow_model, tmp_path):
    environment = {"TRITSERVE_DRAIN_SECONDS": "0.2"}
    with (
        serving("--model", slow_model, log=tmp_path / "log", environment=environment) as server,
        ThreadPoolExecutor() as pool,
    ):
        url, process = server
        pending = pool.submit(embed, url, large_batch(96))
        wait_for(lambda: queued(url) == 1)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(RequestError, match="503 unavailable"):
            pending.result()
        assert process.wait(10) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_thread_keeps_the_process_alive(tmp_path, workers):
    log = tmp_path / "log"
    environment = {"TRITSERVE_DRAIN_SECONDS": "0.5"}
    with (
        serving("--workers", workers, log=log, environment=environment, program=SLOW_DECODING) as (
            url,
            process,
        ),
        ThreadPoolExecutor() as pool,
        connect(url) as half_sent,
    ):
        content = b" " * 100_000
        headers = {"Content-Type": "application/json"}
        pending = [
            pool.submit(httpx.post, f"{url}{path}", content=content, headers=headers, timeout=30)
            for path in ("/embed", "/v2/models/universal/infer")
        ]
        half_sent.sendall(
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 9\r\n\r\n{"
        )
        wait_for(lambda: log.read_text().count("decoding") == 2)
        start = time.monotonic()
        process.terminate()
        answer, infer = [future.result() for future in pending]
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "unavailable"
        assert answer.headers["retry-after"] == "1"
        assert infer.status_code == 503
        assert isinstance(infer.json()["error"], str)
        received = b""
        while data := half_sent.recv(65536):
            received += data
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b'"type":"unavailable"' in received
        assert process.wait(20) == 1
        assert time.monotonic() - start < 4
    assert "Traceback" not in log.read_text()
    requests = [line for line in log_lines(log) if line["event"] == "request"]
    assert [line["status"] for line in requests if line["method"] == "POST"] == [503] * 3


def test_no_thread_keeps_a_grpc_call_or_the_process_alive(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "log"
    environment = {"TRITSERVE_DRAIN_SECONDS": "0.5", "TRITSERVE_GRPC_PORT": str(port)}
    with (
        serving(log=log, environment=environment, program=SLOW_DECODING) as (_, process),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        pending = infer.future(bytes(3 * 2**20))
        wait_for(lambda: "decoding" in log.read_text())
        start = time.monotonic()
        process.terminate()
        refused = pending.exception(20)
        assert refused.code() == grpc.StatusCode.UNAVAILABLE
        assert "not done in time" in refused.details()
        assert process.wait(20) == 1
        assert time.monotonic() - start < 4
    assert "Traceback" not in log.read_text()


def test_a_reload_that_does_not_end_keeps_nothing_alive(tmp_path):
    model = tmp_path / "model.safetensors"
    shutil.copy(JAPANESE_VOWELS, model)
    log = tmp_path / "log"
    environment = {"TRITSERVE_ADMIN_KEY": "a-long-secret"}
    key = {"Authorization": "Bearer a-long-secret"}
    with (
        serving("--model", model, log=log, environment=environment) as (url, process),
        ThreadPoolExecutor() as pool,
    ):
        # Nobody ever writes what it would read.
        model.unlink()
        os.mkfifo(model)
        pending = pool.submit(httpx.post, f"{url}/admin/reload", headers=key, timeout=30)
        time.sleep(0.3)
        process.terminate()
        answer = pending.result()
        assert answer.status_code == 503
        assert answer.json()["error"]["type"] == "unavailable"
        assert process.wait(10) == 0
    (line,) = [line for line in log_lines(log) if line.get("route") == "/admin/reload"]
    assert line["status"] == 503


def test_new_requests_are_answered_during_the_drain_delay(tmp_path):
    environment = {"TRITSERVE_DRAIN_DELAY_SECONDS": "1"}
    with serving(log=tmp_path / "log", environment=environment) as (url, process):
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        body = {"sequences": [[[0.0] * 12]]}
        assert httpx.post(f"{url}/embed", json=body).status_code == 200
        assert process.wait(10) == 0


def test_reloading_swaps_the_model_and_a_broken_file_leaves_the_old_one(tmp_path):
    model = tmp_path / "model.safetensors"
    shutil.copy(JAPANESE_VOWELS, model)
    environment = {"TRITSERVE_ADMIN_KEY": "a-long-secret"}
    key = {"Authorization": "Bearer a-long-secret"}

    def revision():
        return httpx.get(f"{url}/info").json()["revision"]

    def replace(source):
        shutil.copy(source, tmp_path / "new")
        (tmp_path / "new").replace(model)

    with serving("--model", model, log=tmp_path / "log", environment=environment) as (url, process):
        first = revision()
        random_packed(tmp_path / "other", embed_dim=12, hidden_size=16)
        replace(tmp_path / "other")
        assert httpx.post(f"{url}/admin/reload").status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert httpx.post(f"{url}/admin/reload", headers=wrong).status_code == 401
        assert revision() == first

        answer = httpx.post(f"{url}/admin/reload", headers=key)
        assert answer.status_code == 200
        second = answer.json()["revision"]
        assert revision() == second != first
        assert f'revision="{second}"' in httpx.get(f"{url}/metrics").text
        answer = httpx.post(f"{url}/embed", json={"sequences": [[[0.0] * 12]]}).json()
        assert len(answer["embeddings"][0]) == 16

        model.write_bytes(model.read_bytes()[:-9])
        answer = httpx.post(f"{url}/admin/reload", headers=key)
        assert answer.status_code == 409
        assert "the old model goes on" in answer.json()["error"]["message"]
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: "cannot be loaded" in (tmp_path / "log").read_text())
        assert revision() == second
        assert httpx.get(f"{url}/health/ready").status_code == 200

        replace(JAPANESE_VOWELS)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: revision() == first)
        process.terminate()
        assert process.wait(10) == 0


def test_reloading_is_off_unless_keyed(tmp_path):
    with serving(log=tmp_path / "log") as (url, _):
        assert httpx.post(f"{url}/admin/reload").status_code == 404


def test_reloading_under_load_loses_nothing(tmp_path):
    model, log = tmp_path / "model.safetensors", tmp_path / "log"
    shutil.copy(JAPANESE_VOWELS, model)
    with np.load(DATA / "JapaneseVowels.npz") as arrays:
        values, lengths = arrays["test_values"], arrays["test_lengths"]
    utterances = np.split(values, np.cumsum(lengths)[:-1])
    expected = Engine.load(model).embed(values, lengths)
    stop = threading.Event()

    def ask():
        count = 0
        with Client(url, retry_seconds=0) as client:
            while not stop.is_set():
                assert client.embed(utterances).tobytes() == expected.tobytes()
                count += 1
        return count

    with (
        serving("--model", model, log=log) as (url, process),
        ThreadPoolExecutor() as pool,
    ):
        asking = [pool.submit(ask) for _ in range(4)]
        for reloads in range(1, 6):
            process.send_signal(signal.SIGHUP)
            wait_until_served(log, 1 + reloads)
            time.sleep(0.2)
        stop.set()
        assert all(future.result() > 0 for future in asking)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_asked_for_in_the_midst_of_starting_is_made_afterwards(tmp_path, workers):
    log = tmp_path / "log"
    # Where there are workers, their supervisor loads the file first.
    loads = [1] if workers == 1 else [1, 1 + workers]

    def ask_early(process):
        for count in loads:
            wait_for(lambda: log.read_text().count("loading") == count)  # noqa: B023
            process.send_signal(signal.SIGHUP)

    arguments = "--workers", str(workers)
    with serving(*arguments, log=log, program=SLOW_LOADING, started=ask_early) as (_, process):
        wait_until_served(log, 2 * workers)
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_in_the_midst_of_starting_ends_it(tmp_path, workers):
    log, ended = tmp_path / "log", []

    def stop_early(process):
        wait_for(lambda: "loading" in log.read_text())
        process.terminate()
        ended.append(process.wait(10))

    arguments = "--workers", workers
    with (
        pytest.raises(AssertionError, match="did not become ready"),
        serving(*arguments, log=log, program=SLOW_LOADING, started=stop_early),
    ):
        pass
    assert ended == [0]
    assert "Traceback" not in log.read_text()


def first(code):
    """A program that runs `code` before it serves."""
    return (
        "-c",
        f"import os\nimport resource\n{code}\nimport tritserve.__main__",
    )


@pytest.mark.parametrize(("most", "allowed"), [(400, 400), (3000, 2064)])
def test_as_many_files_may_be_open_as_connections_need(tmp_path, most, allowed):
    log = tmp_path / "log"
    program = first(f"resource.setrlimit(resource.RLIMIT_NOFILE, (100, {most}))")
    with serving(log=log, program=program) as (_, process):
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert re.search(rf"Max open files +{allowed} ", limits)
    told = "400 files may be open at once, 1000 connections may need 2064: " in log.read_text()
    assert told == (allowed < 2064)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_that_cannot_be_had_is_one_clear_line(workers):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken = str(listening.getsockname()[1])
        refusals = [
            (["--port", taken], {}, "in use"),
            ([], {"TRITSERVE_GRPC_PORT": taken}, f"TRITSERVE_GRPC_PORT is {taken}: "),
            # Nobody's: it is for documents.
            (["--port", "8000", "--host", "192.0.2.1"], {}, "assign"),
            (["--port", "8001"], {"TRITSERVE_GRPC_PORT": "8001"}, "8001, as is HTTP's port"),
        ]
        for arguments, environment, message in refusals:
            refused = refused_start("--workers", workers, *arguments, environment=environment)
            assert refused.startswith("Error: ")
            assert message in refused
            assert refused.count("\n") == 1


def test_a_missing_model_is_an_error():
    assert "does not exist" in refused_start("--model", "/nothing")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_engine_that_cannot_be_had_is_one_clear_line(workers):
    refused = refused_start("--workers", workers, environment={"TRITSERVE_ISA": "mmx"})
    assert refused.startswith("Error: instruction set 'mmx' is not supported")
    assert refused.count("\n") == 1
    lies = ATTACKS / "config_lies_about_pooling.safetensors"
    refused = refused_start("--workers", workers, "--model", lies)
    assert refused.startswith("Error: ")
    assert refused.count("\n") == 1


def ask_health(**environment):
    run = run_command("health", environment=environment)
    return run.returncode, run.stdout + run.stderr


def test_health_is_a_command(tmp_path):
    environment = {"TRITSERVE_DRAIN_DELAY_SECONDS": "5", "TRITSERVE_HOST": "0.0.0.0"}
    with serving(log=tmp_path / "log", environment=environment) as (url, process):
        where = {"TRITSERVE_PORT": url.rsplit(":", 1)[1]}
        assert ask_health(**where, **environment) == (0, "ready\n")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{url}/health/ready").status_code == 503)
        assert ask_health(**where) == (1, "Error: not ready: the service is stopping\n")
        process.kill()
    status, message = ask_health(**where)
    assert status == 1
    assert message.startswith(f"Error: no answer from 127.0.0.1, port {where['TRITSERVE_PORT']}: ")
    assert ask_health(TRITSERVE_PORT="x")[1].startswith("Error: settings: port: ")


def test_it_starts_beside_a_kubernetes_service_of_its_name(tmp_path):
    with serving(log=tmp_path / "log", environment=SERVICE_LINKS):
        pass
    # Nothing is at this address: what counts is that it asks at the default port.
    status, message = ask_health(**SERVICE_LINKS, TRITSERVE_HOST="127.0.0.77")
    assert status == 1
    assert message.startswith("Error: no answer from 127.0.0.77, port 8000: ")


def test_head_is_get_without_a_body(tmp_path):
    with serving(log=tmp_path / "log") as (url, _), httpx.Client(base_url=url) as client:
        for path in ("/info", "/health/ready", "/metrics", "/docs", "/openapi.json", "/v2"):
            head = client.head(path)
            assert head.status_code == 200, path
            assert head.content == b""
            got = client.get(path)
            assert got.content
            assert head.headers["content-type"] == got.headers["content-type"]
        assert client.head("/nothing").status_code == 404
        refused = client.post("/info")
        assert refused.status_code == 405
        assert refused.headers["allow"] == "GET, HEAD"
