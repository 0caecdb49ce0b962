"""The one configuration type of a BitNet sequence encoder.

It is validated once, where it enters (a training config, a checkpoint, a packed file), and
unknown fields are errors. Field names and defaults are those of `Edifice.Feedforward.BitNet`;
the fields after `quantize` are settings that Edifice does not have.
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Quantize = Literal["ternary", "binary", "none"]

MAX_WIDTH = 65_536
MAX_TIMESTEPS = 1_048_576
MAX_STRIDE = 1_024
# What is told of a channel beside the means of segments.
LEVELS = 7
# Letters of a model's name.
MAX_NAME = 200


class Channels(BaseModel):
    """How channels are seen one by one, and joined; `model/channels.py` tells what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    points: int = Field(default=128, ge=1, le=4096)
    """Points in time at which a window is drawn."""
    patch: int = Field(default=8, ge=1, le=256)
    """Points to a token."""
    window: int = Field(default=1024, ge=1, le=MAX_TIMESTEPS)
    """The longest window, in timesteps."""
    segments: int = Field(default=16, ge=1, le=256)
    """Spans of time whose means stand among the levels."""
    shape_size: int = Field(default=768, ge=1, le=16_384)
    """Numbers of a joined embedding that tell of the channels' shapes."""
    levels_size: int = Field(default=256, ge=1, le=16_384)
    """Numbers of a joined embedding that tell of their levels."""

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        if self.points % self.patch:
            raise ValueError(f"points {self.points} must be a multiple of patch {self.patch}")
        return self

    @property
    def token_size(self) -> int:
        """Numbers in a token: points, differences, mean and deviation."""
        return 2 * self.patch + 2

    @property
    def tokens(self) -> int:
        """Tokens of a window."""
        return self.points // self.patch

    @property
    def levels(self) -> int:
        """Numbers that tell of a channel's level, scale and change."""
        return LEVELS + self.segments

    @property
    def joined_size(self) -> int:
        """Numbers in the embedding of a sequence, whatever the number of its channels."""
        return self.shape_size + self.levels_size


