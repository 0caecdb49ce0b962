"""A real `tritserve serve` process on a free port."""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def serving(
    *arguments: str | Path,
    log: Path,
    environment: dict[str, str] | None = None,
    verify: ssl.SSLContext | None = None,
    python: str | Path = sys.executable,
    program: Sequence[str | Path] = ("-m", "tritserve"),
    started: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yields the base URL and the process once the service is ready.

    It is asked over TLS if `verify` says whom to trust. `program` is what
    `python` runs; `started` is called before the service is ready.
    """
    port = free_port()
    command = [python, *program, "serve", "--port", str(port), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=output,
            stderr=output,
            env=os.environ | (environment or {}),
        )
    url = f"{'https' if verify else 'http'}://127.0.0.1:{port}"
    try:
        started(process)
        wait_until_ready(url, process, log, verify)
        yield url, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def refused_start(*arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    """What `tritserve serve` writes to its standard error where it must not start."""
    run = run_command("serve", "--port", "0", *arguments, environment=environment)
    assert run.returncode > 0
    assert "Traceback" not in run.stderr
    return run.stderr


def run_command(
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Runs `tritserve` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tritserve", *map(str, arguments)],
        env=os.environ | (environment or {}),
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


def wait_until_ready(
    url: str, process: subprocess.Popen[bytes], log: Path, verify: ssl.SSLContext | None
) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{url}/health/ready", verify=verify or True).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"the service did not become ready:\n{log.read_text()}")


def address(url: str) -> tuple[str, int]:
    """The host and port of a base URL."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def connect(url: str) -> socket.socket:
    """A bare connection to the server at a base URL, before any TLS."""
    return socket.create_connection(address(url), timeout=20)


def log_lines(log: Path) -> list[dict[str, Any]]:
    """Every line of a log so far; one that is not JSON is an error."""
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Waits until the condition holds; fails if it does not in time."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def wait_until_served(log: Path, times: int) -> None:
    """Waits until the log tells so many times that a model is served."""
    wait_for(lambda: log.read_text().count("now serving") == times)
