"""Times a forward pass against the float twin in torch and ONNX Runtime, in one interleaved run.

    python -m benchmarks.engine [--seconds 12] [--threads 1 2] [--batches 1 8 32 256]

The model is the seed's encoder: embed 287, hidden 256, 4 heads, 4 layers, 60 timesteps. Prints a
table and ends in one JSON line.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.peers import peers
from tests.builders import random_packed
from tritserve.model.engine.engine import Engine

# ONNX Runtime's threads go on spinning after a run: for 25 ms on one machine, over 50 on another.
REST_SECONDS = 0.2
SEED = {"embed_dim": 287, "hidden_size": 256, "num_heads": 4, "num_layers": 4, "window_size": 60}
MEMORY_PROBE = """
import json, os, sys, time
start = time.perf_counter()
import numpy as np
from tritserve.model.engine.engine import Engine
imported = time.perf_counter()
engine = Engine.load(sys.argv[1])
engine.embed(np.zeros((60, 287), np.float32), np.array([60]))
first = time.perf_counter()
engine.embed(np.zeros((32 * 60, 287), np.float32), np.full(32, 60))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"import_seconds": imported - start, "load_to_answer_seconds": first - imported,
  "peak_rss_mb": int(peak.split()[1]) / 1024, "bits_per_weight_in_memory":
  8 * engine._encoder.panel_bytes / engine._encoder.weights}))
"""


def cpu_name() -> str:
    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return names[0].split(":")[1].strip() if names else platform.processor()


def measure(
    runs: dict, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median seconds of each by the clock, taken in turn."""
    for run in runs.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, run in runs.items():
            # The threads of the one before spin for a while, and its data fill the caches: every
            # contender is given a rest and one run to warm up.
            time.sleep(REST_SECONDS)
            run()
            start = clock()
            run()
            times[name].append(clock() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 256])
    arguments = parser.parse_args()

    path = Path(tempfile.mkdtemp()) / "seed.safetensors"
    trained, packed = random_packed(path, **SEED)
    results = []
    for threads in arguments.threads:
        others = peers(trained.config, threads)
        engine = Engine(packed, threads=threads)
        for batch in arguments.batches:
            medians = measure(contenders(engine, others, batch), arguments.seconds)
            results.append(report(threads, batch, medians))
    about = {"benchmark": "engine", "cpu": cpu_name(), "kernel": engine.kernel}
    print(json.dumps(about | {"results": results, "memory": memory(path)}))


def contenders(engine: Engine, others: dict, batch: int) -> dict:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, 60, 287), dtype=np.float32)
    lengths = np.full(batch, 60)
    flat = x.reshape(-1, 287)
    runs = {"tritserve": lambda: engine.embed(flat, lengths)}
    return runs | {name: partial(run, x) for name, run in others.items()}


def report(threads: int, batch: int, medians: dict[str, float]) -> dict:
    ratios = {name: round(value / medians["tritserve"], 2) for name, value in medians.items()}
    cells = [f"{name} {1e3 * value:.2f} ms ({ratios[name]}x)" for name, value in medians.items()]
    print(f"{threads} threads, batch {batch:3}: {'  '.join(cells)}", flush=True)
    milliseconds = {name: round(1e3 * value, 4) for name, value in medians.items()}
    return {"threads": threads, "batch": batch, "median_ms": milliseconds, "times_slower": ratios}


def memory(path: Path) -> dict:
    """Figures of a fresh process that serves the model."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY_PROBE, str(path)], check=True, capture_output=True, text=True
    )
    return json.loads(run.stdout)


if __name__ == "__main__":
    main()
