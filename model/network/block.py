"""One block of the encoder: attention within each sequence, then a feed-forward network.

Layers that act on one timestep see the flat rows of a batch. Only attention pads, to the right and
only where sequences differ in length, and keeps the padding from every real row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritserve.model.config import ModelConfig
from tritserve.model.network.bitlinear import EPS, BitLinear


def make_norm(config: ModelConfig) -> nn.Module:
    """The normalisation, with affine, that a configuration asks for."""
    return (nn.LayerNorm if config.norm == "layernorm" else nn.RMSNorm)(config.hidden_size, eps=EPS)


def _bit_linear(
    config: ModelConfig, in_features: int, out_features: int, sub_norm: bool = False
) -> BitLinear:
    return BitLinear(
        in_features,
        out_features,
        bias=config.bias,
        quantize=config.quantize,
        activations=config.activations,
        weight_rule=config.weight_rule,
        center_weights=config.center_weights,
        sub_norm=sub_norm,
        norm=config.norm,
    )


class Places:
    """Where the timesteps of a batch are: what the attention of every block needs.

    Attributes:
        shape: sequences, and timesteps of the longest.
        real: `[batch, seq_len]` bool, true where a padded batch holds a timestep; None where all
            sequences are of one length.
        seen: which keys each query attends to, bool that broadcasts to
            `[batch, heads, seq_len, seq_len]`; None where causality or nothing else decides.
        turns: cosines and sines `[seq_len, head_dim / 2]` float32 of rotary position embedding;
            None where there are no positions.
    """

    def __init__(self, config: ModelConfig, lengths: Tensor) -> None:
        shortest, longest = (int(length) for length in lengths.aminmax())
        self.shape = len(lengths), longest
        self.real = None if shortest == longest else torch.arange(longest) < lengths[:, None]
        self.seen = _seen(config, self.real, longest)
        self.turns = (
            _turns(longest, config.head_dim // 2, config.rope_theta)
            if config.positions == "rope"
            else None
        )

    def pad(self, rows: Tensor) -> Tensor:
        """`[timesteps, width]` to `[batch, seq_len, width]`, zero where there is no timestep."""
        if self.real is None:
            return rows.view(*self.shape, -1)
        padded = rows.new_zeros(*self.shape, rows.shape[-1])
        padded[self.real] = rows
        return padded

    def flatten(self, padded: Tensor) -> Tensor:
        """Undoes `pad`."""
        return padded.flatten(0, 1) if self.real is None else padded[self.real]


def _seen(config: ModelConfig, real: Tensor | None, seq_len: int) -> Tensor | None:
    if config.attention == "full":
        return None if real is None else real[:, None, None]
    # Padding is to the right: who looks back alone meets none.
    window = config.attention_window
    if window is None or window >= seq_len:
        return None
    return torch.ones(seq_len, seq_len, dtype=torch.bool).tril().triu(1 - window)


def _turns(seq_len: int, half: int, theta: float) -> tuple[Tensor, Tensor]:
    frequency = theta ** -(torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(seq_len, dtype=torch.float64)[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves paired as in LLaMA.

    Args:
        x: `[batch, heads, seq_len, head_dim]` float32.
        turns: cosines and sines, `[seq_len, head_dim / 2]` float32.
    """
    cos, sin = turns
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Attention(nn.Module):
    """Multi-head attention with BitLinear projections."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.query_key_value = _bit_linear(config, config.hidden_size, config.query_key_value_size)
        self.output = _bit_linear(
            config, config.num_heads * config.head_dim, config.hidden_size, config.sub_norm
        )

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """Attends within each sequence: `[timesteps, hidden_size]` to the same shape."""
        config = self.config
        padded: Tensor = places.pad(self.query_key_value(x))
        # [batch, heads, seq_len, head_dim]
        heads = padded.view(*places.shape, -1, config.head_dim).transpose(1, 2)
        query, key, value = torch.split(
            heads, [config.num_heads, config.key_value_heads, config.key_value_heads], dim=1
        )
        if places.turns:
            query, key = rotate(query, places.turns), rotate(key, places.turns)
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=places.seen,
            is_causal=config.attention == "causal" and places.seen is None,
            enable_gqa=config.key_value_heads < config.num_heads,
        )
        joined: Tensor = self.output(places.flatten(attended.transpose(1, 2).flatten(2)))
        return joined


class FeedForward(nn.Module):
    """`down(silu(up(x)))`, or with SwiGLU `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = (
            _bit_linear(config, config.hidden_size, config.inner_size)
            if config.ffn == "swiglu"
            else None
        )
        self.up = _bit_linear(config, config.hidden_size, config.inner_size)
        self.dropout = nn.Dropout(config.dropout)
        self.down = _bit_linear(config, config.inner_size, config.hidden_size, config.sub_norm)

    def forward(self, x: Tensor) -> Tensor:
        """`[timesteps, hidden_size]` to the same."""
        inner = F.silu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)
        y: Tensor = self.down(self.dropout(inner))
        return y


class BitNetBlock(nn.Module):
    """`x + attention(norm(x))`, then `x + ffn(norm(x))`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.ffn_norm = make_norm(config)
        self.ffn = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """`[timesteps, hidden_size]` of a batch to the same shape."""
        x = x + self.dropout(self.attention(self.attention_norm(x), places))
        out: Tensor = x + self.dropout(self.ffn(self.ffn_norm(x)))
        return out
