"""Hostile and slow clients against a real server process, over raw sockets, and TLS."""

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, suppress

import httpx
import numpy as np
import pytest
import uvicorn

from tests.builders import npy, random_packed
from tests.end_to_end.server import address, connect, refused_start, serving, wait_for
from tritserve.service.http.connections import MAX_PIPELINED, SPARE_CONNECTIONS, guarded
from tritserve.service.observing.metrics import Metrics
from tritserve.service.settings import Settings

LIMITS = {
    "TRITSERVE_HEADER_SECONDS": "0.5",
    "TRITSERVE_KEEP_ALIVE_SECONDS": "2",
    "TRITSERVE_BODY_SECONDS": "0.5",
    "TRITSERVE_SEND_SECONDS": "0.5",
    "TRITSERVE_MAX_HEADER_BYTES": "2000",
    "TRITSERVE_MAX_CONNECTIONS": "10",
}
POST = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("connections")
    # Answers are far larger than requests, so that one fills the socket's buffers.
    random_packed(folder / "m", embed_dim=1, hidden_size=512, num_layers=1, window_size=9)
    with serving("--model", folder / "m", log=folder / "log", environment=LIMITS) as (url, _):
        yield url


def drip(connection, pieces, pause=0.05):
    """Sends pieces one by one until the other side closes; returns what it sent, and the time."""
    start = time.monotonic()
    connection.settimeout(pause)
    received = b""
    for piece in pieces:
        try:
            connection.sendall(piece)
            data = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            break
        if not data:
            break
        received += data
        if time.monotonic() - start > 5:
            break
    return received, time.monotonic() - start


def answer(received):
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head[9:12]), head.lower(), json.loads(body) if body else None


def metrics(url):
    """Asked for again where a busy machine was silent for longer than the server bears."""
    for _ in range(10):
        with suppress(httpx.RemoteProtocolError):
            return httpx.get(f"{url}/metrics", timeout=20).text
    raise AssertionError("the server hangs up whenever its metrics are asked for")


def count(url, series):
    for line in metrics(url).splitlines():
        if line.startswith(f"{series} "):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no {series}")


def refused(url, reason):
    return count(url, f'tritserve_refused_connections_total{{reason="{reason}"}}')


@pytest.mark.parametrize("start", [GET, b"GET /", GET + b"X-Long: "])
def test_headers_that_drip_are_answered_408_and_closed(url, start):
    before = refused(url, "slow_headers")
    with connect(url) as connection:
        connection.sendall(start)
        received, seconds = drip(connection, [b"a"] * 100)
    status, head, body = answer(received)
    assert status == 408
    assert body["error"]["type"] == "headers_too_slow"
    assert b"connection: close" in head
    assert b"x-content-type-options: nosniff" in head
    assert 0.4 < seconds < 2
    assert refused(url, "slow_headers") == before + 1


@pytest.mark.parametrize("piece", [b"", b"\r\n"])
def test_a_connection_that_asks_nothing_is_closed(url, piece):
    with connect(url) as connection:
        received, seconds = drip(connection, [piece] * 100)
    assert received == b""
    assert 0.4 < seconds < 2


def test_blank_lines_after_an_answer_do_not_hold_a_connection(url):
    with connect(url) as connection:
        connection.sendall(GET + b"\r\n")
        received = b""
        while not received.endswith(b'{"status":"live"}'):
            received += connection.recv(65536)
        received, seconds = drip(connection, [b"\r\n"] * 100)
    assert received == b""
    assert seconds < 2


def test_how_long_a_connection_stays_open_after_an_answer_is_set(url):
    with connect(url) as connection:
        for _ in range(2):
            connection.sendall(GET + b"\r\n")
            received = b""
            while not received.endswith(b'{"status":"live"}'):
                received += connection.recv(65536)
            # Longer than a new connection may stay silent.
            time.sleep(1)
        received, seconds = drip(connection, [b""] * 200)
    assert received == b""
    assert 0.5 < seconds < 3


