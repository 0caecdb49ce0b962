"""Where a real server process listens: Unix sockets, and every address of a name."""

import shutil
import socket
import ssl
import stat

import grpc
import httpx
import numpy as np
import pytest

from tests.end_to_end.server import refused_start, run_command, serving, wait_for
from tests.end_to_end.test_connections import certificate
from tests.end_to_end.test_seeing import served, serving_anywhere
from tests.end_to_end.test_triton_client import free_port
from tritserve.service.client.client import Client
from tritserve.service.http.listening import addresses


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tritserve.sock"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_is_served_and_removed_at_the_end(tmp_path, path, workers):
    log, host = tmp_path / "log", f"unix:{path}"
    with serving_anywhere(log, "--host", host, "--workers", str(workers)):
        wait_for(lambda: len(served(log)) == workers)
        assert {line["address"] for line in served(log)} == {host}
        transport = httpx.HTTPTransport(uds=str(path))
        with Client("http://localhost", transport=transport, retry_seconds=0) as client:
            assert client.embed([np.zeros((2, 12), np.float32)]).shape == (1, 1024)
        health = run_command("health", environment={"TRITSERVE_HOST": host})
        assert (health.returncode, health.stdout) == (0, "ready\n")
    assert not path.exists()
    health = run_command("health", environment={"TRITSERVE_HOST": host})
    assert health.returncode == 1
    assert f"no answer from {host}: " in health.stderr


def test_the_umask_says_who_may_connect(tmp_path, path):
    log = tmp_path / "log"
    with serving_anywhere(log, "--host", f"unix:{path}", umask=0o007):
        wait_for(lambda: len(served(log)) == 1)
        assert stat.S_IMODE(path.stat().st_mode) == 0o770


def test_a_unix_socket_whose_process_was_killed_is_taken_over(tmp_path, path):
    log = tmp_path / "log"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    with serving_anywhere(log, "--host", f"unix:{path}"):
        wait_for(lambda: len(served(log)) == 1)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/info").status_code == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_others_have_at_the_path_stays(tmp_path, path, workers):
    def refused(host):
        message = refused_start("--workers", workers, "--host", host)
        assert message.startswith("Error: ")
        assert message.count("\n") == 1
        return message

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert f"in use: unix:{path}" in refused(f"unix:{path}")
        assert path.is_socket()
    file = tmp_path / "file"
    file.write_text("precious")
    assert "in use" in refused(f"unix:{file}")
    assert file.read_text() == "precious"
    assert "No such file or directory: unix:" in refused(f"unix:{tmp_path}/nothing/socket")


def test_grpc_needs_a_port_which_a_unix_socket_has_not(path):
    refused = refused_start(
        "--host", f"unix:{path}", environment={"TRITSERVE_GRPC_PORT": str(free_port())}
    )
    assert "which has no ports" in refused


@pytest.mark.parametrize("workers", ["1", "2"])
def test_localhost_is_every_loopback_address(tmp_path, workers):
    port = free_port()
    arguments = "--host", "localhost", "--workers", workers
    environment = {"TRITSERVE_GRPC_PORT": str(port)}
    with serving(*arguments, log=tmp_path / "log", environment=environment) as (url, process):
        for address in addresses("localhost"):
            host = f"[{address}]" if ":" in address else address
            there = url.replace("127.0.0.1", host)
            assert httpx.get(f"{there}/info").status_code == 200
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                check = channel.unary_unary("/grpc.health.v1.Health/Check")
                assert check(b"", timeout=10, wait_for_ready=True) == b"\x08\x01"
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_localhost_is_every_loopback_address_with_tls_too(tmp_path):
    cert, key = certificate(tmp_path)
    port = free_port()
    environment = {
        "TRITSERVE_SSL_CERTFILE": str(cert),
        "TRITSERVE_SSL_KEYFILE": str(key),
        "TRITSERVE_GRPC_PORT": str(port),
    }
    trust = ssl.create_default_context(cafile=cert)
    arguments = {"log": tmp_path / "log", "environment": environment, "verify": trust}
    with serving("--host", "localhost", **arguments) as (url, _):
        for address in addresses("localhost"):
            for at in (int(url.rsplit(":", 1)[1]), port):
                assert ssl.get_server_certificate((address, at)) == cert.read_text()


def test_this_machine_has_what_localhost_means():
    assert "127.0.0.1" in addresses("localhost")
    assert addresses("::1") == ["::1"]
    assert addresses("127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(OSError, match=r"TRITSERVE_HOST is nothing\.invalid: "):
        addresses("nothing.invalid")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("a..b", "no host's name; between dots, names have 1 to 63 letters"),
        (f"{'a' * 64}.invalid", "no host's name; between dots, names have 1 to 63 letters"),
        (f"unix:/{'é' * 54}", "the path of the Unix socket is too long: 109 bytes, of at most 107"),
    ],
)
def test_a_host_that_cannot_be_is_told_of_at_once(host, message):
    assert refused_start("--host", host) == f"Error: settings: host: {message}\n"
    health = run_command("health", environment={"TRITSERVE_HOST": host})
    assert (health.returncode, health.stderr) == (1, f"Error: settings: host: {message}\n")


def test_the_longest_path_of_a_unix_socket_is_served(tmp_path):
    path = tmp_path / ("x" * (106 - len(str(tmp_path))))
    with serving_anywhere(tmp_path / "log", "--host", f"unix:{path}"):
        wait_for(lambda: len(served(tmp_path / "log")) == 1)
        assert run_command("health", environment={"TRITSERVE_HOST": f"unix:{path}"}).returncode == 0
