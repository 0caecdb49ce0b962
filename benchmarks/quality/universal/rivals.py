"""Features without a trained encoder: what the universal one must beat.

All see what it sees: each channel calibrated by the training split without its labels, as
`tritserve calibrate` does it. Blocks of features are standardised by the training split and brought
to one total variance, so that the SVM sees one as well as the other.
"""

from collections.abc import Callable

import numpy as np

from benchmarks.quality.rows import Case, Features, Row
from tritserve.model import channels
from tritserve.model.config import Channels
from tritserve.model.data.dataset import Dataset
from tritserve.model.engine.calibration import channel_statistics
from tritserve.model.sequences import FloatArray

# Points of a channel, beside statistics; features of MiniRocket, six for each of its 84 kernels.
POINTS = 32
ROCKET_FEATURES = 504

Block = Callable[[Case], Features]


def levels(case: Case) -> Features:
    """The statistics that the universal encoder is told, `channels.levels`, of every channel."""
    calibration = channel_statistics(case.train.sequences.values)

    def of(part: Dataset) -> FloatArray:
        sequences = part.sequences
        seen = channels.read(sequences.values, sequences.lengths, Channels(), calibration)
        return seen.levels.reshape(len(sequences), -1)

    return of(case.train), of(case.test)


def points(case: Case) -> Features:
    """Every channel's normalised course at 32 points in time."""
    train, test = drawn(case, POINTS)
    return train.reshape(len(train), -1), test.reshape(len(test), -1)


def minirocket(case: Case) -> Features:
    """MiniRocket's features of every channel by itself, normalised as the universal encoder does.

    The transform (Dempster et al. 2021, arXiv 2012.08791) is aeon's, fitted to each channel of the
    training split; its biases are drawn by the seed. It sees as many points as the longest
    training sequence has timesteps, and no fewer than the encoder.
    """
    from aeon.transformations.collection.convolution_based import MiniRocket  # noqa: PLC0415

    longest = int(case.train.sequences.lengths.max())
    parts = drawn(case, max(longest, Channels().points))
    found: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for channel in range(parts[0].shape[1]):
        transform = MiniRocket(n_kernels=ROCKET_FEATURES, random_state=case.seed)
        transform.fit(parts[0][:, [channel]])
        for features, part in zip(found, parts, strict=True):
            features.append(transform.transform(part[:, [channel]]))
    train, test = (np.concatenate(features, axis=1, dtype=np.float32) for features in found)
    return train, test


def drawn(case: Case, count: int) -> Features:
    """Calibrated channels at `count` points in time, normalised: `[n, channels, count]` each."""
    center, spread = channel_statistics(case.train.sequences.values)
    floor = np.full(len(center), channels.FLOOR)

    def of(part: Dataset) -> FloatArray:
        courses = []
        for sequence in part.sequences.split():
            filled, _ = channels.fill(sequence)
            calibrated = (filled - center) / spread
            courses.append(channels.normalize(channels.draw(calibrated, count), floor).T)
        return np.stack(courses)

    return of(case.train), of(case.test)


def balanced(*blocks: Block) -> Block:
    """Features of all blocks, each of total variance 1 in the training split."""

    def join(case: Case) -> Features:
        parts = [balance(*block(case)) for block in blocks]
        train, test = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return train, test

    return join


def balance(train: FloatArray, test: FloatArray) -> Features:
    """Standardises `[n, width]` and `[m, width]` by the first, then divides by the width's root."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1) * np.sqrt(train.shape[1], dtype=np.float32)
    return (train - mean) / scale, (test - mean) / scale


RIVALS = [
    Row("levels", "statistics", balanced(levels), chance=False),
    Row("points", "32 points and statistics", balanced(points, levels), chance=False),
    Row("rocket", "MiniRocket's features and statistics", balanced(minirocket, levels)),
]
