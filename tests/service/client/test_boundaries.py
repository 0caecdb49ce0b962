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

# Children ask one after the other: which connection each uses is not a matter of luck.
IN_TURN = """
import os, sys
import numpy as np
from tritserve import Client

def tell_port(response):
    port = response.extensions["network_stream"].get_extra_info("client_addr")[1]
    os.write(1, f"{port} ".encode())

client = Client(sys.argv[1], event_hooks={"response": [tell_port]})
client.embed(np.ones((1, 1, 12)))
for _ in range(2):
    if not os.fork():
        client.embed(np.ones((1, 1, 12)))
        os._exit(0)
    os.wait()
client.embed(np.ones((1, 1, 12)))
"""

AT_ONCE = """
import os, pickle, sys
from tritserve import Client

def tell(number):
    rows = [client.embed(batches[number]) for _ in range(20)]
    wrong = sum(given.tobytes() != expected[number].tobytes() for given in rows)
    os.write(1, f"{wrong} ".encode())

url, batches = sys.argv[1], pickle.load(sys.stdin.buffer)
client = Client(url)
expected = [client.embed(batch) for batch in batches]
start, starts = os.pipe()
for number in range(1, len(batches)):
    if not os.fork():
        os.close(starts)
        os.read(start, 1)
        tell(number)
        os._exit(0)
os.close(starts)
tell(0)
for _ in batches[1:]:
    os.wait()
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serving(log=tmp_path_factory.mktemp("boundaries") / "log") as (url, _):
        yield url


def told_by(script, url):
    """The words that a process and those that it forks write."""
    made = subprocess.run(
        [sys.executable, "-c", script, url],
        input=pickle.dumps(BATCHES),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert made.returncode == 0, made.stderr.decode()
    return made.stdout.decode().split()


def test_forked_children_have_connections_of_their_own(url):
    before, first, second, after = told_by(IN_TURN, url)
    assert len({before, first, second}) == 3
    assert after == before


def test_forked_children_that_ask_at_once_get_their_own_rows(url):
    assert told_by(AT_ONCE, url) == ["0"] * 4


def test_threads_share_a_client(url):
    with Client(url) as client:
        expected = [client.embed(batch) for batch in BATCHES]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(client.embed, BATCHES * 8))
    for answer, right in zip(answers, expected * 8, strict=True):
        assert answer.tobytes() == right.tobytes()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "options", [{}, {"transport": None, "mounts": None}, {"mounts": {"ftp://": None}}]
)
def test_a_second_event_loop_gets_connections_of_its_own(url, options):
    client = AsyncClient(url, **options)
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