def test_a_body_that_drips_is_answered_408_and_closed(url):
    with connect(url) as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        received, seconds = drip(connection, [b" "] * 100)
    status, head, body = answer(received)
    assert status == 408
    assert body["error"]["type"] == "body_too_slow"
    assert b"connection: close" in head
    assert 0.4 < seconds < 2


def test_a_body_that_goes_on_after_its_answer_is_cut_off(url):
    with connect(url) as connection:
        connection.sendall(POST + b"Content-Length: 99999999999\r\n\r\n")
        received, seconds = drip(connection, [b" "] * 100)
    assert answer(received)[0] == 413
    assert seconds < 2


@pytest.mark.parametrize(
    "start",
    [
        GET + b"X-Large: " + b"x" * 3000 + b"\r\n\r\n",
        GET + b"".join(b"X-%d: y\r\n" % i for i in range(300)) + b"\r\n",
        b"GET /" + b"x" * 3000,
        b"\r\n" * 3000,
    ],
)
def test_large_headers_are_answered_431_and_closed(url, start):
    before = refused(url, "large_headers")
    with connect(url) as connection:
        connection.sendall(start)
        status, head, body = answer(connection.recv(65536))
        assert connection.recv(65536) == b""
    assert status == 431
    assert body["error"]["type"] == "headers_too_large"
    assert body["error"]["limit"] == 2000
    assert b"connection: close" in head
    assert refused(url, "large_headers") == before + 1


def test_an_unfinished_header_is_bounded_though_only_the_parser_holds_it(url):
    with connect(url) as connection:
        connection.sendall(GET + b"X-Large: ")
        received, seconds = drip(connection, [b"x" * 1500] * 3)
    assert answer(received)[0] == 431
    assert seconds < 0.4, "only the time limit ended it"


def test_trailers_and_chunk_extensions_are_bounded_too(url):
    for rest in (
        b"0\r\nX-Trailer: " + b"x" * 100_000,
        b"0\r\n" + b"X-Trailer: y\r\n" * 10_000,
        b"1;" + b"x" * 100_000,
    ):
        with connect(url) as connection:
            connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
            received, seconds = drip(connection, [rest] * 3)
            assert seconds < 0.4, "only the time limit ended it"
            assert answer(received)[0] == 431


def test_what_is_not_http_is_answered_in_our_form(url):
    for sent in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"HELO example\r\n\r\n"):
        with connect(url) as connection:
            connection.sendall(sent)
            status, _, body = answer(connection.recv(65536))
        assert status == 400
        assert body["error"]["type"] == "unparseable"


@pytest.mark.parametrize(
    ("line", "headers", "expected"),
    [
        (b"GET /info HTTP/1.1", b"", 400),
        (b"GET http://x/info HTTP/1.1", b"", 400),
        (b"GET /info HTTP/1.1", b"Host: x\r\nHost: x\r\n", 400),
        (b"GET /info HTTP/1.0", b"Host: x\r\nHost: y\r\n", 400),
        (b"GET /info HTTP/1.0", b"", 200),
        (b"GET /info HTTP/1.1", b"Host:\r\n", 200),
    ],
)
def test_a_request_has_one_host(url, line, headers, expected):
    with connect(url) as connection:
        status, _, body = ask(connection, line + b"\r\nConnection: close\r\n" + headers + b"\r\n")
    assert status == expected
    if status == 400:
        assert body["error"]["type"] == "unparseable"
        assert "Host headers; it must have one" in body["error"]["message"]


@pytest.mark.parametrize(("version", "interim"), [(b"1.0", False), (b"1.1", True)])
def test_only_who_knows_of_an_interim_answer_gets_one(url, version, interim):
    body = b'{"sequences": [[[0.0]]]}'
    head = POST.replace(b"1.1", version) + b"Expect: 100-continue\r\nConnection: close\r\n"
    with connect(url) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 100 ") == interim
    assert received.count(b"HTTP/1.1 200 ") == 1


