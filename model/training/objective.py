"""Which fields of a recipe's objective can teach something from a data set."""

from tritserve.model.data.dataset import Dataset
from tritserve.model.training.recipe import Objective, Recipe, RecipeError


def idle_fields(
    objective: Objective, data: Dataset, *, batch_size: int, stride: int
) -> dict[str, str]:
    """The fields asked for that could teach nothing from `data`, each with the reason."""
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
    if longest <= stride:
        one = f"the longest sequence has {longest} timesteps, one at a stride of {stride}"
        if objective.next_timestep:
            reasons["next_timestep"] = f"{one}: there is no next timestep to predict"
        if objective.mask:
            reasons["mask"] = f"{one}: hiding it would hide the sequence"
    return reasons


def check_objective(recipe: Recipe, stride: int, data: Dataset) -> None:
    """Raises RecipeError if a field that the recipe sets could teach nothing from `data`."""
    batch_size = recipe.schedule.batch_size
    reasons = idle_fields(recipe.objective, data, batch_size=batch_size, stride=stride)
    if reasons:
        field, reason = next(iter(reasons.items()))
        raise RecipeError(f"{reason}; set {field} = 0 in [objective]")
