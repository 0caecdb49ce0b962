"""Anomaly detection, with its limits: which faults does the distance to normal windows show?

A window is as anomalous as it is far, on average, from the three nearest of the normal ones. Normal
are the training windows of two real sets, each channel over their mean and deviation; into windows
of the test split, on which nothing was fitted or chosen, faults of eight known kinds are injected.
The AUROC is the chance that a faulty window is farther than an intact one: 0.5 is a guess, 1 finds
all. Beside embeddings stand the same detector on summary statistics and on raw points.

    make serve                                # in one terminal
    .venv/bin/pip install -e '.[examples]'    # in another
    .venv/bin/python examples/anomaly.py [URL]
"""

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sktime.datasets import load_basic_motions

from tritserve import Client

# A window is `[timesteps, channels]`, NaN where a value is missing.
Array = npt.NDArray[np.float32]

FAULTY = 400
POINTS = 32
VOWELS = Path(__file__).parent.parent / "data" / "JapaneseVowels.npz"


def motions(split: str) -> list[Array]:
    """Accelerometer and gyroscope of a smart watch: 10 seconds at 10 Hz."""
    values, _ = load_basic_motions(split=split, return_type="numpy3D")
    return [window.T.astype(np.float32) for window in values]


def vowels(split: str) -> list[Array]:
    """Cepstra of two spoken vowels."""
    data = np.load(VOWELS)
    return np.split(data[f"{split}_values"], np.cumsum(data[f"{split}_lengths"])[:-1])


def faults(window: Array, chance: np.random.Generator) -> dict[str, Array]:
    """A standardised window with each fault, most of them in one channel."""
    timesteps, channels = window.shape
    channel = chance.integers(channels)
    # Another axis of the same sensor; of cepstra, one close by.
    axes = [channel, channel // 3 * 3 + (channel + 1) % 3]
    begin = chance.integers(timesteps // 4, timesteps // 2)
    peaks = chance.choice(timesteps, 3, replace=False)
    made: dict[str, Array] = defaultdict(window.copy)
    made["spikes"][peaks, channel] += chance.choice([-5, 5], 3)
    made["swapped axes"][:, axes] = window[:, axes[::-1]]
    made["reversed time"][:] = window[::-1]
    made["level shift"][begin:, channel] += 2
    made["stuck sensor"][begin:, channel] = window[begin, channel]
    made["added noise"][:, channel] += chance.normal(size=timesteps)
    made["slow drift"][:, channel] += np.linspace(0, 3, timesteps)
    made["missing stretch"][begin : begin + timesteps // 3, channel] = np.nan
    return made


def statistics(windows: list[Array]) -> Array:
    """Five numbers of each channel, gaps left out: `[windows, 5 * channels]`."""
    rows = []
    for w in windows:
        change = np.nanmean(np.abs(np.diff(w, axis=0)), axis=0)
        rows.append([np.nanmean(w, 0), np.nanstd(w, 0), np.nanmin(w, 0), np.nanmax(w, 0), change])
    return np.array(rows).reshape(len(windows), -1)


def raw_points(windows: list[Array]) -> Array:
    """Each channel drawn at as many points, gaps filled: `[windows, channels * POINTS]`."""
    rows = []
    for w in windows:
        time, at, known = np.linspace(0, 1, len(w)), np.linspace(0, 1, POINTS), ~np.isnan(w)
        rows.append([np.interp(at, time[k], c[k]) for c, k in zip(w.T, known.T, strict=True)])
    return np.array(rows).reshape(len(windows), -1)


def main(url: str = "http://127.0.0.1:8000") -> None:
    with Client(url) as client:
        features: dict[str, Callable[[list[Array]], Array]] = {
            "embedding": client.embed,
            "statistics": statistics,
            "raw points": raw_points,
        }
        for name, load in {"BasicMotions": motions, "JapaneseVowels": vowels}.items():
            normal, intact = load("train"), load("test")
            mean, deviation = np.concatenate(normal).mean(0), np.concatenate(normal).std(0)
            normal, intact = ([(w - mean) / deviation for w in ws] for ws in (normal, intact))
            chance = np.random.default_rng(0)
            faulty = [faults(intact[i], chance) for i in chance.choice(len(intact), FAULTY)]
            kinds = list(faulty[0])
            asked = intact + [made[kind] for kind in kinds for made in faulty]

            print(f"{name:16}", *(f"{column:>11}" for column in features))
            truth = np.repeat([0, 1], [len(intact), FAULTY])
            columns = []
            for compute in features.values():
                known, rows = compute(normal), compute(asked)
                scale = known.std(axis=0) if compute is statistics else 1
                nearest = NearestNeighbors(n_neighbors=3).fit(known / scale)
                distance = nearest.kneighbors(rows / scale)[0].mean(axis=1)
                of_intact, of_faulty = np.split(distance, [len(intact)])
                by_kind = np.split(of_faulty, len(kinds))
                columns.append([roc_auc_score(truth, np.append(of_intact, d)) for d in by_kind])
            for kind, scores in zip(kinds, zip(*columns, strict=True), strict=True):
                print(f"{kind:16}", *(f"{score:11.2f}" for score in scores))


if __name__ == "__main__":
    main(*sys.argv[1:])
