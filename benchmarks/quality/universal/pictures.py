"""The pictures of docs/universal-quality.md."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.quality.pictures import save
from benchmarks.quality.published import SETS
from benchmarks.quality.results import Result, accuracies
from benchmarks.quality.rows import Row
from benchmarks.quality.universal.encoders import UNIVERSAL
from benchmarks.quality.universal.few_labels import LABELLED, few_key
from benchmarks.quality.universal.page import FEW_ROWS, Curve, few_means

_PROBES = {"svm": "SVM", "neighbour": "nearest neighbour"}


def draw_curves(path: Path, steps: Curve, widths: Curve) -> None:
    """Writes the picture of accuracy against steps of pre-training and against width."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.4), dpi=100, sharey=True)
    for axis, curve in zip(axes, (steps, widths), strict=True):
        for probe, name in _PROBES.items():
            axis.plot(
                list(curve), [found[probe] for found in curve.values()], marker="o", label=name
            )
    # Zero steps have a place too.
    axes[0].set_xscale("symlog", linthresh=100)
    axes[0].set(xlabel="steps of pre-training", ylabel="accuracy, mean of seven sets (%)")
    axes[1].set(xlabel="width", xticks=list(widths))
    axes[0].legend(fontsize=8)
    save(figure, path)


def draw_few(path: Path, results: list[Result]) -> None:
    """Writes the picture of accuracy against labels a class, of each set and of their mean."""
    figure, axes = plt.subplots(2, 4, figsize=(10.4, 5.2), dpi=100, sharex=True)
    for axis, name in zip(axes.flat, ["mean", *SETS], strict=True):
        for row in FEW_ROWS:
            _draw_few(axis, row, [_few(results, row, count, name) for count in LABELLED])
        axis.set_title("mean of the sets" if name == "mean" else name, fontsize=9)
        axis.set_xscale("log")
        axis.set_xticks(LABELLED, [str(count) for count in LABELLED])
        axis.minorticks_off()
    if axes[0, 0].lines:
        axes[0, 0].legend(fontsize=6)
    figure.supxlabel("labelled sequences a class", fontsize=9)
    figure.supylabel("test accuracy (%)", fontsize=9)
    save(figure, path)


def _few(results: list[Result], row: Row, labelled: int, name: str) -> list[float]:
    if name == "mean":
        return few_means(results, row, labelled)
    return accuracies(results, few_key(row.key, labelled), "linear").get(name, [])


def _draw_few(axis: Axes, row: Row, found: list[list[float]]) -> None:
    """One row's line; its band is the deviation over draws."""
    there = [(count, 100 * np.array(f)) for count, f in zip(LABELLED, found, strict=True) if f]
    if not there:
        return
    counts = [count for count, _ in there]
    means = np.array([values.mean() for _, values in there])
    deviations = np.array([values.std(ddof=1) for _, values in there])
    (line,) = axis.plot(
        counts,
        means,
        marker="o",
        markersize=3,
        linewidth=2 if row.key == UNIVERSAL.key else 1,
        label=row.title.replace("**", ""),
    )
    axis.fill_between(
        counts, means - deviations, means + deviations, color=line.get_color(), alpha=0.12
    )
