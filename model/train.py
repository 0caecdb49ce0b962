"""Trains a BitNet encoder from a recipe.

The losses are those of `Objective`: cross-entropy of a linear classifier on the embedding, and the
mean squared error of the next standardised timestep predicted from each one. The optimiser is
AdamW with BitNet's two-stage schedule. One seed on one version of torch and one number of threads
gives one model.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from model.augment import augment
from model.bitnet import BitNet
from model.checkpoint import Checkpoint
from model.config import ModelConfig
from model.data import Dataset, hold_out, load
from model.errors import UserError, explain
from model.probe import linear_probe
from model.recipe import Objective, Recipe, RecipeError, Schedule
from model.sequences import FloatArray, Sequences

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Step:
    """What one training step tells.

    Attributes:
        step: counted from 1.
        steps: how many there are.
        loss: the weighted sum of the losses.
        learning_rate: of this step.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float


class TrainingError(UserError):
    """Training that cannot go on."""


class Learner(nn.Module):
    """The encoder with the linear heads that its losses need."""

    def __init__(self, config: ModelConfig, classes: int, objective: Objective) -> None:
        super().__init__()
        self.objective = objective
        self.encoder = BitNet(config)
        self.heads = nn.ModuleDict()
        if objective.classification:
            self.heads["classifier"] = nn.Linear(config.hidden_size, classes)
        if objective.next_timestep:
            self.heads["predictor"] = nn.Linear(config.hidden_size, config.embed_dim)

    def loss(self, values: Tensor, lengths: Tensor, labels: Tensor | None) -> Tensor:
        """The weighted sum of the losses.

        Args:
            values: `[timesteps, embed_dim]` float32, raw.
            lengths: `[batch]` int64.
            labels: `[batch]` int64, where there are any.
        """
        encoded = self.encoder.encode(values, lengths)
        total = encoded.new_zeros(())
        if labels is not None and "classifier" in self.heads:
            logits = self.heads["classifier"](self.encoder.pool(encoded, lengths))
            smoothing = self.objective.label_smoothing
            total = total + self.objective.classification * F.cross_entropy(
                logits, labels, label_smoothing=smoothing
            )
        if "predictor" in self.heads:
            has_next = torch.ones(len(values), dtype=torch.bool)
            has_next[lengths.cumsum(0) - 1] = False
            if has_next.any():
                predicted = self.heads["predictor"](encoded[has_next])
                target = self.encoder.standardize(values[1:][has_next[:-1]])
                total = total + self.objective.next_timestep * F.mse_loss(predicted, target)
        return total


def train(recipe: Recipe, progress: Callable[[Step], None] = lambda _: None) -> Checkpoint:
    """Trains as the recipe says.

    Args:
        recipe: what to train, on what, and how.
        progress: called after every step.

    Raises:
        OSError: the data set cannot be read.
        DataError: it is not of the form in `data/README.md`.
        RecipeError: the recipe does not fit the data set.
        TrainingError: the loss is no longer finite.
    """
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)

    whole = load(recipe.dataset, "train")
    data, held_out = hold_out(whole, recipe.validation, rng)
    config = _model_config(recipe, whole)
    learner = Learner(config, whole.classes, recipe.objective)
    std = _fit_standardization(learner.encoder, data.sequences)

    optimizer = _optimizer(learner, recipe.schedule)
    batches = _batches(data, recipe.schedule.batch_size, rng)
    learner.train()
    for step in range(recipe.schedule.steps):
        rate = _set_schedule(optimizer, recipe.schedule, step)
        batch = next(batches)
        sequences = augment(batch.sequences, recipe.augmentation, std, config.max_timesteps, rng)
        loss = learner.loss(*_tensors(sequences, batch))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {step + 1} of {recipe.schedule.steps}, "
                f"learning rate {rate:.2e}; a lower learning rate or longer warm-up may help"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learner.parameters(), recipe.schedule.max_gradient_norm)
        optimizer.step()
        progress(Step(step + 1, recipe.schedule.steps, loss.item(), rate))

    others = {} if held_out is None else {"validation": held_out}
    if recipe.score_test:
        others["test"] = load(recipe.dataset, "test")
    return Checkpoint(
        model=learner.encoder.eval(),
        heads=learner.heads.state_dict(),
        golden=whole.sequences.split()[0],
        name=recipe.name,
        training=_describe(recipe, whole, _scores(learner, data, others)),
    )