def test_rubbish_after_a_request_gets_no_answer_that_could_pass_for_the_requests(url):
    body = b'{"sequences": [[[0.0]]]}'
    with connect(url) as connection:
        connection.sendall(
            POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\x00\r\n\r\n"
        )
        received = connection.recv(65536)
    assert b" 400 " not in received


def ask_for_much(url):
    """A connection on which 20 kB were sent, and to which 20 MB are coming."""
    body = npy(np.zeros((10_000, 1, 1), np.float16))
    head = POST.replace(b"json", b"x-npy") + b"Accept: application/x-npy\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    connection.settimeout(20)
    connection.connect(address(url))
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return connection


def test_a_client_that_does_not_read_its_answer_is_cut_off(url):
    before = refused(url, "slow_reader")
    with ask_for_much(url) as connection:
        until = time.monotonic() + 10
        while refused(url, "slow_reader") == before:
            assert time.monotonic() < until
            time.sleep(0.05)
        received = 0
        with suppress(ConnectionError):
            while data := connection.recv(1 << 20):
                received += len(data)
    assert received < 10_000 * 512 * 4


def test_a_client_that_reads_slowly_gets_everything(url):
    before, received = refused(url, "slow_reader"), 0
    start = time.monotonic()
    with ask_for_much(url) as connection:
        while received < 10_000 * 512 * 4:
            data = connection.recv(200_000)
            assert data, "it was cut off"
            received += len(data)
            time.sleep(0.008)
    assert time.monotonic() - start > 2 * float(LIMITS["TRITSERVE_SEND_SECONDS"])
    assert refused(url, "slow_reader") == before


def test_a_client_that_takes_nothing_is_cut_off_however_little_is_unsent():
    """With less unsent than stops the application, and the connection about to be closed."""
    settings = Settings(send_seconds=0.2, keep_alive_seconds=1)
    cut_off = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"much"})

    class Unread(asyncio.Transport):
        def get_write_buffer_size(self):
            return 1000

        def is_closing(self):
            return bool(cut_off)

        def write(self, data):
            pass

        def close(self):
            """Waits until everything is sent."""

        def abort(self):
            cut_off.append(True)

    async def main():
        config = uvicorn.Config(application, timeout_keep_alive=1, log_config=None)
        config.load()
        protocol = guarded(settings, Metrics((), ()))(
            config=config, server_state=uvicorn.server.ServerState(), app_state={}
        )
        protocol.connection_made(Unread())
        protocol.data_received(GET + b"\r\n")
        await asyncio.sleep(0.1)
        assert not cut_off
        await asyncio.sleep(0.4)
        assert cut_off

    asyncio.run(main())


def test_requests_that_wait_behind_another_are_few(url):
    before = refused(url, "pipelined")
    with connect(url) as connection:
        connection.sendall((GET + b"\r\n") * 1000)
        received = b""
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    # The one that is answered, those that wait, and no more.
    assert received.count(b"HTTP/1.1 200") == 1 + MAX_PIPELINED
    assert received.count(b"connection: close") == 1
    assert refused(url, "pipelined") == before + 1


def test_trailers_are_no_headers(url):
    body = b'{"sequences": [[[0.5]]]}'
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(body), body)
    trailers = b"Content-Type: text/plain\r\nContent-Encoding: gzip\r\nHost: y\r\n\r\n"
    with connect(url) as connection:
        connection.sendall(POST + chunked + trailers + GET + b"\r\n")
        received = b""
        while not received.endswith(b'{"status":"live"}'):
            received += connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 200")


