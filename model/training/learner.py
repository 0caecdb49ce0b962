"""The encoder with its losses, its optimiser and its schedule.

The losses are those of `Objective`: cross-entropy of a linear classifier on the embedding, the mean
squared error of the next standardised timestep predicted linearly from each one, the contrast of
SimCLR (Chen et al. 2020, arXiv 2002.05709, eq. 1): of all views in a batch, an embedding must find
the other view of its own sequence, and the mean squared error of the whole standardised sequence at
16 points in time, predicted linearly from its embedding. A share of the timesteps may be hidden
from the encoder. The optimiser is AdamW with BitNet's two-stage schedule.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritserve.model.network.bitnet import BitNet
from tritserve.model.training.recipe import Objective, Schedule

# Points in time at which a sequence is reconstructed.
RECONSTRUCTED = 16


def resample(rows: Tensor, lengths: Tensor, points: int) -> Tensor:
    """Each sequence at evenly spaced points in time, its ends among them, linearly interpolated.

    Args:
        rows: `[timesteps, features]` float32.
        lengths: `[batch]` int64; their sum is `timesteps`.
        points: 2 or more.

    Returns:
        `[batch, points, features]` float32.
    """
    starts = (lengths.cumsum(0) - lengths)[:, None]
    last = lengths[:, None] - 1
    at = torch.linspace(0, 1, points) * last
    before = at.long()
    after = torch.minimum(before + 1, last)
    return torch.lerp(rows[starts + before], rows[starts + after], (at - before)[..., None])


def nt_xent(projected: Tensor, temperature: float) -> Tensor:
    """Normalised, temperature-scaled cross-entropy of finding each row's other view.

    Args:
        projected: `[2 * batch, width]` float32; rows i and i + batch are views of one sequence.
        temperature: cosines are divided by it.

    Returns:
        The mean over all rows, a scalar.
    """
    rows = len(projected)
    unit = F.normalize(projected, dim=1)
    similar = (unit @ unit.T / temperature).fill_diagonal_(float("-inf"))
    other = (torch.arange(rows) + rows // 2) % rows
    return F.cross_entropy(similar, other)


class Learner(nn.Module):
    """The encoder with the linear heads that its losses need."""

    def __init__(self, encoder: BitNet, classes: int, objective: Objective) -> None:
        super().__init__()
        config = encoder.config
        self.objective = objective
        self.encoder = encoder
        self.heads = nn.ModuleDict()
        if objective.classification:
            self.heads["classifier"] = nn.Linear(config.output_size, classes)
        if objective.next_timestep:
            self.heads["predictor"] = nn.Linear(config.hidden_size, config.features)
        if objective.reconstruction:
            self.heads["decoder"] = nn.Linear(config.output_size, RECONSTRUCTED * config.features)
        if objective.contrast:
            width = config.output_size
            self.heads["projector"] = nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
            )

    def loss(self, values: Tensor, lengths: Tensor, labels: Tensor | None) -> Tensor:
        """The weighted sum of the losses.

        Args:
            values: `[timesteps, embed_dim]` float32, raw.
            lengths: `[batch]` int64. With a contrast, the second half of the batch holds the
                other views of the first half, in the same order.
            labels: `[batch]` int64, where there are any.
        """
        if self.encoder.config.channels:
            losses = self._of_embeddings(self.encoder(values, lengths), labels)
        else:
            losses = self._of_timesteps(values, lengths, labels)
        return torch.stack(losses).sum()

    def _of_timesteps(self, values: Tensor, lengths: Tensor, labels: Tensor | None) -> list[Tensor]:
        """The losses of an encoder that reads all features together."""
        objective, losses = self.objective, []
        inputs, lengths = self.encoder.read(values, lengths)
        features = inputs[:, : self.encoder.config.features]
        if objective.mask:
            inputs = self._hide(inputs, lengths)
        encoded = self.encoder.encode(inputs, lengths)
        if objective.next_timestep:
            losses.append(objective.next_timestep * self._next(encoded, features, lengths))
        if not (objective.classification or objective.contrast or objective.reconstruction):
            return losses
        embeddings = self.encoder.pool(encoded, lengths)
        losses += self._of_embeddings(embeddings, labels)
        if objective.reconstruction:
            target = resample(features, lengths, RECONSTRUCTED).flatten(1)
            decoded = self.heads["decoder"](embeddings)
            losses.append(objective.reconstruction * F.mse_loss(decoded, target))
        return losses

    def _of_embeddings(self, embeddings: Tensor, labels: Tensor | None) -> list[Tensor]:
        """The losses that ask an embedding for its label, or for the other view."""
        objective, losses = self.objective, []
        if objective.classification:
            assert labels is not None
            logits = self.heads["classifier"](embeddings)
            losses.append(
                objective.classification
                * F.cross_entropy(logits, labels, label_smoothing=objective.label_smoothing)
            )
        if objective.contrast:
            projected = self.heads["projector"](embeddings)
            losses.append(objective.contrast * nt_xent(projected, objective.temperature))
        return losses

    def _hide(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Some timesteps' features, and the differences that tell of them, as their means."""
        hidden = torch.rand(len(inputs)) < self.objective.mask
        starts = torch.zeros_like(hidden)
        starts[lengths.cumsum(0) - lengths] = True
        parts = []
        for part in inputs.chunk(1 + self.encoder.config.differences, dim=1):
            # Standardised, a mean is 0.
            parts.append(part.masked_fill(hidden[:, None], 0.0))
            # A difference is of a timestep and the one before it.
            hidden = hidden | (hidden.roll(1) & ~starts)
        return torch.cat(parts, dim=1)

    def _next(self, encoded: Tensor, features: Tensor, lengths: Tensor) -> Tensor:
        has_next = torch.ones(len(features), dtype=torch.bool)
        has_next[lengths.cumsum(0) - 1] = False
        if not has_next.any():
            # A loss still, with gradients of zero.
            return 0.0 * encoded.sum()
        predicted = self.heads["predictor"](encoded[has_next])
        return F.mse_loss(predicted, features[1:][has_next[:-1]])


def make_optimizer(
    learner: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (0.9, 0.98) with weight decay on matrices only."""
    trained = [p for p in learner.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))


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
