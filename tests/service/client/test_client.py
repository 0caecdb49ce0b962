import asyncio
import pickle
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import numpy as np
import pytest

from tests.builders import random_batch, random_bitnet, random_packed
from tests.service.live import Watched
from tritserve.model.engine.engine import Engine
from tritserve.model.signature import Signature
from tritserve.model.training.export import export
from tritserve.service.app import create_app
from tritserve.service.client.client import (
    AsyncClient,
    Client,
    ModelChangedError,
    RequestError,
    Timing,
)
from tritserve.service.forms.media import SAFETENSORS
from tritserve.service.forms.options import Embeddings
from tritserve.service.forms.wire import EmbedAnswer, encode
from tritserve.service.settings import Settings

BATCH = random_batch([1, 9, 4], 3)


def against_app(engine, talk, before=None, **settings):
    """Runs a conversation with a fresh application; `before` sees it and each request."""

    async def main():
        app = create_app(Settings(**settings), engine)

        async def watch(request):
            if before:
                await before(app, request)

        async with (
            app.router.lifespan_context(app),
            AsyncClient(
                "http://test",
                transport=httpx.ASGITransport(app),
                event_hooks={"request": [watch]},
            ) as client,
        ):
            return await talk(client)

    return asyncio.run(main())


def test_arrays_in_arrays_out(engine):
    async def talk(client):
        expected = engine.embed(BATCH.values, BATCH.lengths)
        assert (await client.embed(BATCH.split())).tobytes() == expected.tobytes()
        dense = np.ones((2, 4, 3))
        assert (await client.embed(dense)).shape == (2, 16)
        half = await client.embed(BATCH.split(), precision="float16")
        np.testing.assert_array_equal(half, expected.astype(np.float16))
        near = await client.embed(BATCH.split(), precision="int8")
        np.testing.assert_allclose(near, expected, atol=np.abs(expected).max() / 127)
        assert (await client.embed(BATCH.split(), precision="binary")).shape == (3, 2)
        unit = await client.embed(BATCH.split(), normalize=True)
        np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
        assert (await client.embed(np.ones((1, 12, 3)), overlong="keep_first")).shape == (1, 16)
        assert (await client.info())["output_size"] == 16

    against_app(engine, talk)


def columns_first(array):
    return np.asfortranarray(array)


def every_second(array):
    return np.repeat(np.repeat(array, 2, axis=0), 2, axis=1)[::2, ::2]


def backwards(array):
    return array[::-1].copy()[::-1]


@pytest.mark.parametrize("laid_out", [columns_first, every_second, backwards])
@pytest.mark.parametrize("count", [1, 3])
def test_how_arrays_lie_in_memory_changes_nothing(engine, laid_out, count):
    """Features are often transposed: their memory is not in the order of their indices."""
    parts = BATCH.split()[-count:]
    lengths = np.array([len(part) for part in parts])
    expected = engine.embed(np.concatenate(parts), lengths)

    async def talk(client):
        assert (await client.embed(map(laid_out, parts))).tobytes() == expected.tobytes()
        dense = np.asfortranarray(np.stack([parts[-1]] * 2))
        assert (await client.embed(dense)).tobytes() == 2 * expected[-1].tobytes()

    against_app(engine, talk)


def test_a_refusal_is_an_exception_that_tells_why(engine):
    async def talk(client):
        with pytest.raises(RequestError, match="takes at most 9") as caught:
            await client.embed(np.ones((3, 12, 3)))
        assert (caught.value.status, caught.value.type) == (422, "invalid")
        assert caught.value.details == {"row": 0}
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), vars(again)) == (str(caught.value), vars(caught.value))

    against_app(engine, talk)


