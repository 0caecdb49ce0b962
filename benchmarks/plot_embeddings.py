"""Draws docs/embeddings.png: the test utterances of JapaneseVowels, embedded and projected.

python -m benchmarks.plot_embeddings
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from sklearn.manifold import TSNE

from tritserve.model.data.dataset import load
from tritserve.model.engine.engine import Engine
from tritserve.model.pretrained import EMBEDDED_MODELS

MODEL = EMBEDDED_MODELS["japanese-vowels"]
ROOT = Path(__file__).parent.parent


def main() -> None:
    argparse.ArgumentParser(description="Draws docs/embeddings.png.").parse_args()
    mpl.use("Agg")
    data = load(ROOT / "data" / "JapaneseVowels.npz", "test")
    engine = Engine.load(MODEL)
    embeddings = engine.embed(data.sequences.values, data.sequences.lengths)
    last = np.stack([sequence[-1] for sequence in data.sequences.split()])

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), dpi=140)
    for axis, points, title in [
        (axes[0], last, "raw: last timestep, 12 cepstra"),
        (axes[1], embeddings, "embedded: 64 numbers from 1.6-bit weights"),
    ]:
        flat = TSNE(random_state=0, perplexity=30).fit_transform(points)
        axis.scatter(*flat.T, c=data.labels, cmap="tab10", s=9, linewidths=0)
        axis.set(title=title, xticks=[], yticks=[])
    figure.suptitle("370 test utterances, one color per speaker (t-SNE)", fontsize=10)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / "embeddings.png")


if __name__ == "__main__":
    main()
