"""Draws docs/prior.png: series of each family of the synthetic prior, and of whole blocks.

python -m benchmarks.plot_prior
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from tritserve.model.pretraining.gaussian_process import gaussian_process
from tritserve.model.pretraining.graph import normalized, related
from tritserve.model.pretraining.prior import BLOCK, draw_block
from tritserve.model.pretraining.recipe import Prior
from tritserve.model.pretraining.signals import SIGNALS

ROOT = Path(__file__).parent.parent
COLUMNS = 6
SEED = 9


def main() -> None:
    argparse.ArgumentParser(description="Draws docs/prior.png.").parse_args()
    mpl.use("Agg")
    prior = Prior()
    time = np.linspace(0, 1, prior.points)
    rows = {}
    for name, family in ({"gaussian_process": gaussian_process} | SIGNALS).items():
        chance = np.random.default_rng(SEED)
        drawn = (normalized(family(chance, time)) for _ in range(2 * COLUMNS))
        rows[name.replace("_", " ")] = [series for series in drawn if series is not None][:COLUMNS]
    rows["nodes of one graph"] = related(np.random.default_rng(SEED), time, prior.graph)[:COLUMNS]
    rows["as trained on"] = list(draw_block(SEED, 0, prior)[:: BLOCK // COLUMNS])[:COLUMNS]

    figure, grid = plt.subplots(len(rows), COLUMNS, figsize=(11, 1.0 * len(rows)), dpi=110)
    for axes, (name, drawn) in zip(grid, rows.items(), strict=True):
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        for axis, series in zip(axes, drawn, strict=True):
            axis.plot(time, series, linewidth=0.9)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("0.8")
    figure.tight_layout(h_pad=0.3, w_pad=0.3)
    figure.savefig(ROOT / "docs" / "prior.png")


if __name__ == "__main__":
    main()