def test_a_connection_ends_after_connect(url):
    with connect(url) as connection:
        connection.sendall(b"CONNECT /info HTTP/1.1\r\nHost: x\r\n\r\n" + GET + b"\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data
    status, head, _ = answer(received)
    assert status == 405
    assert b"connection: close" in head


def read_all(connection):
    """How much still comes of an answer of `ask_for_much`."""
    received = 0
    while received < 10_000 * 512 * 4:
        data = connection.recv(1 << 20)
        assert data, "it was cut off"
        received += len(data)


def test_answers_that_nobody_takes_share_the_memory_of_bodies(tmp_path):
    random_packed(tmp_path / "m", embed_dim=1, hidden_size=512, num_layers=1, window_size=9)
    environment = {"TRITSERVE_MAX_BODIES_BYTES": "55000000"}
    log = tmp_path / "log"
    with (
        serving("--model", tmp_path / "m", log=log, environment=environment) as (url, _),
        ask_for_much(url) as first,
    ):
        assert first.recv(15).startswith(b"HTTP/1.1 200")
        with ask_for_much(url) as second:
            assert answer(second.recv(65536))[0] == 429
        read_all(first)
        with ask_for_much(url) as third:
            read_all(third)


@pytest.mark.parametrize("piece", [1 << 30, 50_000])
def test_large_requests_that_follow_without_waiting_are_all_answered(url, piece):
    body = npy(np.zeros((9000, 9, 1), np.float32))
    head = POST.replace(b"json", b"x-npy") + b"Accept: application/x-npy\r\nX-Request-ID: %d\r\n"
    requests = b"".join(
        head % i + b"Content-Length: %d\r\n\r\n" % len(body) + body for i in range(3)
    )
    size = 9000 * 512 * 4
    with connect(url) as connection:
        connection.settimeout(30)

        def send():
            for start in range(0, len(requests), piece):
                connection.sendall(requests[start : start + piece])

        sending = threading.Thread(target=send)
        sending.start()
        received = connection.makefile("rb")
        for i in range(3):
            lines = [line.strip().lower() for line in iter(received.readline, b"\r\n")]
            assert lines[0].startswith(b"http/1.1 200")
            assert b"x-request-id: %d" % i in lines
            (length,) = [int(v) for k, _, v in (x.partition(b":") for x in lines) if b"length" in k]
            assert length > size
            assert len(received.read(length)) == length
        sending.join()


def test_connections_over_the_limit_are_told_so(url):
    before = refused(url, "too_many")
    held = [connect(url) for _ in range(10 + SPARE_CONNECTIONS)]
    try:
        with connect(url) as connection:
            refusal = answer(connection.recv(65536))
        assert refusal[0] == 503
        assert refusal[2]["error"]["type"] == "unavailable"
        assert b"retry-after" in refusal[1]
        # One let in for probes is told the same once it asks for anything else.
        held[-1].sendall(POST + b"Content-Length: 2\r\n\r\n{}")
        assert answer(held[-1].recv(65536)) == refusal
        assert held[-1].recv(65536) == b""
    finally:
        for connection in held:
            connection.close()
    time.sleep(0.1)
    assert httpx.get(f"{url}/health/live").status_code == 200
    assert refused(url, "too_many") > before
    assert count(url, "tritserve_connections") <= 2


@pytest.fixture
def full(tmp_path):
    """A service all of whose connections are taken, with a request unfinished on each."""
    random_packed(tmp_path / "m", num_layers=1)
    environment = {"TRITSERVE_MAX_CONNECTIONS": "3"}
    with (
        serving("--model", tmp_path / "m", log=tmp_path / "log", environment=environment) as (
            url,
            _,
        ),
        ExitStack() as stack,
    ):
        for _ in range(3):
            stack.enter_context(connect(url)).sendall(POST + b"Content-Length: 9\r\n\r\n{")
        yield url


def ask(connection, request):
    """The answer to a request, and what follows it until the connection is closed."""
    connection.sendall(request)
    received = b""
    while data := connection.recv(65536):
        received += data
    return answer(received)


@pytest.mark.parametrize("path", ["live", "ready", "live?x=1"])
def test_a_full_service_answers_probes_and_nothing_else(full, path):
    probe = b"GET /health/%s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()
    for _ in range(3 * SPARE_CONNECTIONS):
        with connect(full) as connection:
            status, head, body = ask(connection, probe)
        assert status == 200
        assert b"connection: close" in head
        assert body["status"] == path[:5].removesuffix("?")
        with connect(full) as connection:
            status, head, body = ask(connection, POST + b"Content-Length: 2\r\n\r\n{}")
        assert status == 503
        assert b"connection: close" in head
        assert b"retry-after" in head
        assert body["error"] == {
            "type": "unavailable",
            "message": "3 connections are open; there are no more",
        }
        with connect(full) as connection:
            assert ask(connection, probe.replace(b"/health/", b"/info?/health/"))[0] == 503


def test_a_connection_for_probes_gets_one_answer(full):
    embed = POST + b"Content-Length: 2\r\n\r\n{}"
    with connect(full) as connection:
        connection.sendall(GET + b"\r\n" + embed + GET + b"\r\n")
        received = b""
        with suppress(ConnectionError):
            while data := connection.recv(65536):
                received += data
    assert received.count(b"HTTP/1.1 ") == 1
    assert answer(received)[0] == 200


def test_a_connection_for_probes_is_one_like_any_other_once_there_is_room(tmp_path):
    environment = {"TRITSERVE_MAX_CONNECTIONS": "1"}
    with serving(log=tmp_path / "log", environment=environment) as (url, _):
        first = connect(url)
        with connect(url) as connection:
            first.close()
            time.sleep(0.2)
            for _ in range(2):
                connection.sendall(GET.replace(b"GET /health/live", b"HEAD /info") + b"\r\n")
                assert answer(connection.recv(65536))[0] == 200


def test_connections_for_probes_are_given_back(full):
    held = [connect(full) for _ in range(SPARE_CONNECTIONS)]
    with connect(full) as connection:
        assert answer(connection.recv(65536))[0] == 503
    for connection in held:
        connection.close()
    time.sleep(0.1)
    with connect(full) as connection:
        assert ask(connection, GET + b"\r\n")[0] == 200


def certificate(folder):
    """A new self-signed certificate for 127.0.0.1 and its key."""
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *curve, *names, *files]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("cuts", [[], [b"\r\n\r\n"], [b"Upgr", b"Settings: A"], [b"\r\n\r"]])
def test_an_upgrade_that_is_offered_is_ignored(url, cuts, chunked):
    body = json.dumps({"sequences": [[[0.0]]]}).encode()
    if chunked:
        size, body = b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    else:
        size = b"Content-Length: %d" % len(body)
    request = POST + UPGRADE + size + b"\r\n\r\n" + body
    with connect(url) as connection:
        for _ in range(3):
            start = 0
            for cut in cuts:
                end = request.index(cut) + len(cut)
                connection.sendall(request[start:end])
                time.sleep(0.05)
                start = end
            connection.sendall(request[start:])
            received = connection.recv(65536)
            while b"embeddings" not in received:
                more = connection.recv(65536)
                assert more, received
                received += more
            assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_upgrade_may_be_offered_on_a_connection_that_is_not_kept(url, version):
    body = json.dumps({"sequences": [[[0.0]]]}).encode()
    request = POST.replace(b"1.1", version) + UPGRADE + b"Connection: close\r\n"
    with connect(url) as connection:
        status, head, body = ask(
            connection, request + b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
    assert status == 200
    assert b"connection: close" in head
    assert body["embeddings"]


def test_requests_that_follow_without_waiting_may_each_offer_an_upgrade(url):
    body = json.dumps({"sequences": [[[0.0]]]}).encode()
    head = POST + b"Content-Length: %d\r\n" % len(body)
    plain, offering = head + b"\r\n" + body, head + UPGRADE + b"\r\n" + body
    last = head + b"Connection: close\r\n\r\n" + body
    with connect(url) as connection:
        connection.sendall(GET + UPGRADE + b"\r\n" + plain + 2 * offering + plain + last)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 200") == received.count(b"HTTP/1.1 ") == 6
    assert received.count(b"embeddings") == 5


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_tls(tmp_path, workers):
    cert, key = certificate(tmp_path)
    environment = {
        "TRITSERVE_SSL_CERTFILE": str(cert),
        "TRITSERVE_SSL_KEYFILE": str(key),
        "TRITSERVE_HEADER_SECONDS": "0.5",
    }
    trust = ssl.create_default_context(cafile=cert)
    with serving(
        "--workers", workers, log=tmp_path / "log", environment=environment, verify=trust
    ) as (url, process):
        assert url.startswith("https://")
        body = {"sequences": [[[0.0] * 12]]}
        answer_ = httpx.post(f"{url}/embed", json=body, verify=trust)
        assert answer_.status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url)
        plain = url.replace("https", "http")
        with pytest.raises(httpx.TransportError):
            httpx.get(plain)
        with (
            connect(plain) as raw,
            trust.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(GET)
            received, seconds = drip(connection, [b"a"] * 100)
        assert answer(received)[0] == 408
        assert seconds < 2
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_handshakes_are_bounded_in_time_and_number(tmp_path):
    cert, key = certificate(tmp_path)
    environment = {
        "TRITSERVE_SSL_CERTFILE": str(cert),
        "TRITSERVE_SSL_KEYFILE": str(key),
        "TRITSERVE_HEADER_SECONDS": "2",
        "TRITSERVE_MAX_CONNECTIONS": "3",
    }
    trust = ssl.create_default_context(cafile=cert)

    def ended(connection):
        with suppress(ConnectionError):
            return connection.recv(65536) == b""
        return True

    with serving(log=tmp_path / "log", environment=environment, verify=trust) as (url, _):
        plain = url.replace("https", "http")
        start = time.monotonic()
        held = [connect(plain) for _ in range(3)]
        # Half a record of a handshake, which goes no further.
        held[2].sendall(b"\x16\x03\x01\x02\x00\x01")
        with connect(plain) as connection:
            assert ended(connection)
        assert time.monotonic() - start < 1.5, "only the time limit ended it"
        assert all(ended(connection) for connection in held)
        assert 1.5 < time.monotonic() - start < 4
        for connection in held:
            connection.close()
        # One that ends by itself, or is none, gives its place back at once.
        for _ in range(20):
            with connect(plain) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                with suppress(ConnectionError):
                    assert b"HTTP" not in connection.recv(65536)
            connect(plain).close()

        def count(reason):
            lines = httpx.get(f"{url}/metrics", verify=trust).text.splitlines()
            series = f'tritserve_refused_connections_total{{reason="{reason}"}} '
            (line,) = [line for line in lines if line.startswith(series)]
            return float(line.removeprefix(series))

        wait_for(lambda: count("handshake") + count("too_many") == 44)
        assert count("handshake") > 30
        # A request right behind the handshake's last message.
        for _ in range(20):
            with (
                connect(plain) as raw,
                trust.wrap_socket(raw, server_hostname="127.0.0.1") as connection,
            ):
                connection.sendall(GET + b"\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate with openssl")
def test_tls_settings_that_make_no_sense_are_one_clear_line(tmp_path):
    cert, key = certificate(tmp_path)
    locked = tmp_path / "locked.pem"
    lock = ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:secret", "-out", locked]
    subprocess.run(lock, check=True, capture_output=True)
    for files, message in [
        ({"KEYFILE": key}, "without TRITSERVE_SSL_CERTFILE"),
        ({"CERTFILE": cert}, "cannot be used"),
        ({"CERTFILE": cert, "KEYFILE": locked}, "cannot be used"),
        ({"CERTFILE": cert, "KEYFILE": tmp_path / "none"}, "ssl_keyfile"),
    ]:
        environment = {f"TRITSERVE_SSL_{name}": str(path) for name, path in files.items()}
        assert message in refused_start(environment=environment)
