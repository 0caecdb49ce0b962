import asyncio

import httpx
import numpy as np
import pytest

from service.app import create_app
from service.client import AsyncClient, Client, RequestError
from service.settings import Settings
from tests.builders import random_batch

BATCH = random_batch([1, 9, 4], 3)


def against_app(engine, talk):
    async def main():
        app = create_app(Settings(), engine)
        async with (
            app.router.lifespan_context(app),
            AsyncClient("http://test", transport=httpx.ASGITransport(app)) as client,
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

    against_app(engine, talk)


class Answers:
    """A server that gives the answers it was given, and remembers when it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.count = 0

    def __call__(self, _):
        self.count += 1
        return self.answers.pop(0)


def full(retry_after):
    error = {"error": {"type": "queue_full", "message": "full", "retry_after": 1}}
    return httpx.Response(429, json=error, headers={"Retry-After": retry_after})


def test_retries_as_told_and_gives_up_in_time(monkeypatch):
    slept = []
    monkeypatch.setattr("service.client.time.sleep", slept.append)
    info = httpx.Response(422, json={"error": {"type": "invalid", "message": "no"}})
    server = Answers(full("3"), httpx.Response(503, text="starting"), full("soon"), info)
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


def test_an_answer_that_is_not_ours_is_still_an_exception():
    server = Answers(httpx.Response(502, text="<h1>Bad Gateway</h1>"))
    with (
        Client("http://test", transport=httpx.MockTransport(server)) as client,
        pytest.raises(RequestError, match="502 unknown: <h1>Bad Gateway"),
    ):
        client.info()