def embed(model: BitNet, sequences: Sequences) -> FloatArray:
    """Embeddings `[n, hidden_size]` float32 from the torch model, in evaluation mode."""
    parts = [
        sequences.select(np.arange(start, min(start + EVALUATION_BATCH, len(sequences))))
        for start in range(0, len(sequences), EVALUATION_BATCH)
    ]
    model.eval()
    with torch.inference_mode():
        embeddings = [
            model(torch.from_numpy(part.values), torch.from_numpy(part.lengths)) for part in parts
        ]
    result: FloatArray = torch.cat(embeddings).numpy()
    return result


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
    if recipe.objective.classification and data.labels is None:
        raise RecipeError("the data set has no labels; set classification = 0 in [objective]")
    return config


def _fit_standardization(model: BitNet, sequences: Sequences) -> FloatArray:
    mean = sequences.values.mean(axis=0, dtype=np.float64)
    std = sequences.values.std(axis=0, dtype=np.float64)
    # A constant feature says nothing; dividing by 1 keeps it at zero.
    std[std < 1e-8 * np.maximum(1.0, np.abs(mean))] = 1.0
    model.standardize.mean.copy_(torch.from_numpy(mean))
    model.standardize.std.copy_(torch.from_numpy(std))
    deviation: FloatArray = std.astype(np.float32)
    return deviation


def _batches(data: Dataset, size: int, rng: np.random.Generator) -> Iterator[Dataset]:
    """Batches without end: each epoch in another order, its incomplete last batch left out."""
    count = len(data.sequences)
    size = min(size, count)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield data.select(order[start : start + size])


def _tensors(sequences: Sequences, batch: Dataset) -> tuple[Tensor, Tensor, Tensor | None]:
    labels = None if batch.labels is None else torch.from_numpy(batch.labels)
    return torch.from_numpy(sequences.values), torch.from_numpy(sequences.lengths), labels


def _optimizer(learner: Learner, schedule: Schedule) -> torch.optim.AdamW:
    matrices = [p for p in learner.parameters() if p.ndim > 1]
    vectors = [p for p in learner.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))


def _set_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> float:
    warmup = max(1, round(schedule.warmup * schedule.steps))
    rate = schedule.learning_rate * min(1.0, (step + 1) / warmup) * (1 - step / schedule.steps)
    second_stage = step >= schedule.steps // 2
    if second_stage:
        rate *= schedule.second_stage
        optimizer.param_groups[0]["weight_decay"] = 0.0
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def _scores(learner: Learner, data: Dataset, others: dict[str, Dataset]) -> dict[str, float]:
    """Accuracy, on each other part, of a linear probe fitted on the training part."""
    if data.labels is None:
        return {}
    embeddings = embed(learner.encoder, data.sequences)
    return {
        f"{part}_probe_accuracy": linear_probe(
            embeddings, data.labels, embed(learner.encoder, other.sequences), other.labels
        )
        for part, other in others.items()
        if other.labels is not None
    }


def _describe(recipe: Recipe, data: Dataset, scores: dict[str, float]) -> dict[str, Any]:
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"dataset"}),
        "dataset": {
            "name": data.name,
            "sha256": data.sha256,
            "sequences": len(data.sequences),
            "timesteps": len(data.sequences.values),
            "classes": data.classes,
        },
        "scores": scores,
        "versions": {
            "tritserve": version("tritserve"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
