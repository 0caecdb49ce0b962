"""The golden vector: a sequence and its embedding, by which computations are compared."""

import numpy as np

from tritserve.model.config import ModelConfig
from tritserve.model.sequences import FloatArray

MIN_AGREEMENT = 0.999
# Of a model that takes any number of channels.
GOLDEN_CHANNELS = 3
# Enough for attention and for both orders of differences.
_ROWS = 16
_TIMESTEPS = 64
# Enough to go beyond an attention window that is no longer.
_WINDOW_ROWS = 128


def golden_sequence(config: ModelConfig, mean: FloatArray, std: FloatArray) -> FloatArray:
    """A sequence drawn from the statistics of the training data; it holds none of the data.

    Args:
        config: of the model.
        mean: `[embed_dim]`, of each feature.
        std: `[embed_dim]`, of each feature.

    Returns:
        `[timesteps, embed_dim]` float32: 16 rows of the model, fewer at a large stride, two at
        least, and one more than an attention window has, 128 at most, where the model takes so
        many.
    """
    rows = min(_ROWS, max(2, _TIMESTEPS // config.stride))
    if config.attention_window:
        rows = max(rows, min(config.attention_window + 1, _WINDOW_ROWS))
    timesteps = min(rows * config.stride, config.max_timesteps)
    noise = np.random.default_rng(0).standard_normal((timesteps, len(mean)), dtype=np.float32)
    return mean + std * noise


def disagreement(computed: FloatArray, expected: FloatArray) -> str:
    """How an embedding differs from the one it should be; empty if they agree.

    Measured by their cosine times the ratio of their norms, 1 for two that are equal.

    Args:
        computed: `[hidden_size]` float32.
        expected: `[hidden_size]` float32.
    """
    got, wanted = computed.astype(np.float64), expected.astype(np.float64)
    largest = max(float(got @ got), float(wanted @ wanted))
    agreement = float(got @ wanted) / largest if largest else 1.0
    if agreement >= MIN_AGREEMENT:
        return ""
    return f"they agree to {agreement:.6f}, at least {MIN_AGREEMENT} is needed"
