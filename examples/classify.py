"""Classification with few labels: one frozen model, eight real sets, ten labels a class or fewer.

Windows of 1 to 12 channels and 7 to 1,460 timesteps are embedded by one service, as they are, and
a logistic regression is fitted on the embeddings of a few labelled ones. Beside it stands the same
classifier on summary statistics of each channel. Accuracies are on each set's own test split, the
mean of five draws of the labels.

    make serve                                # in one terminal
    .venv/bin/pip install -e '.[examples]'    # in another
    .venv/bin/python examples/classify.py [URL]
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sktime import datasets

from tritserve import Client

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.str_]
# Windows `[timesteps, channels]` and the label of each.
Split = tuple[list[Array], Labels]

LABELS = (10, 5, 2)
DRAWS = 5
VOWELS = Path(__file__).parent.parent / "data" / "JapaneseVowels.npz"
# All other classification sets of the UCR and UEA archives that sktime has inside.
ARCHIVE = {
    "BasicMotions": datasets.load_basic_motions,
    "GunPoint": datasets.load_gunpoint,
    "ItalyPowerDemand": datasets.load_italy_power_demand,
    "ArrowHead": datasets.load_arrow_head,
    "OSULeaf": datasets.load_osuleaf,
    "PLAID": datasets.load_plaid,
    "ACSF1": datasets.load_acsf1,
}


def load(name: str, split: str) -> Split:
    """Reads a split of a set."""
    if name in ARCHIVE:
        # A series in each cell, for windows of any length.
        table, labels = ARCHIVE[name](split=split, return_type="nested_univ")
        return [np.stack(row, axis=1).astype(np.float32) for row in table.to_numpy()], labels
    vowels = np.load(VOWELS)
    ends = np.cumsum(vowels[f"{split}_lengths"])[:-1]
    return np.split(vowels[f"{split}_values"], ends), vowels[f"y_{split}"].astype(str)


def statistics(windows: list[Array]) -> Array:
    """Seven numbers of each channel: `[windows, 7 * channels]`."""
    rows = [
        [w.mean(0), w.std(0), w.min(0), w.max(0), w[0], w[-1], np.abs(np.diff(w, axis=0)).mean(0)]
        for w in windows
    ]
    return np.array(rows).reshape(len(windows), -1)


def accuracy(train: Array, train_labels: Labels, test: Array, labels: Labels, few: int) -> float:
    """Of the classifier that saw `few` labels a class, or all there are; mean of the draws."""
    scores = []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(len(train))
        seen = [order[train_labels[order] == label][:few] for label in np.unique(train_labels)]
        chosen = np.concatenate(seen)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        classifier.fit(train[chosen], train_labels[chosen])
        scores.append(classifier.score(test, labels))
    return float(np.mean(scores))


def main(url: str = "http://127.0.0.1:8000") -> None:
    with Client(url) as client:
        features: dict[str, Callable[[list[Array]], Array]] = {
            "embedding": client.embed,
            "statistics": statistics,
        }
        print(f"{'timesteps x channels':48}", *(f"{kind:>21}" for kind in features), sep="")
        print(f"{'labels a class':48}", *(f"{few:7}" for _ in features for few in LABELS), sep="")
        for name in ["JapaneseVowels", *ARCHIVE]:
            (train, train_labels), (test, labels) = load(name, "train"), load(name, "test")
            lengths = sorted({len(window) for window in train})
            shape = f"{lengths[0]}..{lengths[-1]} x {train[0].shape[1]}"
            print(f"{name:16} {shape:>14}, {len(np.unique(labels)):2} classes", end=" " * 5)
            for compute in features.values():
                fitted, scored = compute(train), compute(test)
                for few in LABELS:
                    score = accuracy(fitted, train_labels, scored, labels, few)
                    print(f"  {score:.3f}", end="")
            print()


if __name__ == "__main__":
    main(*sys.argv[1:])
