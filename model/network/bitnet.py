"""The BitNet sequence encoder in torch: what is trained.

    values [timesteps, embed_dim] -> each `stride` timesteps averaged into one
      -> differences over time beside them, where there are any -> standardise
      -> dense to hidden_size, where widths differ -> num_layers blocks -> norm
      -> pooled to [batch, hidden_size]

A block is `x + attention(norm(x))`, then `x + ffn(norm(x))`; attention is causal unless the
configuration says otherwise, and all four projections are BitLinears. With its defaults this is the
encoder of `Edifice.Feedforward.BitNet`.

Batches are ragged: flat values and lengths. Parameters are named as the tensors of the packed file.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tritserve.model import channels
from tritserve.model.channels import Calibration
from tritserve.model.config import ModelConfig, Quantize
from tritserve.model.inputs import model_inputs
from tritserve.model.network.bitlinear import BitLinear
from tritserve.model.network.block import BitNetBlock, Places, make_norm
from tritserve.model.network.join import Join, average_windows


class Standardize(nn.Module):
    """`(x - mean) / std` per feature; the identity until `mean` and `std` are set."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class BitNet(nn.Module):
    """A BitNet sequence encoder.

    Attributes:
        calibration: center and spread of the first channels, where channels are seen one by one
            and theirs are known.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.standardize = Standardize(config.input_size)
        self.input_projection = (
            nn.Linear(config.input_size, config.hidden_size)
            if config.has_input_projection
            else None
        )
        self.blocks = nn.ModuleList(BitNetBlock(config) for _ in range(config.num_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.final_norm = make_norm(config)
        self.join = Join(config, config.channels) if config.channels else None
        self.calibration: Calibration | None = None

    def read(self, values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder sees: `stride` timesteps in one, with differences, standardised.

        Args:
            values: `[timesteps, embed_dim]` float32, raw.
            lengths: `[batch]` int64; their sum is `timesteps`.

        Returns:
            Inputs `[shorter, input_size]` float32, the features themselves first, and their
            lengths `[batch]`, as `encode` takes them.

        Raises:
            ValueError: a sequence is empty or longer than `config.max_timesteps`, or lengths and
                values do not fit.
        """
        if int(lengths.min()) < 1:
            raise ValueError(f"a sequence has length {int(lengths.min())}; it must be 1 or more")
        if int(lengths.max()) > self.config.max_timesteps:
            raise ValueError(
                f"a sequence has {int(lengths.max())} timesteps; "
                f"this model takes at most {self.config.max_timesteps}"
            )
        if int(lengths.sum()) != len(values):
            raise ValueError(
                f"lengths add up to {int(lengths.sum())} timesteps, values hold {len(values)}"
            )
        config = self.config
        inputs, short = model_inputs(
            values.numpy(), lengths.numpy(), config.stride, config.differences
        )
        return self.standardize(torch.from_numpy(inputs)), torch.from_numpy(short)

    def encode(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Every timestep's output.

        Args:
            x: `[timesteps, input_size]` float32, as `read` gives them.
            lengths: `[batch]` int64; their sum is `timesteps`.

        Returns:
            `[timesteps, hidden_size]` float32.
        """
        if self.input_projection is not None:
            x = self.input_projection(x)
        places = Places(self.config, lengths)
        for i, block in enumerate(self.blocks):
            x = block(self.dropout(x) if i else x, places)
        out: Tensor = self.final_norm(x)
        return out

    def pool(self, encoded: Tensor, lengths: Tensor) -> Tensor:
        """`[timesteps, hidden_size]` of `encode` to `[batch, output_size]`."""
        if self.config.pooling == "last":
            return encoded[lengths.cumsum(0) - 1]
        rows = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        if self.config.pooling == "mean_max":
            sums = encoded.new_zeros(len(lengths), encoded.shape[1]).index_add(0, rows, encoded)
            most = torch.segment_reduce(encoded, "max", lengths=lengths)
            return torch.cat([sums / lengths[:, None], most], dim=1)
        weights = lengths
        if self.config.pooling == "weighted_mean":
            weights = lengths * (lengths + 1) // 2
            timestep = torch.arange(len(encoded)) - (lengths.cumsum(0) - lengths)[rows]
            encoded = encoded * (timestep + 1)[:, None]
        sums = encoded.new_zeros(len(lengths), encoded.shape[1]).index_add(0, rows, encoded)
        return sums / weights[:, None]

    def forward(self, values: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeds a batch.

        Args:
            values: `[timesteps, embed_dim]` with `lengths`, or `[batch, seq_len, embed_dim]`.
            lengths: `[batch]` int64.

        Returns:
            `[batch, output_size]` float32.
        """
        if lengths is None:
            batch, seq_len, _ = values.shape
            values, lengths = values.flatten(0, 1), torch.full((batch,), seq_len)
        if self.config.channels:
            return self.embed_channels(values, lengths)
        inputs, lengths = self.read(values, lengths)
        return self.pool(self.encode(inputs, lengths), lengths)

    def embed_windows(self, tokens: Tensor) -> Tensor:
        """Tokens of windows `[windows, tokens, token_size]` to `[windows, pooled_size]`."""
        lengths = torch.full((len(tokens),), tokens.shape[1])
        return self.pool(self.encode(self.standardize(tokens.flatten(0, 1)), lengths), lengths)

    def embed_channels(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Embeds a batch whose channels are seen one by one.

        Args:
            values: `[timesteps, channels]` float32, NaN where a value is missing.
            lengths: `[batch]` int64; their sum is `timesteps`.

        Returns:
            `[batch, output_size]` float32.
        """
        assert self.config.channels
        assert self.join
        seen = channels.read(
            values.numpy(), lengths.numpy(), self.config.channels, self.calibration
        )
        rows = average_windows(self.embed_windows(torch.from_numpy(seen.tokens)), seen.windows)
        activity, levels = torch.from_numpy(seen.activity), torch.from_numpy(seen.levels)
        joined: Tensor = self.join(rows, activity, levels, values.shape[1])
        return joined


def build(*, embed_dim: int, **options: Any) -> BitNet:
    """A BitNet encoder from Edifice's options (and ModelConfig's others).

    Raises:
        pydantic.ValidationError: an option is unknown or out of range.
    """
    return BitNet(ModelConfig(embed_dim=embed_dim, **options))


def build_bitnet_block(*, hidden_size: int, **options: Any) -> BitNetBlock:
    """One block of a BitNet encoder."""
    return BitNetBlock(ModelConfig(embed_dim=hidden_size, hidden_size=hidden_size, **options))


def bitlinear(in_features: int, out_features: int, quantize: Quantize = "ternary") -> BitLinear:
    """One BitLinear layer with bias."""
    return BitLinear(in_features, out_features, quantize=quantize)


def output_size(**options: Any) -> int:
    """Width of the embeddings that `build` with these options gives."""
    return ModelConfig(**{"embed_dim": 1} | options).hidden_size


def recommended_defaults() -> dict[str, Any]:
    """Edifice's recommended options."""
    names = ("hidden_size", "num_heads", "num_layers", "window_size", "dropout", "quantize")
    return {name: ModelConfig.model_fields[name].default for name in names}
