"""Named arrays as safetensors bytes."""

import json
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


def read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header of bytes that safetensors has read, and where it ends."""
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), start


def read_metadata(data: bytes) -> dict[str, str]:
    """The metadata of bytes that safetensors has read."""
    return read_header(data)[0].get("__metadata__") or {}
