"""What training begins with: random weights, or those of a packed model."""

from pathlib import Path

from pydantic import ValidationError

from tritserve.model.config import ModelConfig
from tritserve.model.data.dataset import Dataset
from tritserve.model.errors import explain
from tritserve.model.packed.content import PackedModel
from tritserve.model.packed.file import read
from tritserve.model.pretrained import EMBEDDED_MODELS
from tritserve.model.training.recipe import Recipe, RecipeError


def read_start(start: str) -> PackedModel:
    """The packed model that `Recipe.start` names.

    Raises:
        OSError: the file cannot be read.
        PackedFileError: it is not a valid packed file.
        RecipeError: there is no such model, or it does not see channels one by one.
    """
    path = EMBEDDED_MODELS.get(start, Path(start))
    if not path.exists():
        raise RecipeError(
            f"start is {start!r}, which is neither a packed file nor one of the embedded models: "
            f"{', '.join(EMBEDDED_MODELS)}"
        )
    packed = read(path)
    if not packed.config.channels:
        raise RecipeError(
            f"start is {start!r}, a model of features of its own; training starts from one that "
            "sees channels one by one"
        )
    return packed


def sees_channels(recipe: Recipe) -> bool:
    """Whether the model sees channels one by one, and so takes values that are missing."""
    return recipe.start is not None or recipe.model.get("channels") is not None


def model_config(recipe: Recipe, start: PackedModel | None, data: Dataset) -> ModelConfig:
    """The configuration to train.

    Raises:
        RecipeError: the recipe's [model] is wrong, or does not fit the data set.
    """
    config = start.config if start else _own_config(recipe, data.sequences.values.shape[1])
    longest = int(data.sequences.lengths.max())
    if longest > config.max_timesteps:
        remedy = "cut it" if start else "set window_size in [model]"
        raise RecipeError(
            f"the data set has a sequence of {longest} timesteps, the model takes at most "
            f"{config.max_timesteps}; {remedy}"
        )
    return config


def _own_config(recipe: Recipe, width: int) -> ModelConfig:
    fields = recipe.model
    if not sees_channels(recipe):
        fields = {"embed_dim": width} | fields
        if fields["embed_dim"] != width:
            raise RecipeError(
                f"the recipe's embed_dim is {fields['embed_dim']}, the data set has {width} "
                "features"
            )
    try:
        return ModelConfig(**fields)
    except ValidationError as error:
        raise RecipeError(f"[model] of the recipe: {explain(error)}") from error
