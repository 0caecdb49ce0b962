"""Clients that cross a fork, an event loop, a thread or a pickle."""

import asyncio
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.builders import random_batch
from tests.end_to_end.server import serving
from tritserve import AsyncClient, Client

BATCHES = [random_batch([7] * 60, 12, seed=seed).split() for seed in range(4)]

FORKING = """
import os, pickle, sys
import numpy as np
from tritserve import AsyncClient, Client

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


def test_event_loops_in_threads_share_a_client(url):
    client = AsyncClient(url)
    together = threading.Barrier(4)

    async def ask(batch):
        for _ in range(5):
            together.wait(20)
            rows = await client.embed(batch)
        await client.close()
        return rows

    with Client(url) as other, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda batch: asyncio.run(ask(batch)), BATCHES))
        for answer, batch in zip(answers, BATCHES, strict=True):
            assert answer.tobytes() == other.embed(batch).tobytes()
