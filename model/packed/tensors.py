"""Named arrays as safetensors bytes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy


def save_tensors(
    arrays: Mapping[str, npt.NDArray[Any]], metadata: dict[str, str] | None = None
) -> bytes:
    """Arrays of any memory order; safetensors itself writes memory, whatever the strides say.

    Args:
        arrays: by name, of dtypes that safetensors knows.
        metadata: strings to go into the header.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata)
