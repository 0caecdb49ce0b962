"""Which fields of a recipe's objective can teach something from a data set."""

from tritserve.model.config import ModelConfig
from tritserve.model.data.dataset import Dataset
from tritserve.model.training.recipe import Objective, Recipe, RecipeError

# They ask for timesteps of all features, which a model that sees channels one by one has not.
_OF_TIMESTEPS = ("next_timestep", "reconstruction", "mask")


def idle_fields(
    objective: Objective, data: Dataset, *, batch_size: int, stride: int, channels: bool
) -> dict[str, str]:
    """The fields asked for that could teach nothing, each with the reason.

    Args:
        objective: what is asked for.
        data: what is to be trained on.
        batch_size: sequences in a batch.
        stride: timesteps that the model averages into one.
        channels: whether the model sees channels one by one.
    """
    sequences, labels = data.sequences, data.labels
    longest = int(sequences.lengths.max())
    reasons = {}
    if objective.classification and labels is None:
        reasons["classification"] = "the data set has no labels"
    elif objective.classification and labels is not None and (labels == labels[0]).all():
        reasons["classification"] = (
            f"every training label is {labels[0]}; classification needs two classes or more"
        )
    if objective.contrast and min(batch_size, len(sequences)) < 2:
        reasons["contrast"] = (
            f"a contrast needs two sequences in a batch; batch_size is {batch_size}, the training "
            f"part has {len(sequences)}"
        )
    if channels:
        asked = [field for field in _OF_TIMESTEPS if getattr(objective, field)]
        reason = (
            "{} is of models that read all features together; this one sees channels one by one"
        )
        return reasons | {field: reason.format(field) for field in asked}
    if longest <= stride:
        one = f"the longest sequence has {longest} timesteps, one at a stride of {stride}"
        if objective.next_timestep:
            reasons["next_timestep"] = f"{one}: there is no next timestep to predict"
        if objective.mask:
            reasons["mask"] = f"{one}: hiding it would hide the sequence"
    return reasons


def check_objective(recipe: Recipe, config: ModelConfig, data: Dataset) -> None:
    """Raises RecipeError if a field that the recipe sets could teach the model nothing."""
    reasons = idle_fields(
        recipe.objective,
        data,
        batch_size=recipe.schedule.batch_size,
        stride=config.stride,
        channels=config.channels is not None,
    )
    if reasons:
        field, reason = next(iter(reasons.items()))
        raise RecipeError(f"{reason}; set {field} = 0 in [objective]")
