"""A packed model told the level and scale of its user's channels, without training.

Of a model that sees channels one by one. What is stored is the center and the spread of each of the
first channels; levels are then told in spreads from the center, and what varies by little of the
spread counts as little.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tritserve.model.engine.reference import Reference
from tritserve.model.errors import UserError
from tritserve.model.packed.content import PackedModel
from tritserve.model.packed.file import parse, serialize
from tritserve.model.sequences import FloatArray
from tritserve.model.signature import NO_SIGNATURE, Signature, listed


class CalibrationError(UserError):
    """A model that cannot be calibrated, or channels that it cannot be calibrated by."""


def channel_statistics(
    values: FloatArray, names: Sequence[str] = ()
) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation of each channel.

    Args:
        values: `[timesteps, channels]` float32, NaN where a value is missing.
        names: of the channels, where they are known.

    Returns:
        Both `[channels]` float32, the deviation above zero.

    Raises:
        CalibrationError: a channel has no value, or one value only: in what spreads it will vary
            cannot be known.
    """
    known = np.isfinite(values)
    numbers = np.where(known, values, 0.0).astype(np.float64)
    counts = known.sum(axis=0)
    center = numbers.sum(axis=0) / np.maximum(counts, 1)
    spread = np.sqrt(
        (np.where(known, numbers - center, 0.0) ** 2).sum(axis=0) / np.maximum(counts, 1)
    )
    flat = np.flatnonzero(~(spread.astype(np.float32) > 0)).tolist()
    if flat:
        which = listed([names[channel] for channel in flat]) if names else str(flat)
        raise CalibrationError(f"channels that do not vary in the data: {which}; leave them out")
    return center.astype(np.float32), spread.astype(np.float32)


def calibrate(
    model: PackedModel,
    center: FloatArray,
    spread: FloatArray,
    signature: Signature = NO_SIGNATURE,
) -> bytes:
    """The packed file of the same model, calibrated.

    Args:
        model: sees channels one by one.
        center: `[channels]` float32.
        spread: `[channels]` float32, above zero.
        signature: what the channels mean, as far as that is known.

    Raises:
        CalibrationError: the model's channels are its own.
        PackedFileError: center, spread and signature do not fit each other.
    """
    if not model.config.channels:
        raise CalibrationError(
            f"{model.name} was trained on features of its own, with their level and scale"
        )
    fresh = replace(
        model,
        tensors=model.tensors | {"calibration.center": center, "calibration.spread": spread},
    )
    golden = model.tensors["golden.values"]
    tensors = fresh.tensors | {
        "golden.embedding": Reference(fresh).embed(golden, np.array([len(golden)]))[0]
    }
    data = serialize(
        config=model.config,
        name=model.name,
        training=model.training,
        layers=model.layers,
        tensors=tensors,
        signature=signature,
    )
    parse(data)
    return data
