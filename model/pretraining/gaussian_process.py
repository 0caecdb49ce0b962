"""Series drawn from Gaussian processes whose kernels are put together at random.

One to five kernels are joined by sums and products, as KernelSynth of Chronos does (Ansari et al.
2024, arXiv 2403.07815); kernels, and means beside them, are of the kinds that CauKer names (Xie et
al. 2025, arXiv 2508.02879). Sums and products of positive semi-definite kernels are so again.
"""

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]

MOST_KERNELS = 5
MOST_SPIKES = 5
# Of the mean variance: what keeps a covariance positive definite in float64, and nobody sees.
JITTER = 1e-6


def log_uniform(chance: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return float(np.exp(chance.uniform(np.log(low), np.log(high))))


def gaussian_process(chance: np.random.Generator, time: Series) -> Series:
    """One draw.

    Args:
        chance: the only source of chance.
        time: `[points]`, evenly spaced from 0 to 1.

    Returns:
        `[points]` float64.
    """
    covariance = _kernel(chance, time)
    for _ in range(chance.integers(MOST_KERNELS)):
        other = _kernel(chance, time)
        covariance = covariance + other if chance.random() < 0.5 else covariance * other
    covariance[np.diag_indices_from(covariance)] += JITTER * covariance.diagonal().mean()
    drawn = np.linalg.cholesky(covariance) @ chance.standard_normal(len(time))
    first, second = _mean(chance, time), _mean(chance, time)
    mean = first + second if chance.random() < 0.5 else first * second
    series: Series = drawn + mean
    return series


def _kernel(chance: np.random.Generator, time: Series) -> Series:
    """Covariances `[points, points]` of a kernel of a random kind and scale."""
    kind = chance.choice(
        ["periodic", "squared_exponential", "rational_quadratic", "matern", "linear", "white"],
        # Kinds of which there are many look more alike than periods do.
        p=[0.45, 0.11, 0.11, 0.11, 0.11, 0.11],
    )
    if kind == "linear":
        origin, offset = chance.uniform(0, 1), chance.integers(2)
        return offset + np.multiply.outer(time - origin, time - origin)
    # The others depend on nothing but the distance in time: one row is all there is to compute.
    row = _by_distance(chance, kind, time)
    order = np.arange(len(time))
    covariance: Series = row[np.abs(order[:, None] - order)]
    return covariance


def _by_distance(chance: np.random.Generator, kind: str, distance: Series) -> Series:
    if kind == "periodic":
        period, length = log_uniform(chance, 0.03, 2), log_uniform(chance, 0.3, 2)
        return np.exp(-2 * (np.sin(np.pi * distance / period) / length) ** 2)
    if kind == "squared_exponential":
        return np.exp(-0.5 * (distance / log_uniform(chance, 0.02, 1)) ** 2)
    if kind == "rational_quadratic":
        mixture, length = chance.choice([0.1, 1, 10]), log_uniform(chance, 0.03, 1)
        decays: Series = (1 + (distance / length) ** 2 / (2 * mixture)) ** -mixture
        return decays
    if kind == "matern":
        scaled = distance / log_uniform(chance, 0.005, 0.3)
        if chance.random() < 0.5:
            return np.exp(-scaled)
        scaled = np.sqrt(3) * scaled
        smooth: Series = (1 + scaled) * np.exp(-scaled)
        return smooth
    white: Series = chance.choice([0.01, 0.1, 1]) * (distance == 0)
    return white


def _mean(chance: np.random.Generator, time: Series) -> Series:
    """Nothing, a line, an exponential or a few spikes."""
    kind = chance.integers(4)
    if kind == 1:
        return chance.uniform(-2, 2) * time + chance.uniform(-1, 1)
    if kind == 2:
        return chance.uniform(0.5, 1.5) * np.exp(chance.uniform(-1.5, 1.5) * time)
    mean = np.zeros_like(time)
    if kind == 3:
        where = chance.integers(len(time), size=chance.integers(1, MOST_SPIKES + 1))
        mean[where] = chance.uniform(-5, 5)
    return mean
