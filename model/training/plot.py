"""Pictures of training."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tritserve.model.training.log import read_log
from tritserve.model.training.run_folder import PLOT

_FIGURES = {
    "zeros": "share of zeros",
    "flips": "weights changed per step",
    "weight_scale": "weight scale",
    "activation_scale": "activation scale (mean)",
}


def plot_training(folder: Path | str) -> Path:
    """Draws a run's log as `training.png` in its folder.

    Losses and rate at every step; the validation accuracy, where there is one; of each BitLinear
    the share of zeros, the flips and the scales.

    Returns:
        Where the picture is.
    """
    picture = Path(folder) / PLOT
    lines = read_log(folder)
    steps = [line["step"] for line in lines]
    figure, grid = plt.subplots(2, 3, figsize=(13, 6.5), dpi=110)
    axes = list(grid.flat)
    axes[0].plot(steps, [line["loss"] for line in lines], linewidth=0.8)
    axes[0].set(title="loss", xlabel="step")
    _add_losses(axes[0], lines)
    _add_validation(axes[0], lines)
    axes[1].plot(steps, [line["learning_rate"] for line in lines])
    axes[1].set(title="learning rate", xlabel="step")
    measured = [line for line in lines if "layers" in line]
    names = list(measured[-1]["layers"]) if measured else []
    for axis, (key, title) in zip(axes[2:], _FIGURES.items(), strict=True):
        for name in names:
            points = [
                (m["step"], m["layers"][name][key]) for m in measured if key in m["layers"][name]
            ]
            if points:
                axis.plot(*zip(*points, strict=True), linewidth=0.9, label=name)
        axis.set(title=title, xlabel="step")
    if names:
        axes[2].legend(fontsize=5)
    figure.tight_layout()
    figure.savefig(picture)
    plt.close(figure)
    return picture


def _add_losses(axis: Axes, lines: list[dict[str, Any]]) -> None:
    """What the loss is the sum of, where that is told."""
    names = lines[-1].get("losses", {}) if lines else {}
    for name in names:
        points = [(line["step"], line["losses"][name]) for line in lines if "losses" in line]
        axis.plot(*zip(*points, strict=True), linewidth=0.8, label=name)
    if names:
        axis.legend(fontsize=8)


def _add_validation(axis: Axes, lines: list[dict[str, Any]]) -> None:
    """The accuracy on the validation part, on a scale of its own at the right of the loss."""
    points = [(line["step"], line["validation"]) for line in lines if "validation" in line]
    if not points:
        return
    axis.set(title="loss, and validation accuracy", ylabel="loss")
    right = axis.twinx()
    right.plot(*zip(*points, strict=True), color="tab:orange", marker="o", markersize=3)
    right.set(ylim=(0, 1.02))
    right.set_ylabel("of the nearest neighbour", color="tab:orange", fontsize=8)
    right.tick_params(axis="y", colors="tab:orange")
