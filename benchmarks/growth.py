"""How time grows with timesteps, batch and width, beside the float twin in torch.

    python -m benchmarks.growth [--seconds 1] [--plot docs/growth.png]

Around the seed's encoder (hidden 256, 4 heads, 4 layers, 60 timesteps, batch 8) one size changes
at a time. Both run on all processors, taken in turn; the figures are medians. Prints a table, draws
a plot where asked, and ends in one JSON line.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.engine import SEED, cpu_name, measure
from benchmarks.peers import DenseTwin
from tests.builders import random_packed
from tritserve.model.engine.engine import Engine
from tritserve.model.environment import available_processors
from tritserve.model.network.bitnet import BitNet

AXES: dict[str, list[int]] = {
    "timesteps": [60, 120, 250, 500, 1000, 2000, 4096, 8192],
    "batch": [1, 2, 4, 8, 16, 32, 64, 128, 256],
    "width": [64, 128, 256, 512, 1024],
}
DEFAULTS = {"timesteps": 60, "batch": 8, "width": 256}


def time_one(axis: str, size: int, seconds: float) -> dict[str, float]:
    sizes = DEFAULTS | {axis: size}
    if axis == "timesteps":
        sizes["batch"] = 1
    options = SEED | {"hidden_size": sizes["width"], "window_size": sizes["timesteps"]}
    model, packed = random_packed(Path(tempfile.mkdtemp()) / "m", **options)
    twin = DenseTwin(BitNet(model.config.model_copy(update={"quantize": "none"}))).eval()
    engine = Engine(packed)
    shape = (sizes["batch"], sizes["timesteps"], options["embed_dim"])
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    flat, lengths = x.reshape(-1, shape[2]), np.full(shape[0], shape[1])

    def run_torch() -> None:
        with torch.inference_mode():
            twin(torch.from_numpy(x))

    return measure(
        {"tritserve": lambda: engine.embed(flat, lengths), "torch_eager": run_torch}, seconds
    )


def plot(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panes = plt.subplots(1, len(results), figsize=(11, 3.6), dpi=140)
    for pane, (axis, rows) in zip(panes, results.items(), strict=True):
        for name in ("torch_eager", "tritserve"):
            pane.loglog([r["size"] for r in rows], [r[name] for r in rows], "o-", ms=3, label=name)
        pane.set(xlabel=axis, ylabel="milliseconds")
        pane.grid(alpha=0.3, which="both", linewidth=0.5)
    panes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1.0, help="for each size")
    parser.add_argument("--plot", type=Path, help="where the plot goes")
    arguments = parser.parse_args()

    torch.set_num_threads(available_processors())
    results: dict[str, list[dict[str, float]]] = {}
    for axis, sizes in AXES.items():
        results[axis] = []
        for size in sizes:
            medians = time_one(axis, size, arguments.seconds)
            row = {name: round(1e3 * value, 3) for name, value in medians.items()}
            results[axis].append({"size": size, **row})
            ratio = medians["torch_eager"] / medians["tritserve"]
            cells = ", ".join(f"{name} {value} ms" for name, value in row.items())
            print(f"{axis} {size}: {cells} ({ratio:.1f}x)", flush=True)
    if arguments.plot:
        plot(results, arguments.plot)
    print(
        json.dumps(
            {
                "benchmark": "growth",
                "cpu": cpu_name(),
                "threads": available_processors(),
                "defaults": DEFAULTS | {"batch_on_the_timesteps_axis": 1},
                "milliseconds": results,
            }
        )
    )


if __name__ == "__main__":
    main()
