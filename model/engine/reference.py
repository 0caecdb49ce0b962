"""The forward pass in plain numpy: the oracle that other engines are held to.

A BitLinear computes, with integer weights T `[out, in]` and weight scale s_w,

    s_x = max(max|x|, 1e-5) / 127        per timestep
    q   = clip(round(x / s_x), -128, 127)
    y   = (q @ T^T) * (s_x * s_w) + bias

(Ma et al. 2024, arXiv 2402.17764, eq. 1-3 and the official tips). `q @ T^T` runs as a float32
matmul on integers, which is exact below 2^24, whatever the order of its sums. The matmuls of real
numbers, the input projection and attention, run one sequence at a time: BLAS may sum in another
order for another number of rows, and the answer must not depend on a sequence's neighbours.
"""

import numpy as np
import numpy.typing as npt

from tritserve.model import channels
from tritserve.model.config import Channels, ModelConfig
from tritserve.model.inputs import shorten, with_differences
from tritserve.model.packed.content import PackedModel, unpack
from tritserve.model.sequences import FloatArray, LengthArray, Sequences

EPS = 1e-5
Int32Array = npt.NDArray[np.int32]


def quantize_activations(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Absmax quantisation to 8 bits per timestep.

    Args:
        x: `[timesteps, in]` float32.

    Returns:
        q: `[timesteps, in]` float32 holding integers of -128 to 127.
        scale: `[timesteps, 1]` float32; `q * scale` is about `x`.
    """
    scale = np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.float32(EPS)) / np.float32(127)
    return np.clip(np.rint(x / scale), -128, 127), scale


def integer_matmul(q: FloatArray, weights: FloatArray) -> Int32Array:
    """`q @ weights^T` of integers held as float32, exactly.

    Args:
        q: `[timesteps, in]`, integers of -128 to 127.
        weights: `[out, in]`, integers of -1 to 1.

    Returns:
        `[timesteps, out]` int32.
    """
    return (q @ weights.T).astype(np.int32)


class BitLinear:
    """One packed layer, its weights unpacked to float32 `[out, in]`."""

    def __init__(self, model: PackedModel, name: str) -> None:
        layer = model.layers[name]
        self.weights: FloatArray = unpack(layer, model.config.quantize).astype(np.float32)
        self.scale = layer.scale
        self.bias = layer.bias
        self.rounds_activations = model.config.activations == "int8"

    def __call__(self, x: FloatArray) -> FloatArray:
        """`[timesteps, in]` to `[timesteps, out]`, float32."""
        if self.rounds_activations:
            q, scale = quantize_activations(x)
            y = integer_matmul(q, self.weights).astype(np.float32) * (scale * self.scale)
        else:
            y = (x @ self.weights.T) * self.scale
        return y if self.bias is None else y + self.bias


class Reference:
    """A BitNet encoder computed with numpy from a packed model.

    Batches are not checked here; `tritserve.model.engine.engine.Engine` does that.
    """

    def __init__(self, model: PackedModel) -> None:
        self.config = model.config
        self.tensors = model.tensors
        self.layers = {name: BitLinear(model, name) for name in model.layers}
        self.calibration = model.calibration

    def embed(self, values: FloatArray, lengths: LengthArray) -> FloatArray:
        """`[timesteps, embed_dim]` float32 in sequences of `lengths` to `[batch, output_size]`."""
        if self.config.channels:
            return self._embed_channels(values, lengths, self.config.channels)
        values, lengths = shorten(values, lengths, self.config.stride)
        if self.config.activations == "float32":
            # Every matmul is one of real numbers then.
            return np.concatenate(
                [self._embed(part, lengths[i : i + 1]) for i, part in _parts(values, lengths)]
            )
        return self._embed(values, lengths)

    def _embed_channels(
        self, values: FloatArray, lengths: LengthArray, config: Channels
    ) -> FloatArray:
        seen = channels.read(values, lengths, config, self.calibration)
        tokens = seen.tokens.reshape(-1, config.token_size)
        pooled = self._encode(tokens, np.full(len(seen.tokens), config.tokens))
        starts = np.cumsum(seen.windows) - seen.windows
        rows = np.add.reduceat(pooled * channels.weights(seen.windows)[:, None], starts)
        rows = (rows - self.tensors["join.mean"]) / self.tensors["join.std"]
        rows = rows * seen.activity[:, None]
        count = values.shape[1]
        shapes = self._join("join.shape", rows, count)
        levels = self._join("join.levels", seen.levels, count)
        joined: FloatArray = np.concatenate([shapes, levels], axis=1)
        joined /= np.sqrt(np.float32(count))
        return joined

    def _join(self, name: str, rows: FloatArray, count: int) -> FloatArray:
        """The channels of each sequence, `[batch * count, in]`, to one row, `[batch, out]`."""
        signs = channels.signs(count, rows.shape[1])
        turned = (rows.reshape(-1, count, rows.shape[1]) * signs).reshape(rows.shape)
        products = self.layers[name](turned)
        width = products.shape[1]
        by_channel = products.reshape(-1, count, width).swapaxes(0, 1)
        joined = np.zeros((len(rows) // count, width), np.float32)
        for c, product in enumerate(by_channel):
            joined += np.roll(product, channels.moved(c, width), axis=1)
        return joined

    def _embed(self, values: FloatArray, lengths: LengthArray) -> FloatArray:
        return self._encode(with_differences(values, lengths, self.config.differences), lengths)

    def _encode(self, inputs: FloatArray, lengths: LengthArray) -> FloatArray:
        x = (inputs - self.tensors["standardize.mean"]) / self.tensors["standardize.std"]
        if self.config.has_input_projection:
            weight = self.tensors["input_projection.weight"]
            x = np.concatenate([part @ weight.T for _, part in _parts(x, lengths)])
            x = x + self.tensors["input_projection.bias"]
        for i in range(self.config.num_layers):
            x = self._block(f"blocks.{i}", x, lengths)
        return self._pool(self._norm("final_norm", x), lengths)

    def _block(self, name: str, x: FloatArray, lengths: LengthArray) -> FloatArray:
        layers = self.layers
        qkv = layers[f"{name}.attention.query_key_value"](self._norm(f"{name}.attention_norm", x))
        attended = np.concatenate([self._attend(part) for _, part in _parts(qkv, lengths)])
        x = x + layers[f"{name}.attention.output"](self._sub_norm(attended))

        h = self._norm(f"{name}.ffn_norm", x)
        if self.config.ffn == "swiglu":
            inner = silu(layers[f"{name}.ffn.gate"](h)) * layers[f"{name}.ffn.up"](h)
        else:
            inner = silu(layers[f"{name}.ffn.up"](h))
        return x + layers[f"{name}.ffn.down"](self._sub_norm(inner))

    def _attend(self, qkv: FloatArray) -> FloatArray:
        """Attention within one sequence: `[seq_len, query_key_value_size]` to heads, joined."""
        config = self.config
        seq_len, dim = len(qkv), config.head_dim
        # [heads, seq_len, head_dim]
        heads = qkv.reshape(seq_len, -1, dim).transpose(1, 0, 2)
        query, key, value = np.split(
            heads, [config.num_heads, config.num_heads + config.key_value_heads]
        )
        if config.positions == "rope":
            query, key = rotate(query, config.rope_theta), rotate(key, config.rope_theta)
        group = config.num_heads // config.key_value_heads
        key, value = np.repeat(key, group, axis=0), np.repeat(value, group, axis=0)

        scores = query @ key.transpose(0, 2, 1) / np.float32(np.sqrt(dim))
        if config.attention == "causal":
            seen = np.tri(seq_len, dtype=bool)
            if config.attention_window:
                seen ^= np.tri(seq_len, k=-config.attention_window, dtype=bool)
            scores = np.where(seen, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        attended: FloatArray = weights @ value
        return attended.transpose(1, 0, 2).reshape(seq_len, -1)

    def _norm(self, name: str, x: FloatArray) -> FloatArray:
        y = normalize(x, self.config) * self.tensors[f"{name}.weight"]
        return y + self.tensors[f"{name}.bias"] if self.config.norm == "layernorm" else y

    def _sub_norm(self, x: FloatArray) -> FloatArray:
        return normalize(x, self.config) if self.config.sub_norm else x

    def _pool(self, x: FloatArray, lengths: LengthArray) -> FloatArray:
        if self.config.pooling == "last":
            return x[np.cumsum(lengths) - 1]
        if self.config.pooling == "mean_max":
            parts = [part for _, part in _parts(x, lengths)]
            return np.stack([np.concatenate([p.mean(axis=0), p.max(axis=0)]) for p in parts])
        means = []
        for _, part in _parts(x, lengths):
            rising = np.arange(1.0, len(part) + 1)
            weights = rising if self.config.pooling == "weighted_mean" else np.ones(len(part))
            # The weights are float64, and so the sums are too.
            means.append(np.average(part, axis=0, weights=weights))
        return np.stack(means).astype(np.float32)


def _parts(x: FloatArray, lengths: LengthArray) -> list[tuple[int, FloatArray]]:
    return list(enumerate(Sequences(x, lengths).split()))


def normalize(x: FloatArray, config: ModelConfig) -> FloatArray:
    """LayerNorm (biased variance) or RMSNorm over the last axis, eps 1e-5, without affine."""
    if config.norm == "layernorm":
        x = x - x.mean(axis=-1, keepdims=True)
    variance: FloatArray = np.square(x).mean(axis=-1, keepdims=True)
    deviation: FloatArray = np.sqrt(variance + np.float32(EPS))
    return x / deviation


def silu(x: FloatArray) -> FloatArray:
    """`x * sigmoid(x)`, without overflow for any x."""
    half: FloatArray = x * np.float32(0.5)
    gate: FloatArray = np.float32(1) + np.tanh(half)
    return half * gate


def rotate(x: FloatArray, theta: float) -> FloatArray:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864), halves paired as in LLaMA.

    Args:
        x: `[heads, seq_len, head_dim]` float32.
    """
    half = x.shape[-1] // 2
    frequency = theta ** -(np.arange(half, dtype=np.float64) / half)
    angle = np.arange(x.shape[-2], dtype=np.float64)[:, None] * frequency
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
