"""Times the matrix kernels on one core against torch and the processor's peak, interleaved.

    python -m benchmarks.kernels [--seconds 0.5] [--rows 1 8 60 128 512 1920] [--binary]

Rows of int8 [M, K] times packed weights [N, K], integers out. Peers on the same shapes: torch
float32, and torch's int8 matmul where it takes the shape. `% of peak` is of the instruction that
an instruction set multiplies with, measured in registers alone in the same run; for one row,
`x loads` is the time over that of only loading the packed weights. Prints a table and ends in one
JSON line. The figures are medians.
"""

import argparse
import ctypes
import json
import math
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine import cpu_name

ROOT = Path(__file__).parent.parent
SHAPES = [(256, 768), (256, 256), (256, 1024), (1024, 256), (1024, 3072), (2048, 2048)]
# One row only: weights of 16 and 134 MB, beyond the caches of a core.
LARGE_SHAPES = [(4096, 16_384), (16_384, 32_768)]
SAMPLE_SECONDS = 0.002
PEAK_ROUNDS = 400_000
Timer = Callable[[int], float]


def build(folder: Path) -> ctypes.CDLL:
    """The kernels as a library of their own, with the flags that the package builds them with."""
    source = ROOT / "model" / "engine" / "native"
    configure = ["cmake", "-S", source, "-B", folder, "-DCMAKE_BUILD_TYPE=Release"]
    make = ["cmake", "--build", folder, "--parallel", "2"]
    library = folder / "kernels.so"
    unit = ROOT / "benchmarks" / "kernels.cpp"
    link = ["g++", "-std=c++20", "-O3", "-fPIC", "-shared", f"-I{source}", unit]
    link += [folder / "libtritserve_engine.a", "-pthread", "-o", library]
    for command in (configure, make, link):
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
    loaded = ctypes.CDLL(str(library))
    size = ctypes.c_size_t
    loaded.kernel_name.restype = ctypes.c_char_p
    loaded.kernel_name.argtypes = [size]
    loaded.new_case.restype = ctypes.c_void_p
    loaded.new_case.argtypes = [size, size, size, size, ctypes.c_bool]
    loaded.delete_case.argtypes = [ctypes.c_void_p]
    for name in ("time_product", "time_loads"):
        function = getattr(loaded, name)
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_void_p, size]
    loaded.peak.restype, loaded.peak.argtypes = ctypes.c_double, [ctypes.c_char_p, size]
    return loaded


def kernel_names(library: ctypes.CDLL) -> list[str]:
    names: list[str] = []
    while name := library.kernel_name(len(names)):
        names.append(name.decode())
    return names


def timed(run: Callable[[], object]) -> Timer:
    def seconds(repeat: int) -> float:
        start = time.perf_counter()
        for _ in range(repeat):
            run()
        return (time.perf_counter() - start) / repeat

    return seconds


def peers(rows: int, inputs: int, outputs: int) -> dict[str, Timer]:
    x, w = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    out = torch.empty(rows, outputs)
    runs = {"torch_float32": timed(lambda: torch.matmul(x, w.T, out=out))}
    q = torch.randint(-127, 128, (rows, inputs), dtype=torch.int8)
    t = torch.randint(-1, 2, (outputs, inputs), dtype=torch.int8)
    try:
        torch._int_mm(q, t.T)
    except RuntimeError:
        return runs
    return runs | {"torch_int8": timed(lambda: torch._int_mm(q, t.T))}


def medians(timers: dict[str, Timer], seconds: float) -> dict[str, float]:
    repeats = {name: max(1, int(SAMPLE_SECONDS / timer(3))) for name, timer in timers.items()}
    samples: dict[str, list[float]] = {name: [] for name in timers}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples[next(iter(samples))]) < 5:
        for name, timer in timers.items():
            samples[name].append(timer(repeats[name]))
    return {name: float(np.median(values)) for name, values in samples.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=0.5, help="for each shape")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 60, 128, 512, 1920])
    parser.add_argument("--binary", action="store_true", help="signs, not trits")
    parser.add_argument("--kernels", nargs="+", help="only these instruction sets")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    library = build(Path(tempfile.mkdtemp()))
    names = kernel_names(library)
    chosen = [n for n in names if n in (arguments.kernels or names) and n != "scalar"]
    results = []
    shapes = [(rows, *shape) for shape in SHAPES for rows in arguments.rows]
    shapes += [(1, *shape) for shape in LARGE_SHAPES if 1 in arguments.rows]
    for shape in shapes:
        cases = {
            name: library.new_case(names.index(name), *shape, arguments.binary) for name in chosen
        }
        timers = own_timers(library, cases, math.prod(shape))
        timers |= {} if shape[1:] in LARGE_SHAPES else peers(*shape)
        seconds = medians(timers, arguments.seconds)
        for case in cases.values():
            library.delete_case(case)
        results.append(row_of(*shape, chosen, seconds))
        print(text_of(results[-1]), flush=True)
    print(
        json.dumps(
            {
                "benchmark": "kernels",
                "cpu": cpu_name(),
                "weights": "binary" if arguments.binary else "ternary",
                "threads": 1,
                "results": results,
            }
        )
    )


def own_timers(library: ctypes.CDLL, cases: dict[str, int], macs: int) -> dict[str, Timer]:
    """The kernels, the instructions they are made of as if they computed this, and the loads."""

    def product(case: int) -> Timer:
        return lambda repeat: library.time_product(case, repeat)

    def peak(name: str) -> Timer:
        return lambda _: macs * 1e-9 / library.peak(name.encode(), PEAK_ROUNDS)

    timers = {name: product(case) for name, case in cases.items()}
    timers |= {f"{name} peak": peak(name) for name in cases if library.peak(name.encode(), 1)}
    any_case = next(iter(cases.values()))
    return timers | {"loads": lambda repeat: library.time_loads(any_case, repeat)}


def row_of(
    rows: int, inputs: int, outputs: int, chosen: list[str], seconds: dict[str, float]
) -> dict[str, object]:
    macs = rows * inputs * outputs
    row: dict[str, object] = {"m": rows, "k": inputs, "n": outputs}
    row["gmacs"] = {
        name: round(macs / value * 1e-9, 1)
        for name, value in seconds.items()
        if name != "loads" and not name.endswith(" peak")
    }
    row["percent_of_peak"] = {
        name: round(100 * seconds[f"{name} peak"] / seconds[name], 1)
        for name in chosen
        if f"{name} peak" in seconds
    }
    if rows == 1:
        row["times_loads"] = {name: round(seconds[name] / seconds["loads"], 2) for name in chosen}
    return row


def text_of(row: dict) -> str:
    cells = []
    for name, value in row["gmacs"].items():
        cell = f"{name} {value:.0f}"
        if name in row["percent_of_peak"]:
            cell += f" ({row['percent_of_peak'][name]:.0f}% of peak)"
        if name in row.get("times_loads", {}):
            cell += f" ({row['times_loads'][name]:.1f} x loads)"
        cells.append(cell)
    return f"[{row['m']}, {row['k']}] x [{row['k']}, {row['n']}] GMAC/s: " + "  ".join(cells)


if __name__ == "__main__":
    main()
