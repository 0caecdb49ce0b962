"""What synthetic series there are, and how they are drawn: block by block, each from its number.

Most are nodes of random graphs (`graph`), whose roots are Gaussian processes (`gaussian_process`)
and signals of other families (`signals`); the rest are such signals by themselves.
"""

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from tritserve.model.pretraining.gaussian_process import Series
from tritserve.model.pretraining.graph import normalized, related
from tritserve.model.pretraining.recipe import Prior
from tritserve.model.pretraining.signals import signal

# Series that are drawn from one seed.
BLOCK = 256


def draw_block(seed: int, index: int, prior: Prior) -> npt.NDArray[np.float32]:
    """Draws the block of series with a number.

    Args:
        seed: of all blocks.
        index: of this one, from 0; what it holds depends on nothing but it, seed and prior.
        prior: how series are drawn.

    Returns:
        `[BLOCK, points]` float32, each series with mean 0 and deviation 1.
    """
    chance = np.random.default_rng([seed, index])
    time = np.linspace(0, 1, prior.points)
    series: list[Series] = []
    # BLAS's threads sum in an order of their own.
    with threadpool_limits(1):
        while len(series) < BLOCK:
            if chance.random() < prior.graphs:
                series += related(chance, time, prior.graph)
            elif (alone := normalized(signal(chance, time))) is not None:
                series.append(alone)
    return np.stack(series[:BLOCK]).astype(np.float32)
