"""The training recipe: everything that decides what `tritserve train` makes, as one small file.

It is TOML; unknown fields are errors. `model/pretrained/japanese-vowels.toml` is an example.
With `start`, training begins from a packed model, and what is not given has other defaults,
`FINE_TUNING`.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tritserve.model.config import MAX_NAME
from tritserve.model.environment import MAX_THREADS
from tritserve.model.errors import UserError, explain
from tritserve.model.pretrained import EMBEDDED_MODELS

# More of either cost accuracy on parts held out of JapaneseVowels and Libras.
FINE_TUNING_STEPS, FINE_TUNING_RATE = 100, 3e-4
FINE_TUNING: dict[str, dict[str, Any]] = {
    "objective": {"next_timestep": 0.0},
    "schedule": {"steps": FINE_TUNING_STEPS, "learning_rate": FINE_TUNING_RATE},
}


class RecipeError(UserError):
    """A recipe that cannot be read or does not make sense."""


class Table(BaseModel):
    """A table of a recipe: nothing unknown in it, nothing taken for what it is not."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


SomeTable = TypeVar("SomeTable", bound=Table)


class Objective(Table):
    """Weights of the losses, and what they hide; a loss of weight 0 is not computed."""

    classification: float = Field(default=1.0, ge=0.0)
    """Cross-entropy of a linear classifier on the embedding; needs labels."""
    label_smoothing: float = Field(default=0.1, ge=0.0, lt=1.0)
    next_timestep: float = Field(default=0.3, ge=0.0)
    """Mean squared error of the next standardised timestep, predicted linearly at each one."""
    contrast: float = Field(default=0.0, ge=0.0)
    """NT-Xent between two augmented views of each sequence; needs no labels."""
    temperature: float = Field(default=0.2, gt=0.0)
    """Of the contrast."""
    reconstruction: float = Field(default=0.0, ge=0.0)
    """Mean squared error of the standardised sequence at 16 evenly spaced points in time,
    predicted linearly from the embedding; needs no labels."""
    mask: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the timesteps hidden from the encoder, others in every step: their features, and
    the differences over time that tell of them, are set to their means. What the losses ask for
    stays whole."""

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        weights = self.classification, self.next_timestep, self.contrast, self.reconstruction
        if not any(weights):
            raise ValueError("every loss has weight 0; nothing would be trained")
        return self


class Schedule(Table):
    """How long and how fast to train.

    The rate warms up linearly and then falls linearly towards 0 at the end. BitNet's second
    stage starts half-way: the rate drops by `second_stage` and weight decay ends (b1.58 tips).
    """

    steps: int = Field(default=600, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0.0, le=1.0)
    warmup: float = Field(default=0.1, ge=0.0, le=0.5)
    """Share of the steps over which the rate warms up."""
    second_stage: float = Field(default=0.67, gt=0.0, le=1.0)
    weight_decay: float = Field(default=0.1, ge=0.0)
    """Of the first stage, decoupled (AdamW), on weight matrices only."""
    max_gradient_norm: float = Field(default=1.0, gt=0.0)
    """Longer gradients are shortened to it; a huge number leaves them all."""


class Augmentation(Table):
    """Random changes to training sequences, in units of each feature's standard deviation."""

    crop: float = Field(default=0.0, ge=0.0, lt=1.0)
    """A sequence loses up to this share of its length, from either end."""

    jitter: float = Field(default=0.0, ge=0.0)
    """Deviation of noise added to every value."""
    scale: float = Field(default=0.0, ge=0.0)
    """Deviation of the logarithm of a factor per sequence and feature: a gain, about zero, or
    about the point 4 deviations from the mean where zero is further away."""
    offset: float = Field(default=0.0, ge=0.0)
    """Deviation of an offset per sequence and feature."""
    mix: float = Field(default=0.0, ge=0.0)
    """Deviation of what a random linear map per sequence adds to each feature from all of them:
    sensors turned, another body or voice."""
    warp: float = Field(default=0.0, ge=0.0, lt=1.0)
    """A sequence is resampled to 1 - warp to 1 + warp of its length, unevenly in time."""


