"""The service under load, on real server processes: latency, throughput, overload.

    python -m benchmarks.http [--seconds 5]

The model is the seed's encoder; one sequence of 60 timesteps a request, npy in and out. Engines
and torch run one thread, so that the load generator and the event loop have the other core.
Where `wrk` is installed, it drives the service too. Prints what it finds and ends in one JSON line.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import numpy as np

from benchmarks.engine import SEED, cpu_name
from benchmarks.load import hammer, npy_request, wrk
from tests.builders import random_packed
from tritserve.model.engine.engine import Engine

ROOT = Path(__file__).parent.parent

# Slow enough that ten times its capacity can be sent from the same machine.
SLOW = {"embed_dim": 32, "hidden_size": 1024, "num_heads": 8, "num_layers": 8, "window_size": 60}


@contextmanager
def server(command: list[str], **environment: str) -> Iterator[tuple[int, int]]:
    """A server process; yields its port and its process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [part.replace("PORT", str(port)) for part in command]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    # Only the end of what it says is kept: it says something of each request.
    end = subprocess.Popen(
        ["tail", "--bytes=4000"], stdin=process.stderr, stdout=subprocess.PIPE, text=True
    )
    process.stderr.close()
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None:
                raise SystemExit(f"{arguments} ended, saying:\n{end.communicate()[0]}")
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()
        end.wait()


def tritserve(model: Path, **environment: str) -> AbstractContextManager[tuple[int, int]]:
    command = ["-m", "tritserve", "serve", "--model", str(model), "--port", "PORT"]
    return server(command, TRITSERVE_THREADS="1", **environment)


def engine_alone(model: Path, seconds: float) -> dict[str, float]:
    """The engine's own time for one sequence, and its sequences a second at its best batch."""
    engine = Engine.load(model, threads=1)
    width = engine.model.config.embed_dim
    rates, latency = {}, 0.0
    for batch in (1, 8, 32, 128):
        values = np.random.default_rng(0).standard_normal((batch * 60, width)).astype(np.float32)
        lengths = np.full(batch, 60)
        times: list[float] = []
        end = time.perf_counter() + seconds / 4
        while time.perf_counter() < end:
            start = time.perf_counter()
            engine.embed(values, lengths)
            times.append(time.perf_counter() - start)
        rates[batch] = batch / float(np.median(times))
        if batch == 1:
            latency = 1e3 * float(np.median(times))
    best = max(rates, key=lambda batch: rates[batch])
    return {"latency_ms": latency, "best_batch": best, "sequences_per_second": rates[best]}


def fast(folder: Path, seconds: float) -> dict:
    model = folder / "seed.safetensors"
    random_packed(model, **SEED)
    batch = np.random.default_rng(1).standard_normal((1, 60, 287)).astype(np.float32)
    request = npy_request(batch)
    alone = engine_alone(model, seconds)
    with (
        tritserve(model) as (port, _),
        server(["-m", "benchmarks.plain_app", "PORT", "1"]) as (peer, _),
    ):
        asyncio.run(hammer(port, request, 4, 1.0))
        asyncio.run(hammer(peer, request, 4, 1.0))
        idle, busy, plain_idle, plain_busy = [], [], [], []
        by_wrk = {"idle": [], "busy": []}
        for _ in range(3):
            idle.append(asyncio.run(hammer(port, request, 1, seconds / 3)))
            plain_idle.append(asyncio.run(hammer(peer, request, 1, seconds / 3)))
            busy.append(asyncio.run(hammer(port, request, 64, seconds / 3)))
            plain_busy.append(asyncio.run(hammer(peer, request, 64, seconds / 3)))
            if shutil.which("wrk"):
                by_wrk["idle"].append(wrk(port, batch, 1, seconds / 3)[0])
                by_wrk["busy"].append(wrk(port, batch, 64, seconds / 3)[1])
    p50 = float(np.median([outcome.percentile(50) for outcome in idle]))
    rate = float(np.median([len(o.seconds) / o.elapsed for o in busy]))
    plain = float(np.median([len(o.seconds) / o.elapsed for o in plain_busy]))
    assert all(set(o.statuses) == {200} for o in (*idle, *busy))
    assert len(set().union(*(o.bodies for o in (*idle, *busy)))) == 1, "answers differ"
    with_wrk = {}
    if by_wrk["idle"]:
        latency, most = (float(np.median(by_wrk[name])) for name in ("idle", "busy"))
        with_wrk = {
            "wrk_idle_p50_ms": latency,
            "wrk_idle_overhead_ms": latency - alone["latency_ms"],
            "wrk_sequences_per_second": most,
            "wrk_share_of_engine": most / alone["sequences_per_second"],
        }
    return {
        "engine_latency_ms": alone["latency_ms"],
        "idle_p50_ms": p50,
        "idle_overhead_ms": p50 - alone["latency_ms"],
        "plain_idle_p50_ms": float(np.median([outcome.percentile(50) for outcome in plain_idle])),
        "engine_best_batch": alone["best_batch"],
        "engine_sequences_per_second": alone["sequences_per_second"],
        "sequences_per_second": rate,
        "share_of_engine": rate / alone["sequences_per_second"],
        "plain_sequences_per_second": plain,
        "times_plain": rate / plain,
        "busy_p50_ms": busy[1].percentile(50),
        "busy_p99_ms": busy[1].percentile(99),
        **with_wrk,
    }


def overloaded(folder: Path, seconds: float) -> dict:
    """640 connections against a queue for 64 sequences: ten times what it takes."""
    model = folder / "slow.safetensors"
    random_packed(model, **SLOW)
    request = npy_request(np.random.default_rng(1).standard_normal((1, 60, 32)).astype(np.float32))
    with tritserve(model, TRITSERVE_QUEUE_TIMESTEPS=str(64 * 60)) as (port, _):
        normal = asyncio.run(hammer(port, request, 64, seconds))
        over = asyncio.run(hammer(port, request, 640, seconds, pause=0.25))
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    left = next(line for line in text.splitlines() if line.startswith("tritserve_queue_requests "))
    return {
        "normal_per_second": len(normal.seconds) / normal.elapsed,
        "normal_p99_ms": normal.percentile(99),
        "sent_per_second": sum(over.statuses.values()) / over.elapsed,
        "accepted_per_second": len(over.seconds) / over.elapsed,
        "accepted_p99_ms": over.percentile(99),
        "refused_p50_ms": 1e3 * float(np.median(over.refused_seconds)),
        "refused_p99_ms": 1e3 * float(np.percentile(over.refused_seconds, 99)),
        "statuses": dict(over.statuses),
        "left_in_queue": float(left.split()[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    folder = Path(tempfile.mkdtemp())
    result = {"benchmark": "http", "cpu": cpu_name()}
    for name, part in (("load", fast), ("overload", overloaded)):
        result[name] = part(folder, seconds)
        for key, value in result[name].items():
            print(
                f"{name:9} {key:28} {value:.3f}"
                if isinstance(value, float)
                else f"{name:9} {key:28} {value}"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
