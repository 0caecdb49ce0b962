"""The encoder with the two losses that teach it without labels, and the schedule of their rate.

Of all views in a batch, the embedding of a window must find the other view of its series, by
NT-Xent (SimCLR, Chen et al. 2020, arXiv 2002.05709, eq. 1) after a small network that is thrown
away; and the window, as it is normalised, must be predicted linearly from it.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritserve.model import channels
from tritserve.model.config import ModelConfig
from tritserve.model.network.bitnet import BitNet
from tritserve.model.pretraining.recipe import PretrainObjective, PretrainSchedule
from tritserve.model.training.learner import nt_xent


def normalize(views: Tensor, floor: float) -> Tensor:
    """Normalises windows `[windows, points]` as the front end of a model does."""
    columns = views.numpy().astype(np.float64).T
    normalized = channels.normalize(columns, np.full(len(views), floor))
    return torch.from_numpy(np.ascontiguousarray(normalized.T))


class PretrainLearner(nn.Module):
    """The encoder and what predicts from its embeddings of windows."""

    def __init__(self, config: ModelConfig, objective: PretrainObjective) -> None:
        super().__init__()
        assert config.channels
        self.patch = config.channels.patch
        self.objective = objective
        self.encoder = BitNet(config)
        width = config.pooled_size
        self.heads = nn.ModuleDict()
        if objective.contrast:
            self.heads["projector"] = nn.Sequential(
                nn.Linear(width, width), nn.GELU(), nn.Linear(width, objective.projected_size)
            )
        if objective.reconstruction:
            self.heads["decoder"] = nn.Linear(width, objective.reconstructed)

    def forward(self, windows: Tensor) -> Tensor:
        """Normalised windows `[windows, points]` to `[windows, pooled_size]`."""
        tokens = torch.from_numpy(channels.tokens(windows.numpy(), self.patch))
        embeddings: Tensor = self.encoder.embed_windows(tokens)
        return embeddings

    def losses(self, windows: Tensor) -> dict[str, Tensor]:
        """The losses by name, each times its weight.

        Args:
            windows: `[2 * batch, points]` float32, normalised; rows i and i + batch are views of
                one series.
        """
        objective = self.objective
        embeddings = self(windows)
        losses = {}
        if objective.contrast:
            projected = self.heads["projector"](embeddings)
            losses["contrast"] = objective.contrast * nt_xent(projected, objective.temperature)
        if objective.reconstruction:
            target = F.adaptive_avg_pool1d(windows, objective.reconstructed)
            decoded = self.heads["decoder"](embeddings)
            losses["reconstruction"] = objective.reconstruction * F.mse_loss(decoded, target)
        return losses


def set_rate(optimizer: torch.optim.Optimizer, schedule: PretrainSchedule, step: int) -> float:
    """Sets and returns the learning rate of a step, counted from 0."""
    warm = min(1.0, (step + 1) / max(1, schedule.warmup))
    falling = 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
    rate = schedule.learning_rate * warm * (schedule.last + (1 - schedule.last) * falling)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
