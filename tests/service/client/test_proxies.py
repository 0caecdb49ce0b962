"""What stands between a client and the service, or in the service's place."""

import asyncio
import socket
import time

import httpx
import numpy as np
import pytest

from tests.builders import random_batch
from tests.service.client.test_client import against_app
from tritserve import AsyncClient, Client
from tritserve.service.app import create_app
from tritserve.service.client.client import RequestError
from tritserve.service.settings import Settings

NGINX = "<html>\r\n<head><title>{0}</title></head>\r\n<body>\r\n<center><h1>{0}</h1></center>\r\n"
NGINX += "<hr><center>nginx/1.25.3</center>\r\n</body>\r\n</html>\r\n"


def nginx(status, reason):
    headers = {"Server": "nginx/1.25.3", "Content-Type": "text/html"}
    return httpx.Response(status, text=NGINX.format(f"{status} {reason}"), headers=headers)


def answered(response):
    return Client("http://test", transport=httpx.MockTransport(lambda _: response))


@pytest.mark.parametrize(
    ("status", "reason", "advice"),
    [
        (403, "Forbidden", "wants credentials of its own"),
        (404, "Not Found", "is base_url that of a tritserve service, with its path"),
        (502, "Bad Gateway", "got no answer of the service"),
        (504, "Gateway Time-out", "proxy_read_timeout"),
    ],
)
def test_a_proxy_is_quoted_without_its_markup_and_with_advice(status, reason, advice):
    with answered(nginx(status, reason)) as client, pytest.raises(RequestError) as caught:
        client.embed(np.ones((2, 1, 3)))
    assert caught.value.status == status
    assert caught.value.type == "unknown"
    message = caught.value.message
    assert f"not of a tritserve service but of nginx/1.25.3: {status} {reason}" in message
    assert advice in message
    assert "<" not in message


def test_an_address_that_has_moved_is_told():
    moved = httpx.Response(301, headers={"Location": "https://test/embed"})
    with answered(moved) as client, pytest.raises(RequestError, match="moved to https://test/"):
        client.embed(np.ones((1, 1, 3)))


def test_a_page_in_the_place_of_an_answer_is_told():
    page = httpx.Response(200, text="<style>b{}</style><h1>Wel\x1bcome &amp; log in</h1>")
    with answered(page) as client:
        with pytest.raises(RequestError, match=r"Wel\\x1bcome & log in; it tells no limits"):
            client.info()
        with pytest.raises(RequestError, match=r"Wel\\x1bcome & log in; it holds no embeddings"):
            client.embed(np.ones((1, 1, 3)))


class Gateway(httpx.AsyncBaseTransport):
    """Passes to the application what is not larger than a limit; answers as nginx to the rest."""

    def __init__(self, app, most):
        self.inner, self.most = httpx.ASGITransport(app), most
        self.passed, self.refused = [], []

    async def handle_async_request(self, request):
        size = len(request.content)
        (self.passed if size <= self.most else self.refused).append(size)
        if size > self.most:
            return nginx(413, "Request Entity Too Large")
        return await self.inner.handle_async_request(request)


def behind_gateway(engine, most, talk):
    async def main():
        app = create_app(Settings(), engine)
        gateway = Gateway(app, most)
        async with (
            app.router.lifespan_context(app),
            AsyncClient("http://test", transport=gateway) as client,
        ):
            return await talk(client, gateway)

    return asyncio.run(main())


def test_a_batch_that_a_proxy_finds_too_large_is_split(engine):
    many = random_batch([9, 1, 12, 4, 9, 9, 11] * 20, 3).split()

    async def talk(client, gateway):
        first = await client.embed_detailed(many, overlong="keep_last")
        refused = len(gateway.refused)
        second = await client.embed_detailed(many, overlong="keep_last")
        # What was found is kept.
        assert len(gateway.refused) == refused <= 6
        assert first.embeddings.tobytes() == second.embeddings.tobytes()
        return first

    async def whole(client):
        return await client.embed_detailed(many, overlong="keep_last")

    answer, expected = behind_gateway(engine, 2_000, talk), against_app(engine, whole)
    assert answer.embeddings.tobytes() == expected.embeddings.tobytes()
    assert answer.truncated == expected.truncated != []


def test_a_sequence_that_a_proxy_finds_too_large_is_told(engine):
    async def talk(client, gateway):
        with pytest.raises(RequestError, match="client_max_body_size") as caught:
            await client.embed([np.ones((1, 3)), np.ones((9, 3)), np.ones((1, 3))])
        assert caught.value.status == 413
        assert len(gateway.refused) == 2

    behind_gateway(engine, 220, talk)


@pytest.fixture
def nowhere():
    """A port on which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_a_refused_connection_is_told_at_once(nowhere):
    start = time.monotonic()
    told = f"no connection to {nowhere}: .*; is the service started"
    with Client(nowhere) as client, pytest.raises(httpx.ConnectError, match=told):
        client.embed(np.ones((1, 1, 3)))

    async def ask():
        async with AsyncClient(nowhere) as client:
            await client.info()

    with pytest.raises(httpx.ConnectError, match=told):
        asyncio.run(ask())
    # Far less than retry_seconds.
    assert time.monotonic() - start < 15


def test_a_service_that_starts_is_waited_for_if_asked(monkeypatch):
    slept = []
    monkeypatch.setattr("tritserve.service.client.client.time.sleep", slept.append)
    answers = [httpx.ConnectError("refused"), httpx.ConnectError("refused"), nginx(404, "x")]

    def answer(_):
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    transport = httpx.MockTransport(answer)
    with (
        Client("http://test", transport=transport, startup_seconds=10) as client,
        pytest.raises(RequestError, match="404"),
    ):
        client.info()
    assert slept == [1.0]


def test_a_key_opens_the_service(engine):
    async def main():
        app = create_app(Settings(api_keys="key-one"), engine)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app):
            async with AsyncClient("http://t", transport=transport, api_key="key-one") as client:
                assert (await client.embed(np.ones((1, 2, 3)))).shape == (1, 16)
            async with AsyncClient("http://t", transport=transport) as client:
                with pytest.raises(RequestError, match="401 unauthorized: this needs an API key"):
                    await client.info()

    asyncio.run(main())


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["", "secret\n", " secret", "sécret"])
def test_a_key_that_cannot_stand_in_a_header_is_refused_without_showing_it(kind, key):
    with pytest.raises(ValueError, match="api_key is empty, or has spaces") as caught:
        kind("http://test", api_key=key)
    assert "cret" not in str(caught.value)


def test_two_keys_are_refused():
    headers = {"authorization": "Bearer b"}
    with pytest.raises(ValueError, match="give one of them"):
        Client("http://test", api_key="a", headers=headers)
