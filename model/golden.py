"""When two computations of one embedding are taken for the same."""

import numpy as np

from model.sequences import FloatArray

MIN_COSINE = 0.999


def agreement(got: FloatArray, expected: FloatArray) -> float:
    """The cosine of two embeddings `[hidden_size]`; of a zero one, whether both are zero."""
    norms = float(np.linalg.norm(got) * np.linalg.norm(expected))
    return float(got @ expected) / norms if norms else float(np.array_equal(got, expected))
