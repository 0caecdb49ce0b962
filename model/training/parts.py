"""The parts of a data set that a run trains on and is scored on, checked before the first step."""

import numpy as np

from tritserve.model.config import ModelConfig
from tritserve.model.data.dataset import DataError, Dataset, Labels, load
from tritserve.model.data.split import check_classes, check_labels, hold_out
from tritserve.model.errors import UserError
from tritserve.model.sequences import check_longest, check_width
from tritserve.model.training.recipe import Recipe, RecipeError


def divide(
    recipe: Recipe, config: ModelConfig, whole: Dataset, rng: np.random.Generator
) -> tuple[Dataset, dict[str, Dataset]]:
    """What to train on, and by name what to score, all of it known to have a score.

    Args:
        recipe: says whether there is to be a validation part, and whether the test split counts.
        config: of the model to be trained.
        whole: the training split.
        rng: decides which sequences are held out.

    Raises:
        OSError: the data set cannot be read.
        DataError: the training labels are all of one class, nothing could be held out, or the test
            split is missing, has no labels or one that training has not, or does not fit the model.
        RecipeError: a score is asked for and there are no labels.
    """
    asked = [field for field in ("validation", "score_test") if getattr(recipe, field)]
    if not asked:
        return whole, {}
    if whole.labels is None:
        raise RecipeError(
            f"{asked[0]} asks for a score, which needs labels, and the data set has none; "
            "leave it out"
        )
    check_classes(whole.labels)
    data, held_out = hold_out(whole, recipe.validation, rng)
    scored = {} if held_out is None else {"validation": held_out}
    if recipe.score_test:
        scored["test"] = _test_split(recipe, config, whole, whole.labels)
    return data, scored


def _test_split(
    recipe: Recipe, config: ModelConfig, train: Dataset, train_labels: Labels
) -> Dataset:
    try:
        test = load(recipe.dataset, "test", missing=config.channels is not None)
        width = train.sequences.values.shape[1]
        check_width(test.sequences.values, width, test.sequences.lengths)
        check_longest(test.sequences.lengths, config.max_timesteps)
        if test.labels is None:
            raise DataError("it has no y_test")
        check_labels(train_labels, test.labels)
    except UserError as error:
        raise DataError(f"score_test asks for the test split: {error}") from error
    return test
