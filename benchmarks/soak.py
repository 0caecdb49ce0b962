"""A long run against a real server: good requests among bad ones, disconnects and reloads.

    python -m benchmarks.soak [--minutes 10]

Every answer is checked, byte for byte; at the end no place in the queue may be taken and memory
must be flat. Prints a line now and then and ends in one JSON line; exits 1 if anything was wrong.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

from benchmarks.engine import cpu_name
from benchmarks.http import server
from benchmarks.load import exchange, npy_request
from tests.builders import DATA
from tritserve.model.engine.engine import Engine
from tritserve.model.pretrained import EMBEDDED_MODELS

MODEL = EMBEDDED_MODELS["japanese-vowels"]
CONNECTIONS = 24
KINDS = {"good": 80, "bad": 8, "leave": 8, "cut": 4}
BAD = [
    (
        b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-npy\r\nContent-Length: 4"
        b"\r\n\r\nabcd",
        400,
    ),
    (
        b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n"
        b"x",
        415,
    ),
    (b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", 404),
]


class Soak:
    def __init__(self, port: int) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.requests, self.answers = self._prepare()

    def _prepare(self) -> tuple[list[bytes], list[bytes]]:
        with np.load(DATA / "JapaneseVowels.npz") as arrays:
            values, lengths = arrays["test_values"], arrays["test_lengths"]
        sequences = np.split(values, np.cumsum(lengths)[:-1])
        engine = Engine.load(MODEL)
        requests, answers = [], []
        for sequence in sequences:
            batch = np.repeat(sequence[None], 1 + len(requests) % 5, axis=0)
            requests.append(npy_request(batch))
            flat = batch.reshape(-1, batch.shape[2])
            answers.append(engine.embed(flat, np.full(len(batch), batch.shape[1])).tobytes())
        return requests, answers

    async def client(self, seed: int, end: float) -> None:
        chance = random.Random(seed)
        connection = None
        while time.monotonic() < end:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", self.port)
            kind = chance.choices(list(KINDS), KINDS.values())[0]
            keep = await self._once(kind, chance, *connection)
            if not keep:
                connection[1].close()
                connection = None
        if connection:
            connection[1].close()

    async def _once(
        self,
        kind: str,
        chance: random.Random,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        self.counts[kind] += 1
        row = chance.randrange(len(self.requests))
        if kind == "good":
            status, body = await exchange(reader, writer, self.requests[row])
            self.counts[f"status {status}"] += 1
            if status != 200 or read_array(body) != self.answers[row]:
                self.wrong.append(f"row {row}: {status} {body[:200]!r}")
            return True
        if kind == "bad":
            request, expected = chance.choice(BAD)
            status, body = await exchange(reader, writer, request)
            if status != expected:
                self.wrong.append(f"bad request: {status}, not {expected}: {body[:200]!r}")
            return True
        request = self.requests[row]
        writer.write(request if kind == "leave" else request[: chance.randrange(1, len(request))])
        await writer.drain()
        await asyncio.sleep(chance.random() * 0.003)
        return False


def read_array(body: bytes) -> bytes:
    header = 10 + int.from_bytes(body[8:10], "little")
    return body[header:]


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


async def run(soak: Soak, pid: int, model: Path, minutes: float) -> list[float]:
    end = time.monotonic() + 60 * minutes
    memory: list[float] = []

    async def disturb() -> None:
        broken = False
        while time.monotonic() < end:
            await asyncio.sleep(min(5.0, 6 * minutes))
            # Every second reload finds a broken file, and the old model goes on.
            broken = not broken
            data = MODEL.read_bytes()
            (model.parent / "new").write_bytes(data[:-9] if broken else data)
            (model.parent / "new").replace(model)
            os.kill(pid, signal.SIGHUP)
            soak.counts["reloads"] += 1
            memory.append(resident_mb(pid))
            good, wrong = soak.counts["good"], len(soak.wrong)
            print(f"{good} good, {wrong} wrong, {memory[-1]:.1f} MB", flush=True)

    clients = [soak.client(seed, end) for seed in range(CONNECTIONS)]
    await asyncio.gather(disturb(), *clients)
    return memory


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    model = Path(tempfile.mkdtemp()) / "model.safetensors"
    shutil.copy(MODEL, model)
    command = ["-m", "tritserve", "serve", "--model", str(model), "--port", "PORT"]
    with server(command) as (port, pid):
        soak = Soak(port)
        memory = asyncio.run(run(soak, pid, model, minutes))
        time.sleep(1)
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    gauges = ("tritserve_queue_requests ", "tritserve_queue_timesteps ")
    left = sum(float(line.split()[1]) for line in text.splitlines() if line.startswith(gauges))
    quarter = max(1, len(memory) // 4)
    growth = float(
        np.median(memory[-quarter:]) - np.median(memory[quarter : 2 * quarter] or memory)
    )
    result = {
        "benchmark": "soak",
        "cpu": cpu_name(),
        "minutes": minutes,
        "counts": dict(soak.counts),
        "wrong": soak.wrong[:10],
        "left_in_queue": left,
        "resident_mb": [round(memory[0], 1), round(memory[-1], 1)],
        "growth_mb": round(growth, 2),
    }
    print(json.dumps(result))
    sys.exit(1 if soak.wrong or left or growth > 8 else 0)


if __name__ == "__main__":
    main()
