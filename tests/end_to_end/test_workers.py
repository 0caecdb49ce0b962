"""Several real server processes on one port."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.builders import JAPANESE_VOWELS, random_packed
from tests.end_to_end.server import serving, wait_for
from tritserve.service.process.shared_folder import PREFIX

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SHARED = Path("/dev/shm")


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


def shared_folder(process):
    """Where the workers of a supervisor count together: it holds it open."""
    opened = []
    for file in Path(f"/proc/{process.pid}/fd").iterdir():
        # It may be closed by now.
        with suppress(FileNotFoundError):
            opened.append(file.readlink())
    (folder,) = [path for path in opened if path.name.startswith(PREFIX)]
    return folder


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


def test_workers_count_together(tmp_path):
    def metrics(url):
        lines = httpx.get(f"{url}/metrics", timeout=20).text.splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

    def answered(url):
        return float(metrics(url)['tritserve_requests_total{route="/embed",status="200"}'])

    with (
        serving("--workers", "2", log=tmp_path / "log") as (url, process),
        ExitStack() as idle,
    ):
        folder = shared_folder(process)
        wait_for(lambda: metrics(url).get("tritserve_ready") == "1.0")
        assert answered(url) == 0
        for count in range(1, 31):
            httpx.post(f"{url}/embed", json={"sequences": [[[0.0] * 12]] * 2}).raise_for_status()
            # Each connection may meet another worker.
            assert [answered(url) for _ in range(3)] == [count] * 3
        before = metrics(url)
        assert before["tritserve_batch_sequences_sum"] == "60.0"
        assert before["tritserve_timesteps_total"] == "60.0"
        for _ in range(20):
            idle.enter_context(httpx.Client(base_url=url)).get("/health/live")
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
        idle.close()
        process.terminate()
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
    assert not folder.exists()


def test_a_supervisor_gives_up_when_no_worker_can_start(tmp_path):
    model = shutil.copy(JAPANESE_VOWELS, tmp_path / "model.safetensors")
    log = tmp_path / "log"
    with serving("--workers", "2", "--model", model, log=log) as (_, process):
        wait_for(lambda: len(worker_pids(process)) == 2)
        model.write_bytes(b"broken")
        for pid in worker_pids(process):
            os.kill(pid, signal.SIGKILL)
        assert process.wait(120) == 1
    assert "again and again" in log.read_text()


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


def test_workers_end_when_their_supervisor_is_killed(tmp_path):
    with serving("--workers", "2", log=tmp_path / "log") as (_, process):
        wait_for(lambda: len(worker_pids(process)) == 2)
        workers, folder = worker_pids(process), shared_folder(process)
        process.kill()
        process.wait()
        wait_for(lambda: not any(command_line(pid) for pid in workers))
    assert not folder.exists()


def test_what_is_left_when_all_are_killed_at_once_goes_at_the_next_start(tmp_path):
    kept = Path(tempfile.mkdtemp(prefix=PREFIX, dir=SHARED))
    (kept / "precious").touch()
    with serving("--workers", "2", log=tmp_path / "log") as (_, process):
        wait_for(lambda: len(worker_pids(process)) == 2)
        folder, killed = shared_folder(process), (process.pid, *worker_pids(process))
        # Another supervisor leaves alone what the first one uses.
        with serving("--workers", "2", log=tmp_path / "other"):
            assert folder.exists()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in killed:
                os.kill(pid, number)
        process.wait()
        wait_for(lambda: not any(command_line(pid) for pid in killed))
    with serving("--workers", "2", log=tmp_path / "log") as (_, process):
        assert not folder.exists()
        process.terminate()
        assert process.wait(20) == 0
    # What is not ours stays, whatever it is called.
    assert (kept / "precious").exists()
    shutil.rmtree(kept)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_folder_for_the_metrics_of_another_program_is_passed_over(tmp_path, workers):
    other = tmp_path / "other"
    other.mkdir()
    for name, folder in [("PROMETHEUS_MULTIPROC_DIR", other), ("prometheus_multiproc_dir", "/no")]:
        environment = {name: str(folder)}
        arguments = "--workers", workers
        with serving(*arguments, log=tmp_path / "log", environment=environment) as (url, process):
            assert "tritserve_requests_total" in httpx.get(f"{url}/metrics").text
            process.terminate()
            assert process.wait(20) == 0
    assert not list(other.iterdir())


def test_a_reload_by_request_reaches_all_workers(tmp_path):
    model = shutil.copy(JAPANESE_VOWELS, tmp_path / "model.safetensors")
    key = {"Authorization": "Bearer a-long-secret"}
    environment = {"TRITSERVE_ADMIN_KEY": "a-long-secret"}
    arguments = ("--workers", "3", "--model", model)
    with serving(*arguments, log=tmp_path / "log", environment=environment) as (url, process):
        wait_for(lambda: len(worker_pids(process)) == 3)
        workers = worker_pids(process)

        def revisions():
            # Each connection may meet another worker.
            return {httpx.get(f"{url}/info").json()["revision"] for _ in range(30)}

        (first,) = revisions()
        random_packed(tmp_path / "other", embed_dim=12, hidden_size=16)
        (tmp_path / "other").replace(model)
        answer = httpx.post(f"{url}/admin/reload", headers=key).raise_for_status()
        second = answer.json()["revision"]
        assert second != first

        def reloaded():
            lines = map(json.loads, (tmp_path / "log").read_text().splitlines())
            return sorted(line["worker"] for line in lines if line.get("revision") == second)

        wait_for(lambda: set(reloaded()) == {0, 1, 2})
        assert revisions() == {second}
        # Whoever was asked loads it once, as the others do: a later reload would come after more.
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: all(reloaded().count(worker) >= 2 for worker in range(3)))
        assert reloaded() == [0, 0, 1, 1, 2, 2]

        model.write_bytes(b"broken")
        assert httpx.post(f"{url}/admin/reload", headers=key).status_code == 409
        assert revisions() == {second}
        assert worker_pids(process) == workers