class ModelConfig(BaseModel):
    """What a BitNet encoder is made of.

    Raises:
        pydantic.ValidationError: a field is unknown, missing, of the wrong type or out of range,
            or two fields contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    embed_dim: int | None = Field(default=None, ge=1, le=MAX_WIDTH)
    """Features per timestep of the input; none where channels are seen one by one, for then there
    may be any number of them."""
    channels: Channels | None = None
    """Whether and how channels are seen one by one."""
    hidden_size: int = Field(default=256, ge=1, le=16_384)
    """Width of the encoder and of its embeddings."""
    num_heads: int = Field(default=4, ge=1, le=1_024)
    num_layers: int = Field(default=4, ge=1, le=256)
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Probability of dropping an activation; training only."""
    window_size: int = Field(default=60, ge=1, le=MAX_TIMESTEPS)
    """The longest sequence the model takes, in timesteps."""
    seq_len: int | None = Field(default=None, ge=1, le=MAX_TIMESTEPS)
    """Overrides `window_size` when given."""
    quantize: Quantize = "ternary"
    """Weights of the BitLinear layers; `none` is the float twin."""

    activations: Literal["int8", "float32"] = "int8"
    """Whether a BitLinear rounds its input to 8 bits per timestep (absmax) or not."""
    weight_rule: Literal["absmean", "edifice"] = "absmean"
    """`absmean` as the papers; `edifice` rounds as Edifice does and keeps a weight scale of 1."""
    center_weights: bool = False
    """Binary only: subtract the mean weight before taking the sign (BitNet, eq. 1-3)."""
    sub_norm: bool = False
    """Normalise, without affine, inside the attention-output and FFN-down BitLinears (SubLN)."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    ffn: Literal["silu", "swiglu"] = "silu"
    ffn_size: int | None = Field(default=None, ge=1, le=65_536)
    """Inner width of the feed-forward network; 4 * hidden_size when not given."""
    positions: Literal["none", "rope"] = "none"
    rope_theta: float = Field(default=10_000.0, gt=1.0, allow_inf_nan=False)
    num_key_value_heads: int | None = Field(default=None, ge=1, le=1_024)
    """Grouped key/value heads; as many as `num_heads` when not given."""
    bias: bool = True
    """Whether the BitLinear layers have a bias."""
    attention: Literal["causal", "full"] = "causal"
    """Whether a timestep attends to itself and those before it, or to its whole sequence."""
    attention_window: int | None = Field(default=None, ge=1, le=MAX_TIMESTEPS)
    """Causal only: how many timesteps a timestep attends to at most, itself and those right before
    it (sliding window, Jiang et al. 2023, arXiv 2310.06825); where `stride` is above 1, of the
    averaged ones. All of them when not given."""
    pooling: Literal["last", "mean", "weighted_mean", "mean_max"] = "last"
    """How timesteps become one embedding; `weighted_mean` weights them 1, 2, 3, ..., as later ones
    have seen more (SGPT, Muennighoff 2022, arXiv 2202.08904, eq. 2); `mean_max` is the mean, and
    after it the largest of each number: twice as wide."""
    stride: int = Field(default=1, ge=1, le=MAX_STRIDE)
    """Timesteps averaged into one before anything else; the last ones may be fewer."""
    differences: int = Field(default=0, ge=0, le=2)
    """Orders of differences over time that follow each timestep's features."""

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        if (self.embed_dim is None) == (self.channels is None):
            raise ValueError("a model has either an embed_dim or channels")
        if self.channels and (self.stride > 1 or self.differences):
            raise ValueError("where channels are seen one by one, stride is 1 and differences 0")
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}"
            )
        if self.num_heads % self.key_value_heads:
            raise ValueError(
                f"num_heads {self.num_heads} must be a multiple of "
                f"num_key_value_heads {self.key_value_heads}"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"rope needs an even head size, not {self.head_dim}")
        if self.attention_window and self.attention == "full":
            raise ValueError("attention_window is for causal attention, not full")
        if self.center_weights and self.quantize != "binary":
            raise ValueError(f"center_weights is for binary weights, not {self.quantize}")
        if self.weight_rule == "edifice" and (
            self.quantize == "none" or self.activations == "int8"
        ):
            raise ValueError(
                "weight_rule 'edifice' needs quantize 'ternary' or 'binary' and "
                "activations 'float32': Edifice rounds no activations"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def key_value_heads(self) -> int:
        """Number of key (and of value) heads."""
        return self.num_key_value_heads or self.num_heads

    @property
    def query_key_value_size(self) -> int:
        """Output features of the joint query, key and value projection."""
        return (self.num_heads + 2 * self.key_value_heads) * self.head_dim

    @property
    def inner_size(self) -> int:
        """Inner width of the feed-forward network."""
        return self.ffn_size or 4 * self.hidden_size

    @property
    def features(self) -> int:
        """Features per timestep, where their number is the model's own."""
        assert self.embed_dim is not None
        return self.embed_dim

    @property
    def input_size(self) -> int:
        """Numbers of one input of the encoder: features and their differences, or a token."""
        if self.channels:
            return self.channels.token_size
        return (1 + self.differences) * self.features

    @property
    def pooled_size(self) -> int:
        """Numbers that a sequence's timesteps, or a window's tokens, are pooled to."""
        return (2 if self.pooling == "mean_max" else 1) * self.hidden_size

    @property
    def output_size(self) -> int:
        """Numbers in an embedding."""
        return self.channels.joined_size if self.channels else self.pooled_size

    @property
    def channel_size(self) -> int:
        """Numbers of each channel in an embedding that keeps channels apart."""
        assert self.channels
        return self.pooled_size + self.channels.levels

    @property
    def max_timesteps(self) -> int:
        """The longest sequence the model takes."""
        return self.seq_len or self.window_size

    @property
    def has_input_projection(self) -> bool:
        """Whether a dense layer maps `input_size` to `hidden_size` before the first block."""
        return self.input_size != self.hidden_size
