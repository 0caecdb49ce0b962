"""Times the universal encoder against Mantis, a float encoder of 8 M weights, in turn.

    pip install mantis-tsfm
    python -m benchmarks.universal [--model FILE] [--seconds 30] [--batches 1 32]

Windows of 6 channels and 100 timesteps, on one thread. The time that it computed is counted: on a
busy machine the slower one would be interrupted more often. Mantis (Feofanov et al. 2025, arXiv
2502.15637) is its authors' own code with random weights, which take as long as trained ones:
channel by channel, each resized to 512 timesteps; it is given all channels of a batch at once.
Without --model the universal encoder's weights are random too. Ends in one JSON line.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.engine import cpu_name, measure
from benchmarks.peers import Run
from tritserve.model.engine.engine import Engine
from tritserve.model.network.bitnet import BitNet
from tritserve.model.pretraining.recipe import PretrainRecipe
from tritserve.model.training.export import export

CHANNELS, TIMESTEPS = 6, 100


def mantis() -> tuple[Run, int]:
    """Mantis as a contender, `[batch, timesteps, channels]` float32 in, and its weights."""
    from mantis.architecture import MantisV1  # noqa: PLC0415

    torch.manual_seed(0)
    network = MantisV1(device="cpu").eval()

    def run(batch: np.ndarray) -> np.ndarray:
        series = torch.from_numpy(batch).transpose(1, 2).reshape(-1, 1, batch.shape[1])
        with torch.inference_mode():
            resized = F.interpolate(series, network.seq_len, mode="linear", align_corners=False)
            return network(resized).numpy().reshape(len(batch), -1)

    return run, sum(parameter.numel() for parameter in network.parameters())


def universal(path: Path | None) -> tuple[Run, int, str]:
    """The engine as a contender, its model's ternary weights, and its kernel."""
    with TemporaryDirectory() as folder:
        if path is None:
            torch.manual_seed(0)
            path = Path(folder) / "random.safetensors"
            export(BitNet(PretrainRecipe().model).eval(), path, name="random", training={})
        engine = Engine.load(path, threads=1)

    def run(batch: np.ndarray) -> np.ndarray:
        lengths = np.full(len(batch), batch.shape[1])
        return engine.embed(batch.reshape(-1, batch.shape[2]), lengths)

    return run, sum(np.prod(layer.shape) for layer in engine.model.layers.values()), engine.kernel


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    ours, our_weights, kernel = universal(arguments.model)
    theirs, their_weights = mantis()
    results = []
    for size in arguments.batches:
        shape = (size, TIMESTEPS, CHANNELS)
        batch = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        contenders = {"tritserve": lambda b=batch: ours(b), "mantis": lambda b=batch: theirs(b)}
        medians = measure(contenders, arguments.seconds, time.process_time)
        a_second = {name: round(size / seconds, 1) for name, seconds in medians.items()}
        ratio = round(medians["mantis"] / medians["tritserve"], 1)
        print(f"batch {size:3}: windows a second {a_second}, {ratio} times", flush=True)
        results.append({"batch": size, "windows_a_second": a_second, "times_faster": ratio})
    about = {"benchmark": "universal", "cpu": cpu_name(), "kernel": kernel, "threads": 1}
    weights = {"tritserve": int(our_weights), "mantis": their_weights}
    print(json.dumps(about | {"weights": weights, "results": results}))


if __name__ == "__main__":
    main()
