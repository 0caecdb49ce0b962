"""The recipe of pre-training: everything that decides what `tritserve pretrain` makes.

It is TOML; unknown fields are errors, and what is not given is as in
`model/pretrained/universal.toml`.
"""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from tritserve.model.config import MAX_NAME, MAX_TIMESTEPS, ModelConfig
from tritserve.model.environment import MAX_THREADS
from tritserve.model.training.recipe import Table, read_table

UNIVERSAL = {
    "channels": {},
    "hidden_size": 96,
    "num_layers": 3,
    "num_heads": 4,
    "dropout": 0.0,
    "window_size": MAX_TIMESTEPS,
    "quantize": "ternary",
    "sub_norm": True,
    "positions": "rope",
    "attention": "full",
    "pooling": "mean_max",
}


def _over_universal(model: Any) -> Any:
    return UNIVERSAL | model if isinstance(model, dict) else model


class Graph(Table):
    """Random graphs whose nodes are series; each node after the first may have parents."""

    nodes: int = Field(default=18, ge=1, le=1_000)
    parents: int = Field(default=6, ge=0, le=1_000)
    """The most that a node has."""
    taken: int = Field(default=8, ge=1, le=1_000)
    """Nodes that are kept of a graph: those of one are more alike than those of many."""
    gaussian_roots: float = Field(default=0.6, ge=0.0, le=1.0)
    """Chance that a node without parents is a Gaussian process, and no signal."""

    @model_validator(mode="after")
    def _enough_nodes(self) -> Self:
        if self.taken > self.nodes:
            raise ValueError(f"taken {self.taken} of {self.nodes} nodes; take as many at most")
        return self


class Prior(Table):
    """The synthetic series."""

    series: int = Field(default=250_000, ge=1, le=100_000_000)
    """How many are drawn, once; each step of the training takes some of them."""
    points: int = Field(default=256, ge=8, le=4_096)
    """Points of a series."""
    graphs: float = Field(default=0.75, ge=0.0, le=1.0)
    """Chance that what is drawn next are nodes of a graph, and no signal by itself."""
    graph: Graph = Graph()


class Views(Table):
    """Random changes that make two views of one series; what they change does not matter."""

    crop: float = Field(default=0.4, ge=0.0, lt=1.0)
    """A view is at least 1 - crop of the series."""
    warp: float = Field(default=0.06, ge=0.0, lt=0.15)
    """By how much of the view's length a point in time moves; by 0.15 time could run backwards."""
    fewest: int = Field(default=8, ge=2, le=4_096)
    """Timesteps of the coarsest sampling; the finest has one for each point of a window."""
    drift: float = Field(default=0.25, ge=0.0)
    """Half of the views drift, by up to so many deviations either way."""
    noise: float = Field(default=0.15, ge=0.0)
    """Deviation of the most noise, in deviations of the view; most views have less."""
    floor: float = Field(default=1e-3, gt=0.0)
    """Joins a view's deviation when it is normalised: a stretch of a series that varies by less
    counts as constant."""


class PretrainObjective(Table):
    """Weights of the two losses, and what they compare."""

    contrast: float = Field(default=1.0, ge=0.0)
    """NT-Xent: of all views in a batch, to find the other one of the same series."""
    temperature: float = Field(default=0.1, gt=0.0)
    """Of the contrast."""
    projected_size: int = Field(default=128, ge=1, le=65_536)
    """Width at which views are compared, after a small network that is thrown away."""
    reconstruction: float = Field(default=1.0, ge=0.0)
    """Mean squared error of the view, predicted linearly from its embedding."""
    reconstructed: int = Field(default=32, ge=1, le=4_096)
    """Equal spans of time whose means are predicted."""

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not (self.contrast or self.reconstruction):
            raise ValueError("both losses have weight 0; nothing would be trained")
        return self


class PretrainSchedule(Table):
    """How long and how fast to train: the rate warms up linearly, then falls as a cosine."""

    steps: int = Field(default=4_000, ge=1)
    batch_size: int = Field(default=256, ge=2)
    """Series in a step; there are two views of each."""
    learning_rate: float = Field(default=2e-3, gt=0.0, le=1.0)
    warmup: int = Field(default=100, ge=0)
    """Steps over which the rate warms up."""
    last: float = Field(default=0.02, ge=0.0, le=1.0)
    """Share of the rate towards which it falls."""
    weight_decay: float = Field(default=0.05, ge=0.0)
    """Decoupled (AdamW), on weight matrices only."""
    max_gradient_norm: float = Field(default=1.0, gt=0.0)
    """Longer gradients are shortened to it."""


class PretrainRecipe(Table):
    """What to pre-train, on which synthetic series, and how."""

    name: str = Field(default="universal", min_length=1, max_length=MAX_NAME)
    """What a service calls the model."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int = Field(default=1, ge=1, le=MAX_THREADS)
    """Torch threads; another number, as another kind of processor, may round sums differently and
    so train another model."""
    model: Annotated[ModelConfig, BeforeValidator(_over_universal)] = Field(
        default_factory=dict, validate_default=True
    )
    """Fields of ModelConfig; those that are not given are the universal encoder's."""
    prior: Prior = Prior()
    views: Views = Views()
    objective: PretrainObjective = PretrainObjective()
    schedule: PretrainSchedule = PretrainSchedule()

    @field_validator("model")
    @classmethod
    def _one_by_one(cls, model: ModelConfig) -> ModelConfig:
        if model.channels is None:
            raise ValueError("what is pre-trained sees channels one by one; it has no embed_dim")
        return model


def read_pretrain_recipe(path: Path | str) -> PretrainRecipe:
    """Reads a recipe.

    Raises:
        OSError: the file cannot be read.
        RecipeError: it is not TOML, or a field is unknown or out of range.
    """
    return read_table(path, PretrainRecipe)
