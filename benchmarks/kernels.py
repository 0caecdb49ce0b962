"""Times the integer matmuls of every instruction set this machine has.

    python -m benchmarks.kernels [--seconds 0.3]

One thread, ternary weights, int8 rows, medians in GMAC/s; the packing of rows into their padded
form is part of the time. The peer, in the same run, is torch's float32 matmul of the same shape.
Prints a table and ends in one JSON line.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.engine import cpu_name
from model import _native
from model.trits import pack_ternary

ROWS = (1, 8, 60, 128, 512, 1920)
SHAPES = ((256, 768), (256, 256), (256, 1024), (1024, 256), (1024, 3072), (2048, 2048))
LARGEST_FOR_SCALAR = 64 * 2**20


def median_seconds(run: Callable[[], object], seconds: float) -> float:
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.3)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    results = []
    for inputs, outputs in SHAPES:
        weights = rng.integers(-1, 2, (outputs, inputs)).astype(np.int8)
        packed = pack_ternary(weights)
        matrices = {
            isa: _native.PackedMatrix(packed, outputs, inputs, False, isa)
            for isa in _native.supported()
        }
        dense = torch.from_numpy(weights.astype(np.float32))
        for rows in ROWS:
            q = rng.integers(-127, 128, (rows, inputs)).astype(np.int8)
            out = np.empty((rows, outputs), np.int32)
            x, macs = torch.from_numpy(q.astype(np.float32)), rows * inputs * outputs
            runs: dict[str, Callable[[], object]] = {
                isa: (lambda matrix=matrix, q=q, out=out: matrix.matmul(q, out))
                for isa, matrix in matrices.items()
                if isa != "scalar" or macs <= LARGEST_FOR_SCALAR
            }
            runs["torch_float32"] = lambda x=x, dense=dense: x @ dense.T
            speeds = {n: round(macs / median_seconds(r, seconds) / 1e9, 1) for n, r in runs.items()}
            results.append({"rows": rows, "inputs": inputs, "outputs": outputs, "gmacs": speeds})
            print(f"{rows:5} x {inputs:5} x {outputs:5}  {speeds}", flush=True)
    print(json.dumps({"benchmark": "kernels", "cpu": cpu_name(), "results": results}))


if __name__ == "__main__":
    main()