class Recipe(Table):
    """What to train, on what, and how."""

    name: str = Field(min_length=1, max_length=MAX_NAME)
    """What a service calls the model; any text, such as `lab/vowels`."""
    dataset: Path = Field(strict=False)
    """An `.npz` as `data/README.md` tells; relative to the recipe's folder."""
    start: str | None = Field(default=None, min_length=1)
    """The packed model, one that sees channels one by one, whose weights training begins with: an
    embedded model's name, or a file's path, relative to the recipe's folder. [model] is left out
    then."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    validation: float = Field(default=0.0, ge=0.0, le=0.5)
    """Share of the training split held out for a score: how well a linear probe on the embeddings
    of the rest tells their labels. Needs labels, of two classes or more."""
    score_test: bool = False
    """Whether to score the test split, likewise, once, when training is over; before, it is only
    looked at whether it can be scored."""
    threads: int = Field(default=1, ge=1, le=MAX_THREADS)
    """Torch threads; another number, as another kind of processor, may round sums differently and
    so train another model."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Fields of ModelConfig; `embed_dim` comes from the data set."""
    objective: Objective = Objective()
    schedule: Schedule = Schedule()
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="before")
    @classmethod
    def _over_fine_tuning(cls, fields: Any) -> Any:
        if not (isinstance(fields, dict) and fields.get("start")):
            return fields
        tables = {
            name: defaults | fields.get(name, {})
            for name, defaults in FINE_TUNING.items()
            if isinstance(fields.get(name, {}), dict)
        }
        return fields | tables

    @model_validator(mode="after")
    def _one_configuration(self) -> Self:
        if self.start and self.model:
            raise ValueError("the model's configuration is that of 'start'; leave [model] out")
        return self

    @field_validator("dataset")
    @classmethod
    def _some_path(cls, dataset: Path) -> Path:
        if "\0" in str(dataset):
            raise ValueError("a path holds no null character")
        return dataset


def read_recipe(path: Path | str) -> Recipe:
    """Reads a recipe; its paths come back resolved.

    Raises:
        OSError: the file cannot be read.
        RecipeError: it is not TOML, or a field is unknown, missing or out of range.
    """
    recipe, folder = read_table(path, Recipe), Path(path).parent
    paths: dict[str, Any] = {"dataset": (folder / recipe.dataset).resolve()}
    if recipe.start and recipe.start not in EMBEDDED_MODELS:
        paths["start"] = str((folder / recipe.start).resolve())
    return recipe.model_copy(update=paths)


def read_table(path: Path | str, kind: type[SomeTable]) -> SomeTable:
    """Reads a file of TOML as a table of a kind.

    Raises:
        OSError: the file cannot be read.
        RecipeError: it is not TOML, or a field is unknown, missing or out of range.
    """
    path = Path(path)
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{path} is nested too deeply for a recipe") from error


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML that `read_recipe` reads; its paths as they are.

    Raises:
        RecipeError: the path is not Unicode, as TOML is.
    """
    fields = recipe.model_dump(mode="json", exclude_none=True)
    tables = {name: value for name, value in fields.items() if isinstance(value, dict)}
    parts = [_lines({name: value for name, value in fields.items() if name not in tables})]
    parts += [f"\n[{name}]\n{_lines(table)}" for name, table in tables.items() if table]
    text = "".join(parts)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecipeError(f"TOML is Unicode, the path {str(recipe.dataset)!r} is not") from error
    return text


def _lines(table: dict[str, Any]) -> str:
    return "".join(f"{name} = {_value(value)}\n" for name, value in table.items())


def _value(value: Any) -> str:
    # JSON's numbers, booleans and strings are TOML's, but for surrogate pairs and a bare delete.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
