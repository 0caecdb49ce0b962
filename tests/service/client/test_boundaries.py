"""Clients that cross a fork, an event loop, a thread or a pickle."""

import asyncio
import gc
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.builders import random_batch
from tests.end_to_end.server import serving
from tritserve import AsyncClient, Client
from tritserve.service.client.client import RequestError

BATCHES = [random_batch([7] * 60, 12, seed=seed).split() for seed in range(4)]

FORKING = """
import os, pickle, sys
import numpy as np
from tritserve import AsyncClient, Client
from tritserve.service.client.client import RequestError

url, batches = sys.argv[1], pickle.load(sys.stdin.buffer)
client = Client(url)
expected = [client.embed(batch) for batch in batches]

start, starts = os.pipe()

def asks(number):
    if os.fork():
        return
    os.close(starts)
    os.read(start, 1)
    wrong = sum(
        client.embed(batches[number]).tobytes() != expected[number].tobytes() for _ in range(40)
    )
    os._exit(wrong)

for number in range(len(batches)):
    asks(number)
os.close(starts)
own = client.embed(batches[0])
codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in batches]
assert own.tobytes() == expected[0].tobytes()
print(codes)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(log=tmp_path_factory.mktemp("boundaries") / "log") as (url, _):
        yield url


def test_forked_children_get_their_own_rows(url):
    made = subprocess.run(
        [sys.executable, "-c", FORKING, url],
        input=pickle.dumps(BATCHES),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert made.stdout == b"[0, 0, 0, 0]\n", made.stderr.decode()


def test_threads_share_a_client(url):
    with Client(url) as client:
        expected = [client.embed(batch) for batch in BATCHES]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(client.embed, BATCHES * 8))
    for answer, right in zip(answers, expected * 8, strict=True):
        assert answer.tobytes() == right.tobytes()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_event_loop_gets_connections_of_its_own(url):
    client = AsyncClient(url)
    first = asyncio.run(client.embed(BATCHES[0]))
    second = asyncio.run(client.embed(BATCHES[0]))
    assert first.tobytes() == second.tobytes()
    # What the closed loop left open is complained of here, not in another test.
    del client
    gc.collect()


def test_event_loops_in_threads_share_a_client(url):
    client = AsyncClient(url)
    together = threading.Barrier(4)

    async def ask(batch):
        for _ in range(5):
            together.wait(20)
            rows = await client.embed(batch)
        together.wait(20)
        await client.close()
        return rows

    with Client(url) as other, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda batch: asyncio.run(ask(batch)), BATCHES))
        for answer, batch in zip(answers, BATCHES, strict=True):
            assert answer.tobytes() == other.embed(batch).tobytes()


def test_a_pickled_client_asks_as_the_first_does(url):
    with Client(url, retry_seconds=7) as client, pickle.loads(pickle.dumps(client)) as other:
        assert client.embed(BATCHES[0]).tobytes() == other.embed(BATCHES[0]).tobytes()
        again = pickle.loads(pickle.dumps(client))
        assert again.info() == client.info()
        again.close()


def test_a_transport_that_was_given_is_not_used_in_two_event_loops(url):
    client = AsyncClient(url, transport=httpx.MockTransport(lambda _: httpx.Response(500)))

    async def ask():
        with pytest.raises(RequestError):
            await client.info()

    asyncio.run(ask())
    with pytest.raises(RuntimeError, match="make a client in each"):
        asyncio.run(client.info())


def test_a_transport_that_was_given_is_not_used_on_both_sides_of_a_fork(monkeypatch):
    transport = httpx.MockTransport(lambda _: httpx.Response(500))
    with Client("http://test", transport=transport) as client:
        with pytest.raises(RequestError):
            client.info()
        with monkeypatch.context() as child:
            child.setattr(os, "getpid", lambda: 1)
            with pytest.raises(RuntimeError, match="another process"):
                client.info()
        with pytest.raises(RequestError):
            client.info()


def test_a_closed_client_says_so(url):
    client = Client(url)
    client.close()
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.info()
    with pytest.raises(RuntimeError, match="this client is closed"):
        pickle.loads(pickle.dumps(client)).info()


def test_an_option_that_does_not_exist_is_told_where_it_was_written():
    with pytest.raises(TypeError, match="api_kye"):
        Client("http://test", api_kye="k")
