"""What a model standardises its inputs by, or is calibrated by: of the sequences to train on."""

from dataclasses import dataclass

import numpy as np
import torch

from tritserve.model.data.dataset import DataError, Dataset
from tritserve.model.engine.calibration import channel_statistics
from tritserve.model.engine.value_check import ValueCheck
from tritserve.model.inputs import model_inputs
from tritserve.model.network.bitnet import BitNet
from tritserve.model.sequences import FloatArray, SequenceError, Sequences

# Far enough below the largest float32 for augmentation and differences.
LARGEST_INPUT = 1e37


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of a model's inputs, the features first and then their differences over time.

    Attributes:
        mean: `[input_size]` float32.
        std: `[input_size]` float32, the deviation; 0 where an input is constant.
        divisor: `[input_size]` float32, the deviation; of a constant, a number above 0 that keeps
            it near zero.
    """

    mean: FloatArray
    std: FloatArray
    divisor: FloatArray


def fit(
    encoder: BitNet, sequences: Sequences, scored: dict[str, Dataset]
) -> tuple[FloatArray, FloatArray]:
    """Tells an encoder the level and scale of what it will be trained on.

    Args:
        encoder: standardises its inputs by them, or is calibrated where it sees channels one by
            one.
        sequences: to train on.
        scored: other parts, by name.

    Returns:
        Mean and deviation of each feature, `[features]` float32, 0 where it is constant.

    Raises:
        CalibrationError: a channel does not vary.
        DataError: values are so large that training would overflow, or another part has some that
            the packed model would refuse.
    """
    config = encoder.config
    if config.channels:
        encoder.calibration = channel_statistics(sequences.values)
        return encoder.calibration
    found = input_statistics(sequences, config.stride, config.differences)
    encoder.standardize.mean.copy_(torch.from_numpy(found.mean))
    encoder.standardize.std.copy_(torch.from_numpy(found.divisor))
    check = ValueCheck(
        found.mean, found.divisor, stride=config.stride, differences=config.differences
    )
    for part, other in scored.items():
        try:
            check(other.sequences.values, other.sequences.lengths)
        except SequenceError as error:
            raise DataError(f"the {part} part cannot be scored: {error}") from error
    return found.mean[: config.features], found.std[: config.features]


def input_statistics(sequences: Sequences, stride: int, differences: int) -> Statistics:
    """The statistics of what a model reads of sequences.

    Args:
        sequences: values `[timesteps, embed_dim]` float32.
        stride: timesteps that are averaged into one.
        differences: how many orders of differences over time there are.

    Raises:
        DataError: values are so large that training would overflow.
    """
    values = sequences.values
    inputs, _ = model_inputs(values, sequences.lengths, stride, differences)
    if not np.maximum(inputs.max(), -inputs.min()) <= LARGEST_INPUT:
        raise DataError(
            f"values reach {np.abs(values).max():.0e}; those, or their differences over time, over "
            f"{LARGEST_INPUT:.0e} would overflow float32 in training"
        )
    mean = inputs.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = inputs.std(axis=0, dtype=np.float64).astype(np.float32)
    # A feature is constant where it changes by rounding alone, whatever its unit. Averages round
    # too, which makes differences of what does not change within a sequence.
    resolution = 1e-7 * np.sqrt(np.square(values, dtype=np.float64).mean(axis=0))
    constant = values.std(axis=0, dtype=np.float64) <= resolution
    rounding = np.concatenate([resolution, *[10 * resolution] * differences])
    std[np.tile(constant, 1 + differences) | (std <= rounding)] = 0.0
    # A constant says nothing: divided by more than it is rounded by, it stays near zero.
    nothing = np.maximum(1.0, 10 * np.tile(resolution, 1 + differences)).astype(np.float32)
    return Statistics(mean, std, np.where(std, std, nothing))
