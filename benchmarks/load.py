"""A load generator: prepared HTTP requests over raw connections, each answer timed.

It exists because a general client would spend more time on a request than the service does.
"""

import asyncio
import io
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


def npy_request(batch: np.ndarray, path: str = "/embed") -> bytes:
    """`POST` of an array `[batch, seq_len, embed_dim]`, answered as npy."""
    stream = io.BytesIO()
    np.save(stream, batch)
    body = stream.getvalue()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-npy\r\n"
        f"Accept: application/x-npy\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Outcome:
    """What came back.

    Attributes:
        statuses: how many answers had each status; 0 stands for a broken connection.
        seconds: of each answer with status 200.
        refused_seconds: of each other answer.
        bodies: different bodies of answers with status 200.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    refused_seconds: list[float] = field(default_factory=list)
    bodies: set[bytes] = field(default_factory=set)
    elapsed: float = 0.0

    def percentile(self, q: float) -> float:
        """Milliseconds within which `q` percent of the good answers came."""
        return 1e3 * float(np.percentile(self.seconds, q)) if self.seconds else float("nan")


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """Sends a prepared request and reads its answer's status and body."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    at = lower.index(b"content-length:") + 15
    length = int(lower[at : lower.index(b"\r\n", at)])
    return int(head[9:12]), await reader.readexactly(length)


async def hammer(
    port: int, request: bytes, connections: int, seconds: float, pause: float = 0.0
) -> Outcome:
    """Keeps `connections` busy for a while; after an answer that is not 200, each pauses."""
    outcome = Outcome()
    start = time.perf_counter()
    end = start + seconds

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while time.perf_counter() < end:
                sent = time.perf_counter()
                status, body = await exchange(reader, writer, request)
                took = time.perf_counter() - sent
                outcome.statuses[status] += 1
                if status == 200:
                    outcome.seconds.append(took)
                    outcome.bodies.add(body)
                else:
                    outcome.refused_seconds.append(took)
                    await asyncio.sleep(pause)
        except (OSError, asyncio.IncompleteReadError):
            outcome.statuses[0] += 1
        finally:
            writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    outcome.elapsed = time.perf_counter() - start
    return outcome


_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method, wrk.body = "POST", file:read("*all")
wrk.headers["Content-Type"], wrk.headers["Accept"] = "application/x-npy", "application/x-npy"
file:close()
function done(summary, latency)
  local errors, bad = summary.errors, summary.errors.status
  bad = bad + errors.connect + errors.read + errors.write + errors.timeout
  io.stdout:write(string.format("RESULT %f %f %d", latency:percentile(50) / 1e3,
    summary.requests / summary.duration * 1e6, bad))
end
"""


def wrk(port: int, batch: np.ndarray, connections: int, seconds: float) -> tuple[float, float]:
    """The same by `wrk`, which takes less of the machine than a generator in Python.

    Returns:
        The median latency in milliseconds, and requests a second; all were answered 200.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, script = Path(folder, "body.npy"), Path(folder, "post.lua")
        np.save(body, batch)
        script.write_text(_SCRIPT.replace("{body}", str(body)))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        run = subprocess.run(
            [*command, "--latency", "-s", script, f"http://127.0.0.1:{port}/embed"],
            check=True,
            capture_output=True,
            text=True,
        )
    latency, rate, bad = run.stdout.partition("RESULT ")[2].split()
    assert bad == "0", run.stdout
    return float(latency), float(rate)
