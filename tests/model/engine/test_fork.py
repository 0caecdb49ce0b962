"""Processes forked from one that has an engine, at rest or at work."""

import os
import signal
import threading
import time

import pytest

from tests.builders import random_batch, random_packed, shared_engine
from tritserve.model.engine.engine import Engine

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return random_packed(tmp_path_factory.mktemp("fork") / "m")[1]


def forked(check):
    """A forked child that exits with 0 if the check holds there."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return child


def ends_well(child, seconds=20):
    """Whether a child exits with 0 in time; it is killed if not."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status == 0
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_a_forked_child_computes_the_same(packed):
    engine = shared_engine(packed, threads=2)
    batch = random_batch([60, 60, 9], 5)
    expected = engine.embed(batch.values, batch.lengths).tobytes()
    assert ends_well(
        forked(lambda: engine.embed(batch.values, batch.lengths).tobytes() == expected)
    )
    assert engine.embed(batch.values, batch.lengths).tobytes() == expected


@pytest.mark.parametrize("threads", [1, 2])
def test_a_child_forked_while_another_thread_embeds_computes_the_same(packed, threads):
    engines = [shared_engine(packed, threads=threads) for _ in range(2)]
    batch = random_batch([60] * 50, 5)
    expected = engines[0].embed(batch.values, batch.lengths).tobytes()
    over, answers = threading.Event(), []

    def same():
        return all(e.embed(batch.values, batch.lengths).tobytes() == expected for e in engines)

    def embed_on():
        while not over.is_set():
            answers.append(same())

    busy = threading.Thread(target=embed_on)
    busy.start()
    try:
        for _ in range(20):
            time.sleep(0.003)
            assert ends_well(forked(same)), "the child hangs, or computes something else"
    finally:
        over.set()
        busy.join()
    assert answers
    assert all(answers)


def test_threads_may_fork_while_others_make_engines(packed):
    batch = random_batch([60, 9], 5)
    expected = Engine(packed, threads=1).embed(batch.values, batch.lengths).tobytes()
    over, children = threading.Event(), []

    def same():
        engine = Engine(packed, threads=1)
        return engine.embed(batch.values, batch.lengths).tobytes() == expected

    def make_engines():
        while not over.is_set():
            same()

    def fork_on():
        for _ in range(10):
            children.append(forked(same))

    busy = threading.Thread(target=make_engines)
    forking = [threading.Thread(target=fork_on) for _ in range(3)]
    for thread in [busy, *forking]:
        thread.start()
    for thread in forking:
        thread.join()
    over.set()
    busy.join()
    assert len(children) == 30
    assert sum(map(ends_well, children)) == 30
