"""The channels of a sequence into one embedding, whatever their number.

    row_c  = activity_c * (pooled_c - mean) / std
    shape  = sum over channels c of  move_c(T @ (s_c * row_c))     / sqrt(channels)
    levels = sum over channels c of  move_c(U @ (s_c * levels_c))  / sqrt(channels)

T and U are ternary and drawn at random, once: by Johnson and Lindenstrauss, distances survive such
a projection (Achlioptas 2003, doi 10.1016/S0022-0000(03)00025-4, for weights of -1, 0 and 1). The
signs s_c and the moves are each channel's own, so that the sum still tells which was which.
"""

import numpy as np
import torch
from torch import Tensor, nn

from tritserve.model import channels
from tritserve.model.config import Channels, ModelConfig
from tritserve.model.network.bitlinear import BitLinear
from tritserve.model.sequences import LengthArray

# Of the weights that are not zero.
DENSITY = 2 / 3
# What levels count beside shapes: chosen on training splits, docs/quality.md.
LEVELS_WEIGHT = 1.0


class Join(nn.Module):
    """Joins channels; nothing of it is trained.

    Attributes:
        mean: `[pooled_size]`, of pooled rows.
        std: `[pooled_size]`, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, joined: Channels) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.pooled_size))
        self.register_buffer("std", torch.ones(config.pooled_size))
        self.shape = _drawn(config, config.pooled_size, joined.shape_size, 1.0)
        self.levels = _drawn(config, joined.levels, joined.levels_size, LEVELS_WEIGHT)

    def forward(self, rows: Tensor, activity: Tensor, levels: Tensor, count: int) -> Tensor:
        """Joins the channels of each sequence.

        Args:
            rows: `[batch * count, pooled_size]` float32.
            activity: `[batch * count]` float32, what each row counts.
            levels: `[batch * count, levels]` float32.
            count: channels of a sequence.

        Returns:
            `[batch, joined_size]` float32.
        """
        shapes = (rows - self.mean) / self.std * activity[:, None]
        parts = [_joined(self.shape, shapes, count), _joined(self.levels, levels, count)]
        joined: Tensor = torch.cat(parts, dim=1) / count**0.5
        return joined


def average_windows(pooled: Tensor, windows: LengthArray) -> Tensor:
    """The windows of each series in one row, each weighted as `channels.weights` says.

    Args:
        pooled: `[windows, pooled_size]` float32.
        windows: `[series]`, how many of them belong to each series.

    Returns:
        `[series, pooled_size]` float32.
    """
    weighted = pooled * torch.from_numpy(channels.weights(windows))[:, None]
    series = torch.repeat_interleave(torch.from_numpy(windows))
    return pooled.new_zeros(len(windows), pooled.shape[1]).index_add(0, series, weighted)


def _drawn(config: ModelConfig, in_features: int, out_features: int, weight: float) -> BitLinear:
    layer = BitLinear(
        in_features,
        out_features,
        bias=config.bias,
        quantize=config.quantize,
        activations=config.activations,
    )
    chance = np.random.default_rng([in_features, out_features])
    magnitude = chance.random((out_features, in_features)) < DENSITY
    sign = 2 * chance.integers(0, 2, magnitude.shape) - 1
    # The scale of ternary weights is their mean magnitude: rows of unit variance then come out
    # with a sum of squares of weight^2.
    scale = weight / (DENSITY * (DENSITY * in_features * out_features) ** 0.5)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(magnitude * sign * scale))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer.requires_grad_(False)


def _joined(layer: BitLinear, rows: Tensor, count: int) -> Tensor:
    signs = torch.from_numpy(channels.signs(count, rows.shape[1]))
    turned = rows.view(-1, count, rows.shape[1]) * signs
    products = layer(turned)
    width = products.shape[-1]
    moved = [products[:, c].roll(channels.moved(c, width), 1) for c in range(count)]
    joined: Tensor = torch.stack(moved).sum(dim=0)
    return joined
