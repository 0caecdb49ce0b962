"""Trains a BitNet encoder from a recipe.

One seed on one version of torch, one number of threads and one kind of processor gives one model.
Training given a folder keeps its state and a log there; taken up again after it was killed at any
point, it ends with the same model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from tritserve.model.config import ModelConfig
from tritserve.model.data.dataset import DataError, Dataset, load
from tritserve.model.engine.value_check import ValueCheck
from tritserve.model.errors import explain
from tritserve.model.sequences import SequenceError, Sequences, warn_if_transposed
from tritserve.model.training.augment import augment
from tritserve.model.training.checkpoint import Checkpoint
from tritserve.model.training.learner import Learner, make_optimizer, set_rate
from tritserve.model.training.log import Step
from tritserve.model.training.loop import (
    MEASURE_EVERY,
    descend,
    prepare_torch,
    take_steps,
    versions,
)
from tritserve.model.training.memory import memory_needed
from tritserve.model.training.monitor import Monitor
from tritserve.model.training.objective import check_objective
from tritserve.model.training.parts import divide
from tritserve.model.training.recipe import Recipe, RecipeError
from tritserve.model.training.run_folder import clear_run
from tritserve.model.training.scores import ValidationCurve, score
from tritserve.model.training.standardization import input_statistics
from tritserve.model.training.state import identify, load_state


class _Batches:
    """Batches without end: each epoch in another order, its incomplete last batch left out."""

    def __init__(self, data: Dataset, size: int, rng: np.random.Generator) -> None:
        self._data = data
        self._size = min(size, len(data.sequences))
        self._rng = rng
        self.order: list[int] = []

    def next(self) -> Dataset:
        if len(self.order) < self._size:
            self.order = self._rng.permutation(len(self._data.sequences)).tolist()
        rows, self.order = self.order[: self._size], self.order[self._size :]
        return self._data.select(np.array(rows))


class _Training:
    """A training run: everything that changes from step to step, and how."""

    def __init__(self, recipe: Recipe) -> None:
        prepare_torch(recipe.seed, recipe.threads)
        self.recipe = recipe
        self.steps = recipe.schedule.steps
        self.rng = np.random.default_rng(recipe.seed)
        self.whole = load(recipe.dataset, "train")
        self.config = _model_config(recipe, self.whole)
        self.data, self.scored = divide(recipe, self.config, self.whole, self.rng)
        check_objective(recipe, self.config.stride, self.data)
        self.curve = (
            ValidationCurve(self.data, self.scored["validation"], recipe.schedule.steps)
            if "validation" in self.scored
            else None
        )
        self.learner = Learner(self.config, self.whole.classes, recipe.objective)
        config, width = self.config, self.config.embed_dim
        found = input_statistics(self.data.sequences, config.stride, config.differences)
        self.learner.encoder.standardize.mean.copy_(torch.from_numpy(found.mean))
        self.learner.encoder.standardize.std.copy_(torch.from_numpy(found.divisor))
        self.statistics = found.mean[:width], found.std[:width]
        schedule = recipe.schedule
        self.optimizer = make_optimizer(self.learner, schedule.learning_rate, schedule.weight_decay)
        self.batches = _Batches(self.data, recipe.schedule.batch_size, self.rng)
        self.monitor = Monitor(self.learner.encoder)
        self.step = 0
        check = ValueCheck(
            found.mean, found.divisor, stride=config.stride, differences=config.differences
        )
        for part, other in self.scored.items():
            _check_values(check, other.sequences, part)

    def advance(self) -> Step:
        """Takes one step."""
        recipe = self.recipe
        self.learner.train()
        rate = set_rate(self.optimizer, recipe.schedule, self.step)
        batch = self.batches.next()
        if recipe.objective.contrast:
            batch = batch.select(np.tile(np.arange(len(batch.sequences)), 2))
        sequences = augment(
            batch.sequences,
            recipe.augmentation,
            *self.statistics,
            self.config.max_timesteps,
            self.rng,
        )
        inputs = torch.from_numpy(sequences.values), torch.from_numpy(sequences.lengths)
        loss = self.learner.loss(*inputs, _labels(batch))
        self.step += 1
        descend(
            self.learner,
            self.optimizer,
            loss,
            recipe.schedule.max_gradient_norm,
            step=self.step,
            steps=self.steps,
        )
        measured = self.step % MEASURE_EVERY == 0
        layers = self.monitor.measure(self.step, self.learner.encoder, *inputs) if measured else {}
        seen = self.curve.measure(self.learner.encoder, self.step) if self.curve else None
        return Step(self.step, self.steps, loss.item(), rate, layers, seen)

    def state(self) -> dict[str, Any]:
        """Everything that a later step depends on."""
        return {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": self.rng.bit_generator.state,
            "order": self.batches.order,
            "monitor": self.monitor.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` gave."""
        self.step = state["step"]
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.rng.bit_generator.state = state["numpy_rng"]
        self.batches.order = state["order"]
        self.monitor.restore(state["monitor"])


