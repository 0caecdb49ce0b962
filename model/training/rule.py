"""One recipe for every data set, by a rule from its size and its lengths.

Nothing here was tuned to a single set: the constants were chosen together for several sets of the
UEA archive, on held-out parts of their training splits (`docs/quality.md`).
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tritserve.model.channels import windows
from tritserve.model.config import MAX_NAME, MAX_STRIDE, MAX_TIMESTEPS, Channels, Quantize
from tritserve.model.data.dataset import DataError, Dataset, load
from tritserve.model.data.split import hold_out
from tritserve.model.errors import DataWarning
from tritserve.model.pretrained import EMBEDDED_MODELS
from tritserve.model.sequences import Sequences, warn_if_transposed
from tritserve.model.training.objective import idle_fields
from tritserve.model.training.recipe import (
    FINE_TUNING_RATE,
    FINE_TUNING_STEPS,
    Augmentation,
    Objective,
    Recipe,
    RecipeError,
    Schedule,
)
from tritserve.model.training.start import read_start

UNIVERSAL = "universal"
# A training split of at most so many sequences begins with the universal encoder.
MOST_TO_FINE_TUNE = 0
# Longer sequences are averaged in time to about so many timesteps.
TIMESTEPS = 64
# A step costs about the same whatever the length of the sequences, or their channels.
TIMESTEPS_PER_BATCH = 1_536
WINDOWS_PER_BATCH = 256
SMALLEST_BATCH, LARGEST_BATCH = 8, 64
VALIDATION = 0.2
MIN_STEPS, MIN_EPOCHS = 800, 10
# Of 1e-3 and 3e-3 the better for float weights, of 3e-3 and 6e-3 for ternary and for binary ones.
LEARNING_RATE = 3e-3


def better_start(dataset: Path | str) -> str | None:
    """What the better recipe for a data set starts from, as `recipe_for` takes it.

    It is the universal encoder where there are few sequences or values are missing.

    Raises:
        OSError: the data set cannot be read.
        DataError: it is not of the form in `data/README.md`.
    """
    sequences = load(dataset, "train", missing=True).sequences
    few = len(sequences) <= MOST_TO_FINE_TUNE
    if UNIVERSAL in EMBEDDED_MODELS and (few or np.isnan(sequences.values).any()):
        return UNIVERSAL
    return None


def recipe_for(
    dataset: Path | str,
    *,
    start: str | None = None,
    quantize: Quantize = "ternary",
    use_labels: bool = True,
    validate: bool = False,
    seed: int = 0,
) -> Recipe:
    """The recipe that the rule gives for a data set's training split.

    Args:
        dataset: an `.npz` as `data/README.md` tells.
        start: an embedded model's name, or a packed file's path; random weights if not given.
        quantize: weights of the BitLinear layers, where they are random.
        use_labels: whether to learn from the labels, or from the sequences alone.
        validate: whether to hold a fifth of the training split out for a score, where it can be.
        seed: of training.

    Raises:
        OSError: the data set, or the model to start from, cannot be read.
        DataError: the data set is not of the form in `data/README.md`.
        PackedFileError: what to start from is not a valid packed file.
        RecipeError: labels are to be used and there are none, or all of one class, a sequence
            is longer than the model takes, or there is no such model to start from.

    Warns:
        DataWarning: time and features look transposed, or nothing can be held out.
    """
    packed = read_start(start) if start else None
    data = load(dataset, "train", missing=packed is not None)
    warn_if_transposed(data.sequences, data.name)
    lengths = data.sequences.lengths
    longest = int(lengths.max())
    most = packed.config.max_timesteps if packed else MAX_TIMESTEPS
    if longest > most:
        raise RecipeError(
            f"{dataset} has a sequence of {longest} timesteps, a model takes at most {most}; "
            "cut it, or average timesteps"
        )
    channels = packed.config.channels if packed else None
    if channels:
        stride, model = 1, {}
        fitting = WINDOWS_PER_BATCH / _windows_each(data.sequences, channels)
        min_steps, learning_rate = FINE_TUNING_STEPS, FINE_TUNING_RATE
    else:
        stride = int(np.clip(round(float(lengths.mean()) / TIMESTEPS), 1, MAX_STRIDE))
        model = _small_model(longest, stride, quantize)
        fitting = TIMESTEPS_PER_BATCH * stride / lengths.mean()
        min_steps, learning_rate = MIN_STEPS, LEARNING_RATE
    batch = int(np.clip(2 ** round(np.log2(fitting)), SMALLEST_BATCH, LARGEST_BATCH))
    part, validation = _to_train_on(data, seed) if validate else (data, 0.0)
    objective = _LABELLED if use_labels else _UNLABELLED
    by_channel = channels is not None
    idle = idle_fields(objective, part, batch_size=batch, stride=stride, channels=by_channel)
    if "classification" in idle:
        raise RecipeError(
            f"{dataset}: {idle['classification']}; --without-labels learns from the sequences alone"
        )
    objective = objective.model_copy(update=dict.fromkeys(idle, 0.0))
    epochs_steps = -(-MIN_EPOCHS * len(lengths) // batch)
    return Recipe(
        # A file's name may be longer than a recipe's, and not Unicode.
        name=data.name.encode(errors="replace").decode()[:MAX_NAME],
        dataset=Path(dataset),
        start=start,
        seed=seed,
        validation=validation,
        model=model,
        objective=objective,
        schedule=Schedule(
            steps=max(min_steps, epochs_steps), batch_size=batch, learning_rate=learning_rate
        ),
        augmentation=_AUGMENTATION if use_labels else _VIEWS,
    )


def _small_model(longest: int, stride: int, quantize: Quantize) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "num_layers": 2,
        "dropout": 0.0,
        # Room for sequences longer than those seen.
        "window_size": min(2 * longest, MAX_TIMESTEPS),
        "quantize": quantize,
        "sub_norm": True,
        "positions": "rope",
        "pooling": "weighted_mean",
        "stride": stride,
        "differences": 2,
    }


def _windows_each(sequences: Sequences, channels: Channels) -> float:
    """Of how many windows a sequence is, on the mean, where channels are seen one by one."""
    cuts = [len(windows(length, channels.window)) for length in sequences.lengths.tolist()]
    width: int = sequences.values.shape[1]
    return width * float(np.mean(cuts))


def _to_train_on(data: Dataset, seed: int) -> tuple[Dataset, float]:
    """The part that training would see with a usual validation share, and that share."""
    if data.labels is None or (data.labels == data.labels[0]).all():
        return data, 0.0
    try:
        # As training will divide it.
        return hold_out(data, VALIDATION, np.random.default_rng(seed))[0], VALIDATION
    except DataError as error:
        warnings.warn(f"{data.name} has no validation part: {error}", DataWarning, stacklevel=3)
        return data, 0.0


_LABELLED = Objective(
    classification=1.0, label_smoothing=0.1, next_timestep=0.0, reconstruction=0.3, mask=0.15
)
_UNLABELLED = Objective(
    classification=0.0, next_timestep=3.0, contrast=1.0, temperature=0.2, reconstruction=3.0
)
_AUGMENTATION = Augmentation(jitter=0.05, scale=0.1, offset=0.1, warp=0.1)
# Views must differ enough that telling them apart takes more than their values.
_VIEWS = Augmentation(jitter=0.1, scale=0.2, offset=0.2, mix=0.4, warp=0.2, crop=0.3)
