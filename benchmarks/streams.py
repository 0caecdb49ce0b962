"""Times a frame of a live stream against its window computed anew, in one interleaved run.

    python -m benchmarks.streams [--rounds 40] [--streams 64]

The model is the seed's encoder with an attention window of 60 timesteps; streams have had as many.
Every contender computes on the calling thread, and its processor time is taken, so that a machine
that is shared tells the same as a quiet one, but for the caches. Prints a table and ends in one
JSON line.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.engine import SEED, cpu_name
from benchmarks.peers import peers, torch_eager
from tests.builders import random_packed
from tritserve.model.engine.engine import Engine

Run = Callable[[], object]


def measure(runs: dict[str, tuple[Run, int]], rounds: int) -> dict[str, float]:
    """Median seconds of processor time of one frame; each run computes so many."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (run, frames) in runs.items():
            run()
            start = time.thread_time()
            run()
            times[name].append((time.thread_time() - start) / frames)
    return {name: float(np.median(values)) for name, values in times.items()}


def contenders(engine: Engine, count: int) -> dict[str, tuple[Run, int]]:
    width, window = engine.model.config.features, engine.model.config.max_timesteps
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((window, width), dtype=np.float32)
    lengths, one, each = np.array([window]), np.ones(1, np.int64), np.ones(count, np.int64)
    streams = [engine.stream() for _ in range(1 + count)]
    for _ in range(2):
        engine.push(streams, np.tile(frames, (1 + count, 1)), np.full(1 + count, window))
    alone, together = streams[:1], streams[1:]
    many = rng.standard_normal((count, width), dtype=np.float32)

    def follow() -> None:
        for frame in frames:
            engine.push(alone, frame[None], one)

    return {
        "embed": (lambda: engine.embed(frames, lengths), 1),
        "one stream": (follow, window),
        f"{count} streams": (lambda: engine.push(together, many, each), count),
    }


def recomputing(engine: Engine) -> dict[str, tuple[Run, int]]:
    """The peers, which compute the window anew for each frame."""
    config = engine.model.config
    window = np.zeros((1, config.max_timesteps, config.features), np.float32)
    try:
        runs = peers(config, 1)
    except ImportError:
        runs = {"torch_eager": torch_eager(config, 1)}
    return {
        name: (lambda run=run: run(window), 1)
        for name, run in runs.items()
        if name in ("torch_eager", "onnx_float32", "onnx_int8")
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--streams", type=int, default=64)
    arguments = parser.parse_args()
    path = Path(tempfile.mkdtemp()) / "seed.safetensors"
    options = SEED | {"attention_window": SEED["window_size"]}
    engine = Engine(random_packed(path, **options)[1], threads=1)
    runs = contenders(engine, arguments.streams) | recomputing(engine)
    medians = measure(runs, arguments.rounds)
    for name, seconds in medians.items():
        print(
            f"{name:12} {1e6 * seconds:8.1f} us a frame, embed / {medians['embed'] / seconds:.1f}"
        )
    microseconds = {name: round(1e6 * seconds, 1) for name, seconds in medians.items()}
    about = {"benchmark": "streams", "cpu": cpu_name(), "kernel": engine.kernel}
    held = {"max_stream_bytes": engine.max_stream_bytes}
    print(json.dumps(about | held | {"processor_us_a_frame": microseconds}))


if __name__ == "__main__":
    main()
