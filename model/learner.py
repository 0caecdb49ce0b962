"""The encoder with its losses, its optimiser and its schedule.

The losses are those of `Objective`: cross-entropy of a linear classifier on the embedding, and the
mean squared error of the next standardised timestep predicted linearly from each one. The
optimiser is AdamW with BitNet's two-stage schedule.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.bitnet import BitNet
from model.config import ModelConfig
from model.recipe import Objective, Schedule


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
                target = self.encoder.standardize_values(values[1:][has_next[:-1]])
                total = total + self.objective.next_timestep * F.mse_loss(predicted, target)
        return total


def make_optimizer(learner: Learner, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW (0.9, 0.98) with weight decay on matrices only."""
    matrices = [p for p in learner.parameters() if p.ndim > 1]
    vectors = [p for p in learner.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))


def set_rate(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int) -> float:
    """Sets and returns the learning rate of a step, counted from 0, and its weight decay."""
    warmup = max(1, round(schedule.warmup * schedule.steps))
    rate = schedule.learning_rate * min(1.0, (step + 1) / warmup) * (1 - step / schedule.steps)
    second_stage = step >= schedule.steps // 2
    if second_stage:
        rate *= schedule.second_stage
        optimizer.param_groups[0]["weight_decay"] = 0.0
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