@memory_needed("the model or its batch")
def train(
    recipe: Recipe,
    progress: Callable[[Step], None] = lambda _: None,
    folder: Path | str | None = None,
    *,
    resume: bool = True,
) -> Checkpoint:
    """Trains as the recipe says.

    Args:
        recipe: what to train, on what, and how.
        progress: called after every step.
        folder: where to keep the state and the log.
        resume: whether to take up the state in the folder, if there is one. Where none is taken
            up, what an earlier run left is deleted, once the recipe is known to fit the data set.

    Raises:
        OutOfMemoryError: the model or its batch does not fit into memory.
        OSError: the data set cannot be read, or the folder not written.
        DataError: the data set is not of the form in `data/README.md`, cannot be scored as the
            recipe says, or has values that would overflow.
        RecipeError: the recipe does not fit the data set.
        StateError: the folder holds a damaged state, or one of another recipe, data set or version.
        TrainingError: the loss or its gradient is no longer finite.

    Warns:
        DataWarning: time and features of the data set look transposed.
    """
    run = _Training(recipe)
    warn_if_transposed(run.whole.sequences, run.whole.name)
    identity = identify(recipe, data=run.whole.sha256)
    if folder:
        if resume and (state := load_state(folder, identity)):
            run.restore(state)
        else:
            clear_run(folder)
    take_steps(run, progress, folder, identity)
    return _checkpoint(run)


def _checkpoint(run: _Training) -> Checkpoint:
    return Checkpoint(
        model=run.learner.encoder.eval(),
        heads=run.learner.heads.state_dict(),
        name=run.recipe.name,
        training=_describe(run, score(run.learner.encoder, run.data, run.scored)),
        signature=run.whole.signature,
    )


def _check_values(check: ValueCheck, sequences: Sequences, part: str) -> None:
    """Raises DataError if a part of a data set has values that the packed model would refuse."""
    try:
        check(sequences.values, sequences.lengths)
    except SequenceError as error:
        raise DataError(f"the {part} part cannot be scored: {error}") from error


def _labels(batch: Dataset) -> Tensor | None:
    return None if batch.labels is None else torch.from_numpy(batch.labels)


def _model_config(recipe: Recipe, data: Dataset) -> ModelConfig:
    fields = recipe.model | {"embed_dim": data.sequences.values.shape[1]}
    if recipe.model.get("embed_dim", fields["embed_dim"]) != fields["embed_dim"]:
        raise RecipeError(
            f"the recipe's embed_dim is {recipe.model['embed_dim']}, "
            f"the data set has {fields['embed_dim']} features"
        )
    try:
        config = ModelConfig(**fields)
    except ValidationError as error:
        raise RecipeError(f"[model] of the recipe: {explain(error)}") from error
    longest = int(data.sequences.lengths.max())
    if longest > config.max_timesteps:
        raise RecipeError(
            f"the data set has a sequence of {longest} timesteps, the model takes at most "
            f"{config.max_timesteps}; set window_size in [model]"
        )
    return config


def _describe(run: _Training, scores: dict[str, float]) -> dict[str, Any]:
    data, held_out = run.whole, run.scored.get("validation")
    dataset = {
        "name": data.name,
        "sha256": data.sha256,
        "sequences": len(data.sequences),
        "timesteps": len(data.sequences.values),
        "classes": data.classes,
    }
    if data.groups is not None and held_out is not None and held_out.groups is not None:
        dataset["groups"] = len(np.unique(data.groups))
        dataset["groups_held_out"] = len(np.unique(held_out.groups))
        dataset["sequences_held_out"] = len(held_out.sequences)
    return {
        "recipe": run.recipe.model_dump(mode="json", exclude={"dataset"}),
        "dataset": dataset,
        "scores": scores,
        "versions": versions(),
    }
