"""One recipe for every data set, by a rule from its size and its lengths.

Nothing here was tuned to a single set: the constants were chosen together for several sets of the
UEA archive, on held-out parts of their training splits (`docs/quality.md`).
"""

import warnings
from pathlib import Path

import numpy as np

from tritserve.model.config import MAX_NAME, MAX_STRIDE, MAX_TIMESTEPS, Quantize
from tritserve.model.data.dataset import DataError, Dataset, load
from tritserve.model.data.split import hold_out
from tritserve.model.errors import DataWarning
from tritserve.model.sequences import warn_if_transposed
from tritserve.model.training.objective import idle_fields
from tritserve.model.training.recipe import Augmentation, Objective, Recipe, RecipeError, Schedule

# Longer sequences are averaged in time to about so many timesteps.
TIMESTEPS = 64
# A step costs about the same whatever the length of the sequences.
TIMESTEPS_PER_BATCH = 1_536
SMALLEST_BATCH, LARGEST_BATCH = 8, 64
VALIDATION = 0.2
MIN_STEPS, MIN_EPOCHS = 800, 10
# Of 1e-3 and 3e-3 the better for float weights, of 3e-3 and 6e-3 for ternary and for binary ones.
LEARNING_RATE = 3e-3


def recipe_for(
    dataset: Path | str,
    *,
    quantize: Quantize = "ternary",
    use_labels: bool = True,
    validate: bool = False,
    seed: int = 0,
) -> Recipe:
    """The recipe that the rule gives for a data set's training split.

    Args:
        dataset: an `.npz` as `data/README.md` tells.
        quantize: weights of the BitLinear layers.
        use_labels: whether to learn from the labels, or from the sequences alone.
        validate: whether to hold a fifth of the training split out for a score, where it can be.
        seed: of training.

    Raises:
        OSError: the data set cannot be read.
        DataError: it is not of the form in `data/README.md`.
        RecipeError: labels are to be used and there are none, or all of one class, or a sequence
            is longer than any model takes.

    Warns:
        DataWarning: time and features look transposed, or nothing can be held out.
    """
    data = load(dataset, "train")
    warn_if_transposed(data.sequences, data.name)
    lengths = data.sequences.lengths
    longest = int(lengths.max())
    if longest > MAX_TIMESTEPS:
        raise RecipeError(
            f"{dataset} has a sequence of {longest} timesteps, a model takes at most "
            f"{MAX_TIMESTEPS}; cut it, or average timesteps"
        )
    stride = int(np.clip(round(float(lengths.mean()) / TIMESTEPS), 1, MAX_STRIDE))
    nearest = 2 ** round(np.log2(TIMESTEPS_PER_BATCH * stride / lengths.mean()))
    batch = int(np.clip(nearest, SMALLEST_BATCH, LARGEST_BATCH))
    epochs_steps = -(-MIN_EPOCHS * len(lengths) // batch)
    objective = _LABELLED if use_labels else _UNLABELLED
    part, validation = _to_train_on(data, seed) if validate else (data, 0.0)
    idle = idle_fields(objective, part, batch_size=batch, stride=stride)
    if "classification" in idle:
        raise RecipeError(
            f"{dataset}: {idle['classification']}; --without-labels learns from the sequences alone"
        )
    objective = objective.model_copy(update=dict.fromkeys(idle, 0.0))
    return Recipe(
        # A file's name may be longer than a recipe's, and not Unicode.
        name=data.name.encode(errors="replace").decode()[:MAX_NAME],
        dataset=Path(dataset),
        seed=seed,
        validation=validation,
        model={
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
        },
        objective=objective,
        schedule=Schedule(
            steps=max(MIN_STEPS, epochs_steps),
            batch_size=batch,
            learning_rate=LEARNING_RATE,
        ),
        augmentation=_AUGMENTATION if use_labels else _VIEWS,
    )


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
