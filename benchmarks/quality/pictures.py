"""The pictures of the results page."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from benchmarks.quality.published import SETS, SHORT, TS2VEC
from benchmarks.quality.results import Result, accuracies
from tritserve.model.data.dataset import load
from tritserve.model.engine.engine import Engine
from tritserve.model.packed.content import unpack
from tritserve.model.packed.file import read

_PROJECTED = ["NATOPS", "Libras", "UWaveGestureLibrary"]
_BY_BITS = [("binary", 1.0), ("ternary", 1.6), ("float", 32.0)]


def draw(out: Path, results: list[Result], data: Path | None, models: Path) -> None:
    """Writes `bits.png`, and from the packed files `trits.png` and `embeddings.png`.

    Args:
        out: the folder to write to.
        results: of every row.
        data: folder of the sets; without it the embeddings are not drawn.
        models: folder of the packed files; pictures of those that are missing are left out.
    """
    out.mkdir(parents=True, exist_ok=True)
    _draw_bits(out / "bits.png", results)
    packed = {name: models / f"{name}-ternary-0.safetensors" for name in SETS}
    there = [name for name in SETS if packed[name].exists()]
    if there:
        _draw_trits(out / "trits.png", {name: packed[name] for name in there})
    projected = [name for name in _PROJECTED if name in there]
    if data and projected:
        _draw_embeddings(out / "embeddings.png", data, {n: packed[n] for n in projected})


def save(figure: Figure, path: Path) -> None:
    """Writes a figure and lets go of it."""
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _draw_bits(path: Path, results: list[Result]) -> None:
    figure, axis = plt.subplots(figsize=(7.6, 4), dpi=100)
    for name in SETS:
        points = [
            (bits, 100 * np.mean(found[name]))
            for key, bits in _BY_BITS
            if name in (found := accuracies(results, key))
        ]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", linewidth=1, label=name)
    published = 100 * float(np.mean(list(TS2VEC.values())))
    axis.axhline(published, color="grey", linewidth=0.8, linestyle=":")
    axis.annotate("TS2Vec, mean of the sets", (2.2, published), fontsize=7, va="bottom")
    axis.set(
        xscale="log", xticks=[1, 1.6, 32], xlabel="bits a weight", ylabel="test accuracy, SVM (%)"
    )
    axis.set_xticks([1, 1.6, 32], ["1", "1.6", "32"])
    axis.minorticks_off()
    if axis.lines[:-1]:
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    save(figure, path)


def _draw_trits(path: Path, packed: dict[str, Path]) -> None:
    figure, axes = plt.subplots(1, len(packed), figsize=(2.2 * len(packed), 3), dpi=90, sharey=True)
    for axis, (name, file) in zip(np.atleast_1d(axes), packed.items(), strict=True):
        model = read(file)
        layers = list(model.layers)
        trits = [unpack(model.layers[layer], "ternary") for layer in layers]
        left = np.zeros(len(layers))
        for value, color in [(-1, "tab:blue"), (0, "lightgrey"), (1, "tab:orange")]:
            share = np.array([(t == value).mean() for t in trits])
            axis.barh(range(len(layers)), share, left=left, color=color, label=f"{value:+d}")
            left += share
        axis.set_title(SHORT.get(name, name), fontsize=8)
        axis.set_yticks(range(len(layers)), [s.removeprefix("blocks.") for s in layers], fontsize=6)
        axis.tick_params(axis="x", labelsize=6)
        axis.invert_yaxis()
    save(figure, path)


def _draw_embeddings(path: Path, data: Path, packed: dict[str, Path]) -> None:
    figure, axes = plt.subplots(1, len(packed), figsize=(3.4 * len(packed), 3.6), dpi=90)
    for axis, (name, file) in zip(np.atleast_1d(axes), packed.items(), strict=True):
        test = load(data / f"{name}.npz", "test")
        embeddings = Engine.load(file).embed(test.sequences.values, test.sequences.lengths)
        points = TSNE(random_state=0, perplexity=30).fit_transform(embeddings)
        axis.scatter(*points.T, c=test.labels, cmap="tab20", s=8, linewidths=0)
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{name}, test split", fontsize=9)
    save(figure, path)
