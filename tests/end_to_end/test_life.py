"""A real server process: how it starts, drains, reloads and ends."""

import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from model.engine import Engine
from model.pretrained import DEFAULT_MODEL
from service.client import Client, RequestError
from tests.builders import DATA, random_packed
from tests.end_to_end.server import refused_start, serving

# Slow on purpose: a call of the engine takes a while, so that requests are caught in it.
SLOW = {"embed_dim": 64, "hidden_size": 512, "num_layers": 4, "window_size": 500}
SHARED = Path("/dev/shm")


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


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


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
    shutil.copy(DEFAULT_MODEL, model)
    environment = {"TRITSERVE_ADMIN_KEY": "a long secret"}
    key = {"Authorization": "Bearer a long secret"}

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

        replace(DEFAULT_MODEL)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: revision() == first)
        process.terminate()
        assert process.wait(10) == 0


def test_reloading_is_off_unless_keyed(tmp_path):
    with serving(log=tmp_path / "log") as (url, _):
        assert httpx.post(f"{url}/admin/reload").status_code == 404


def test_reloading_under_load_loses_nothing(tmp_path):
    model = tmp_path / "model.safetensors"
    shutil.copy(DEFAULT_MODEL, model)
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
        serving("--model", model, log=tmp_path / "log") as (url, process),
        ThreadPoolExecutor() as pool,
    ):
        asking = [pool.submit(ask) for _ in range(4)]
        for _ in range(5):
            process.send_signal(signal.SIGHUP)
            time.sleep(0.2)
        stop.set()
        assert all(future.result() > 0 for future in asking)
        assert (tmp_path / "log").read_text().count("now serving") == 5


def worker_pids(process):
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:  # noqa: PTH123
        pids = file.read().split()
    return {int(pid) for pid in pids if b"spawn_main" in command_line(pid)}


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return b""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_share_a_port_are_replaced_and_end_together(tmp_path):
    body = {"sequences": [[[0.0] * 12]]}
    with serving("--workers", "2", log=tmp_path / "log") as (url, process):
        wait_for(lambda: len(worker_pids(process)) == 2)
        victim, other = sorted(worker_pids(process))
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(worker_pids(process)) == 2 and victim not in worker_pids(process))
        assert other in worker_pids(process)
        for _ in range(20):
            assert httpx.post(f"{url}/embed", json=body).status_code == 200
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_count_together(tmp_path):
    def metrics(url):
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def answered(url):
        return float(metrics(url)['tritserve_requests_total{route="/embed",status="200"}'])

    folders = set(SHARED.glob("tritserve-*"))
    with serving("--workers", "2", log=tmp_path / "log") as (url, process):
        wait_for(lambda: metrics(url).get("tritserve_ready") == "1.0")
        assert answered(url) == 0
        for count in range(1, 31):
            httpx.post(f"{url}/embed", json={"sequences": [[[0.0] * 12]] * 2}).raise_for_status()
            # Each connection may meet another worker.
            assert [answered(url) for _ in range(3)] == [count] * 3
        before = metrics(url)
        assert before["tritserve_batch_sequences_sum"] == "60.0"
        assert before["tritserve_timesteps_total"] == "60.0"
        idle = [httpx.Client(base_url=url) for _ in range(20)]
        for client in idle:
            client.get("/health/live")
        assert float(metrics(url)["tritserve_connections"]) == 21
        for victim in worker_pids(process):
            os.kill(victim, signal.SIGKILL)
            wait_for(lambda: len(worker_pids(process)) == 2 and victim not in worker_pids(process))  # noqa: B023
            wait_for(lambda: metrics(url).get("tritserve_ready") == "1.0")
        # What was counted stays, what was open is gone.
        assert answered(url) == 30
        assert float(metrics(url)["tritserve_connections"]) == 1
        (model,) = [name for name in metrics(url) if name.startswith("tritserve_model_info")]
        assert metrics(url)[model] == "1.0"
        for client in idle:
            client.close()
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
    assert set(SHARED.glob("tritserve-*")) <= folders


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_supervisor_gives_up_when_no_worker_can_start(tmp_path):
    model = shutil.copy(DEFAULT_MODEL, tmp_path / "model.safetensors")
    log = tmp_path / "log"
    with serving("--workers", "2", "--model", model, log=log) as (_, process):
        wait_for(lambda: len(worker_pids(process)) == 2)
        model.write_bytes(b"broken")
        for pid in worker_pids(process):
            os.kill(pid, signal.SIGKILL)
        assert process.wait(60) == 1
    assert "again and again" in log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_reload_does_not_kill_workers_that_are_starting(tmp_path):
    log = tmp_path / "log"
    with serving("--workers", "2", log=log) as (url, process):
        wait_for(lambda: len(worker_pids(process)) == 2)
        os.kill(min(worker_pids(process)), signal.SIGKILL)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        wait_for(lambda: len(worker_pids(process)) == 2)
        assert httpx.get(f"{url}/health/ready").is_success
        process.terminate()
        assert process.wait(20) == 0
    assert log.read_text().count("another one starts") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_their_supervisor_is_killed(tmp_path):
    folders = set(SHARED.glob("tritserve-*"))
    with serving("--workers", "2", log=tmp_path / "log") as (_, process):
        wait_for(lambda: len(worker_pids(process)) == 2)
        workers = worker_pids(process)
        process.kill()
        process.wait()
        wait_for(lambda: not any(command_line(pid) for pid in workers))
    assert set(SHARED.glob("tritserve-*")) <= folders


def test_a_taken_port_or_a_missing_model_is_one_clear_line(tmp_path):
    with serving(log=tmp_path / "log") as (url, _):
        port = url.rsplit(":", 1)[1]
        for arguments, message in [
            (["--port", port, "--workers", "2"], "in use"),
            (["--port", port], "in use"),
        ]:
            assert message in refused_start(*arguments)
        environment = {"TRITSERVE_GRPC_PORT": port}
        assert "in use" in refused_start("--workers", "2", environment=environment)
    assert "does not exist" in refused_start("--model", tmp_path / "none")
