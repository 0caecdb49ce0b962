"""Series that cause one another: a random graph, as CauKer draws it (arXiv 2508.02879).

A node without parents is a root; every other is a random linear mix of its parents, each brought
to zero mean and unit deviation, through a random activation. Roots here are Gaussian processes or
signals of other families.
"""

from collections.abc import Callable

import numpy as np

from tritserve.model.pretraining.gaussian_process import Series, gaussian_process
from tritserve.model.pretraining.recipe import Graph
from tritserve.model.pretraining.signals import signal


def sigmoid(x: Series) -> Series:
    """`1 / (1 + exp(-x))`, of any x without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


ACTIVATIONS: tuple[Callable[[Series], Series], ...] = (
    sigmoid,
    np.sin,
    np.tanh,
    lambda x: x,
    lambda x: x % 3,
    lambda x: x * sigmoid(x),
    lambda x: np.logaddexp(0, x),
    lambda x: np.exp(-(x**2)),
    lambda x: np.maximum(x, 0),
    lambda x: np.where(x > 0, x, 0.2 * x),
)


def normalized(series: Series) -> Series | None:
    """The series with mean 0 and deviation 1; None where it does not vary."""
    centered = series - series.mean()
    deviation = centered.std()
    # What is left of a constant is rounding.
    if not deviation > 1e-6 * np.abs(series).max():
        return None
    unit: Series = centered / deviation
    return unit


def related(chance: np.random.Generator, time: Series, graph: Graph) -> list[Series]:
    """Draws a graph.

    Args:
        chance: the only source of chance.
        time: `[points]`, evenly spaced from 0 to 1.
        graph: its size.

    Returns:
        Up to `graph.taken` of its nodes, each `[points]` with mean 0 and deviation 1.
    """
    nodes: list[Series] = []
    for node in range(graph.nodes):
        count = chance.integers(min(node, graph.parents) + 1)
        if count == 0:
            root = gaussian_process if chance.random() < graph.gaussian_roots else signal
            value = root(chance, time)
        else:
            parents = chance.choice(node, count, replace=False)
            mix = sum(chance.normal() * nodes[parent] for parent in parents) + chance.normal()
            value = ACTIVATIONS[chance.integers(len(ACTIVATIONS))](mix)
        unit = normalized(value)
        # A node that is constant, as an activation may make it, has nothing to pass on.
        nodes.append(np.zeros_like(time) if unit is None else unit)
    taken = chance.choice(graph.nodes, graph.taken, replace=False)
    return [nodes[node] for node in taken if nodes[node].any()]
