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
from torch import Tensor

from tritserve.model.data.dataset import Dataset, load
from tritserve.model.network.bitnet import BitNet
from tritserve.model.network.unpacking import from_packed
from tritserve.model.sequences import warn_if_transposed
from tritserve.model.training.augment import augment
from tritserve.model.training.checkpoint import Checkpoint
from tritserve.model.training.learner import Learner, make_optimizer, set_rate
from tritserve.model.training.log import Step
from tritserve.model.training.loop import (
    MEASURE_EVERY,
    Run,
    descend,
    prepare_torch,
    take_steps,
    versions,
)
from tritserve.model.training.memory import memory_needed
from tritserve.model.training.monitor import Monitor
from tritserve.model.training.objective import check_objective
from tritserve.model.training.parts import divide
from tritserve.model.training.recipe import Recipe
from tritserve.model.training.run_folder import clear_run
from tritserve.model.training.scores import ValidationCurve, score
from tritserve.model.training.standardization import fit
from tritserve.model.training.start import model_config, read_start, sees_channels
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


class _Training(Run):
    """A training run: everything that changes from step to step, and how."""

    learner: Learner

    def __init__(self, recipe: Recipe) -> None:
        prepare_torch(recipe.seed, recipe.threads)
        self.recipe = recipe
        self.steps = recipe.schedule.steps
        self.rng = np.random.default_rng(recipe.seed)
        self.start = read_start(recipe.start) if recipe.start else None
        self.whole = load(recipe.dataset, "train", missing=sees_channels(recipe))
        self.config = model_config(recipe, self.start, self.whole)
        self.data, self.scored = divide(recipe, self.config, self.whole, self.rng)
        check_objective(recipe, self.config, self.data)
        self.curve = (
            ValidationCurve(self.data, self.scored["validation"], recipe.schedule.steps)
            if "validation" in self.scored
            else None
        )
        encoder = from_packed(self.start) if self.start else BitNet(self.config)
        self.statistics = fit(encoder, self.data, self.scored)
        self.learner = Learner(encoder, self.whole.classes, recipe.objective)
        schedule = recipe.schedule
        self.optimizer = make_optimizer(self.learner, schedule.learning_rate, schedule.weight_decay)
        self.batches = _Batches(self.data, recipe.schedule.batch_size, self.rng)
        self.monitor = Monitor(self.learner.encoder)
        self.step = 0

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
        chance = {"numpy_rng": self.rng.bit_generator.state, "order": self.batches.order}
        return super().state() | chance

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` gave."""
        super().restore(state)
        self.rng.bit_generator.state = state["numpy_rng"]
        self.batches.order = state["order"]


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
        OSError: the data set or the model to start from cannot be read, or the folder not written.
        CalibrationError: of a model that sees channels one by one: a channel does not vary.
        DataError: the data set is not of the form in `data/README.md`, cannot be scored as the
            recipe says, or has values that would overflow.
        PackedFileError: what training is to start from is not a valid packed file.
        RecipeError: the recipe does not fit the data set, or names no model to start from.
        StateError: the folder holds a damaged state, or one of another recipe, data set or version.
        TrainingError: the loss or its gradient is no longer finite.
        UnpackError: the model to start from has weights that no training comes to.

    Warns:
        DataWarning: time and features of the data set look transposed.
    """
    run = _Training(recipe)
    warn_if_transposed(run.whole.sequences, run.whole.name)
    start = run.start.revision if run.start else None
    identity = identify(recipe, data=run.whole.sha256, start=start)
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


def _labels(batch: Dataset) -> Tensor | None:
    return None if batch.labels is None else torch.from_numpy(batch.labels)


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
    described = {
        "recipe": run.recipe.model_dump(mode="json", exclude={"dataset", "start"}),
        "dataset": dataset,
        "scores": scores,
        "versions": versions(),
    }
    if run.start:
        described["start"] = {"name": run.start.name, "revision": run.start.revision}
    return described