class Answers:
    """A server that gives or raises the answers it was given, and counts how often it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.count = 0

    def __call__(self, _):
        self.count += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def full(retry_after):
    error = {"error": {"type": "queue_full", "message": "full", "retry_after": 1}}
    return httpx.Response(429, json=error, headers={"Retry-After": retry_after})


def test_retries_as_told_and_gives_up_in_time(monkeypatch):
    slept = []
    monkeypatch.setattr("tritserve.service.client.client.time.sleep", slept.append)
    refusal = {"error": {"type": "invalid", "message": "no", "row": 0}}
    refused = httpx.Response(422, json=refusal)
    server = Answers(full("3"), httpx.Response(503, text="starting"), full("soon"), refused)
    with (
        Client("http://test", transport=httpx.MockTransport(server)) as client,
        pytest.raises(RequestError, match="422 invalid: no"),
    ):
        client.embed(np.ones((1, 1, 3)))
    assert slept == [3.0, 1.0, 1.0]

    server = Answers(full("3"), full("60"))
    transport = httpx.MockTransport(server)
    with Client("http://test", transport=transport, retry_seconds=10) as client:
        with pytest.raises(RequestError, match="429 queue_full: full") as caught:
            client.embed(np.ones((1, 1, 3)))
        assert caught.value.details == {"retry_after": 1}
    assert server.count == 2


BROKEN = [
    httpx.RemoteProtocolError("Server disconnected without sending a response."),
    httpx.ReadError("Connection reset by peer"),
    httpx.WriteError("Broken pipe"),
    httpx.ReadError("Connection reset by peer"),
]


def test_a_request_whose_connection_breaks_is_sent_again(monkeypatch):
    slept = []
    monkeypatch.setattr("tritserve.service.client.client.time.sleep", slept.append)
    server = Answers(*BROKEN, embedded(1))
    with Client("http://test", transport=httpx.MockTransport(server)) as client:
        assert client.embed(np.ones((1, 1, 3))).shape == (1, 2)
    # At once after the first: it may have crossed the closing of an idle connection.
    assert slept == [1.0, 2.0, 2.0]

    server = Answers(*BROKEN)
    transport = httpx.MockTransport(server)
    with (
        Client("http://test", transport=transport, retry_seconds=2) as client,
        pytest.raises(httpx.WriteError, match="Broken pipe"),
    ):
        client.embed(np.ones((1, 1, 3)))


@pytest.mark.parametrize("error", [httpx.ReadTimeout("slow"), httpx.UnsupportedProtocol("ftp")])
def test_other_failures_are_told_at_once(error):
    server = Answers(error)
    with (
        Client("http://test", transport=httpx.MockTransport(server)) as client,
        pytest.raises(type(error)),
    ):
        client.embed(np.ones((1, 1, 3)))


class ClosesFirst(BaseHTTPRequestHandler):
    """Closes a first connection without an answer, and answers on the next."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked += 1
        self.close_connection = True
        if self.asked > 1:
            content = embedded(1).content
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def closing_first():
    """Yields the port of such a server, and its handler."""
    handler = type("Handler", (ClosesFirst,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_port, handler
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_connection_that_the_server_closes_is_opened_again(kind):
    with closing_first() as (port, handler):
        assert embed_once(kind, f"http://127.0.0.1:{port}").shape == (1, 2)
    assert handler.asked == 2


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_tls_where_there_is_none_is_told_at_once(kind):
    start = time.monotonic()
    with closing_first() as (port, _), pytest.raises(httpx.ConnectError):
        embed_once(kind, f"https://127.0.0.1:{port}", retry_seconds=600)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_host_that_does_not_exist_is_told_at_once(kind):
    start = time.monotonic()
    with pytest.raises(httpx.ConnectError):
        embed_once(kind, "http://nowhere.invalid", retry_seconds=600)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_host_whose_name_is_not_known_yet_is_waited_for(kind, monkeypatch):
    failures = [socket.gaierror(socket.EAI_NONAME, "Name or service not known")]
    resolve = socket.getaddrinfo

    def resolve_later(_, *arguments, **options):
        if failures:
            raise failures.pop()
        return resolve("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_later)
    with closing_first() as (port, handler):
        handler.asked = 1
        rows = embed_once(kind, f"http://later.invalid:{port}", startup_seconds=60)
    assert rows.shape == (1, 2)
    assert not failures


def embed_once(kind, url, **options):
    ones = np.ones((1, 1, 3))
    if kind is Client:
        with Client(url, **options) as client:
            return client.embed(ones)

    async def main():
        async with AsyncClient(url, **options) as client:
            return await client.embed(ones)

    return asyncio.run(main())


class Seen:
    """Paths of the requests that were made."""

    def __init__(self):
        self.paths = []

    async def __call__(self, _, request):
        self.paths.append(request.url.path)


def test_all_that_the_service_tells_beside_the_embeddings(engine):
    long = random_batch([9, 12, 1, 10], 3).split()

    async def talk(client):
        answer = await client.embed_detailed(long, overlong="keep_last")
        assert answer.truncated == [1, 3]
        expected = await client.embed([part[-9:] for part in long])
        assert answer.embeddings.tobytes() == expected.tobytes()
        packed = engine.model
        assert answer.model.name == packed.name
        assert answer.model.revision == packed.revision
        assert answer.model.output_size == 16
        assert answer.model.quantize == "ternary"
        assert answer.model.bits_per_weight == packed.bits_per_weight
        assert 0 < answer.timing_ms.compute <= answer.timing_ms.total
        assert (await client.embed_detailed(BATCH.split())).truncated == []

    against_app(engine, talk)


@pytest.mark.parametrize(
    ("limits", "requests"),
    [
        ({"max_sequences": 3}, 3),
        ({"max_request_timesteps": 20}, 3),
        ({"queue_timesteps": 80, "max_sequences": 3}, 3),
        ({"max_body_bytes": 500}, 4),
        ({"max_body_bytes": 400}, 6),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "int8", "binary"])
def test_a_batch_over_the_limits_goes_in_parts(engine, limits, requests, precision):
    many = random_batch([9, 1, 12, 4, 9, 9, 11], 3).split()
    seen = Seen()

    async def whole(client):
        return await client.embed_detailed(many, overlong="keep_first", precision=precision)

    async def parts(client):
        await client.info()
        seen.paths.clear()
        return await whole(client)

    expected = against_app(engine, whole)
    answer = against_app(engine, parts, seen, **limits)
    assert seen.paths == ["/embed"] * requests
    assert answer.embeddings.tobytes() == expected.embeddings.tobytes()
    assert answer.truncated == expected.truncated == [2, 6]
    assert answer.model == expected.model


def test_limits_are_asked_for_only_where_they_matter(engine):
    seen = Seen()

    async def talk(client):
        await client.embed(BATCH.split())
        assert seen.paths == ["/embed"]
        seen.paths.clear()
        # Small, yet more than this service takes.
        assert (await client.embed(np.ones((21, 1, 3)))).shape == (21, 16)
        assert seen.paths == ["/embed", "/info", "/embed", "/embed", "/embed"]
        seen.paths.clear()
        assert (await client.embed(np.ones((21, 1, 3)))).shape == (21, 16)
        assert seen.paths == ["/embed"] * 3

    against_app(engine, talk, seen, max_sequences=10)

    async def talk_much(client):
        seen.paths.clear()
        assert (await client.embed(np.ones((1_025, 1, 3)))).shape == (1_025, 16)
        assert seen.paths == ["/info", "/embed"]

    against_app(engine, talk_much, seen)


@pytest.mark.parametrize("most", [None, 20_000])
def test_a_large_batch_keeps_nobody_out(engine, most):
    gate, computing = threading.Event(), threading.Event()

    def wait(*_):
        computing.set()
        gate.wait(30)

    async def main():
        settings = Settings(queue_timesteps=20_000, batch_timesteps=100, max_request_timesteps=most)
        app = create_app(settings, Watched(engine, wait))
        options = {"base_url": "http://test", "transport": httpx.ASGITransport(app)}
        async with (
            app.router.lifespan_context(app),
            AsyncClient(**options) as large,
            AsyncClient(**options, retry_seconds=0) as small,
        ):
            both = [asyncio.create_task(large.embed(np.ones((4_000, 5, 3)))) for _ in range(2)]
            await asyncio.to_thread(computing.wait, 30)
            answer = asyncio.create_task(small.embed(np.ones((1, 5, 3))))
            done, _ = await asyncio.wait([*both, answer], timeout=0.5)
            gate.set()
            assert not done
            assert (await answer).shape == (1, 16)
            assert [len(rows) for rows in await asyncio.gather(*both)] == [4_000] * 2

    asyncio.run(main())


def test_limits_are_not_asked_for_where_the_size_is_not_at_fault(engine):
    seen = Seen()

    async def talk(client):
        with pytest.raises(RequestError, match=r"this model takes \[timesteps, 3\]"):
            await client.embed(np.ones((1, 1, 4)))
        assert seen.paths == ["/embed"]

    against_app(engine, talk, seen)


class Refusing:
    """Refuses what is sent to /embed; answers on all other paths as a proxy that routes none."""

    def __init__(self, refusal, elsewhere):
        self.refusal, self.elsewhere = refusal, elsewhere
        self.paths = []

    def __call__(self, request):
        self.paths.append(request.url.path)
        if request.url.path == "/embed":
            return self.refusal
        if isinstance(self.elsewhere, Exception):
            raise self.elsewhere
        return self.elsewhere


TOO_MANY = {"error": {"type": "invalid", "message": "too many", "limit": 1}}


@pytest.mark.parametrize(
    "elsewhere",
    [
        httpx.Response(404, text="not routed"),
        httpx.Response(200, text="<h1>Welcome</h1>"),
        httpx.Response(200, json=["limits"]),
        httpx.ReadTimeout("slow"),
    ],
)
def test_where_limits_cannot_be_had_the_first_refusal_is_told(elsewhere):
    server = Refusing(httpx.Response(422, json=TOO_MANY), elsewhere)
    with Client("http://test", transport=httpx.MockTransport(server)) as client:
        with pytest.raises(RequestError, match="422 invalid: too many"):
            client.embed(np.ones((2, 1, 3)))
        assert server.paths == ["/embed", "/info"]


def test_a_large_batch_goes_where_limits_cannot_be_had():
    server = Refusing(embedded(1_025), httpx.Response(404, text="not routed"))
    with Client("http://test", transport=httpx.MockTransport(server)) as client:
        assert client.embed(np.ones((1_025, 1, 3))).shape == (1_025, 2)
        with pytest.raises(RequestError, match=r"404 unknown: .*: not routed"):
            client.info()
    assert server.paths == ["/info", "/embed", "/info"]


def test_a_refusal_of_a_part_names_the_row_of_the_whole_batch(engine):
    async def talk(client):
        sequences = BATCH.split() * 2
        sequences[4] = sequences[4].copy()
        sequences[4][5, 2] = np.nan
        with pytest.raises(
            RequestError, match="sequence 4, timestep 5, feature 2 is nan"
        ) as caught:
            await client.embed(sequences)
        assert caught.value.details == {"row": 4, "timestep": 5}

    against_app(engine, talk, max_sequences=2)


def test_a_sequence_that_fits_in_no_request_is_refused(engine):
    async def talk(client):
        with pytest.raises(
            RequestError, match="the request has 4 timesteps; at most 3 go"
        ) as caught:
            await client.embed([np.ones((1, 3)), np.ones((4, 3))])
        assert caught.value.details == {"limit": 3}

    against_app(engine, talk, max_request_timesteps=3)


@pytest.mark.parametrize("reloads", [1, 2])
def test_rows_of_two_models_are_never_mixed(tmp_path, reloads):
    """Before the second part the file is loaded again, and perhaps also in the second try."""
    path = tmp_path / "m"
    shape = {"embed_dim": 3, "hidden_size": 16, "num_layers": 1, "window_size": 9}
    random_packed(path, seed=0, **shape)
    seen = Seen()

    async def reload(app, request):
        await seen(app, request)
        count = seen.paths.count("/embed")
        if count in range(2, 2 * reloads + 1, 2):
            random_packed(path, seed=count, **shape)
            await app.state.service.reload()

    async def talk(client):
        await client.info()
        return await client.embed_detailed(BATCH.split()[:2] * 2)

    settings = {"model": path, "max_sequences": 2}
    engine = Engine.load(path)
    if reloads == 2:
        with pytest.raises(ModelChangedError, match="twice, the model changed"):
            against_app(engine, talk, reload, **settings)
        return
    answer = against_app(engine, talk, reload, **settings)
    fresh = Engine.load(path)
    assert answer.model.revision == fresh.model.revision != engine.model.revision
    twice = BATCH.select([0, 1, 0, 1])
    expected = fresh.embed(twice.values, twice.lengths)
    assert answer.embeddings.tobytes() == expected.tobytes()


def test_each_part_is_retried_for_a_time_of_its_own(monkeypatch):
    slept = []
    monkeypatch.setattr("tritserve.service.client.client.time.sleep", slept.append)
    limits = {"max_body_bytes": 10**6, "max_sequences": 1_000, "max_timesteps": 10**6}
    limits |= {"max_request_timesteps": 10**6, "queue_timesteps": 10**6}
    server = Answers(
        httpx.Response(200, json={"revision": "r", "limits": limits}),
        *(full("2"), embedded(1_000)),
        *(full("3"), embedded(500)),
    )
    with Client("http://test", transport=httpx.MockTransport(server), retry_seconds=4) as client:
        answer = client.embed_detailed(np.ones((1_500, 1, 3)))
    assert slept == [2.0, 3.0]
    assert answer.embeddings.shape == (1_500, 2)
    assert answer.timing_ms == Timing(queue=2.0, compute=4.0, total=6.0)


def embedded(count):
    model = {"name": "m", "revision": "r", "output_size": 2, "channels": "joined"}
    model |= {"quantize": "ternary", "bits_per_weight": 1.6, "of a newer service": 1}
    timing = {"queue": 1.0, "compute": 2.0, "total": 3.0}
    answer = EmbedAnswer(Embeddings(np.ones((count, 2))), model, {"truncated": []}, timing)
    return httpx.Response(200, content=encode(answer, SAFETENSORS)[0])


def test_named_features_are_put_into_the_models_order(tmp_path):
    names = ["acc x", "acc, y", "Größe"]
    model = random_bitnet(embed_dim=3, window_size=9)
    export(model, tmp_path / "m", name="m", training={}, signature=Signature(feature_names=names))
    turned = [part[:, [2, 0, 1]] for part in BATCH.split()]

    async def talk(client):
        expected = await client.embed(BATCH.split())
        found = await client.embed(turned, features=["Größe", "acc x", "acc, y"])
        assert found.tobytes() == expected.tobytes()
        with pytest.raises(RequestError, match="acc z"):
            await client.embed(turned, features=["Größe", "acc x", "acc z"])

    against_app(Engine.load(tmp_path / "m"), talk)
