"""BitLinear: a linear layer that computes with ternary or binary weights and learns float ones.

Latent weights W `[out, in]` stay float32; each forward pass rounds them, and each timestep of the
input x `[..., in]`, and multiplies the integers:

    ternary     s_w = max(mean|W|, 1e-5)    T = clip(round(W / s_w), -1, 1)
    binary      s_w = max(mean|W|, 1e-5)    T = +1 where W >= 0, else -1
    activation  s_x = max(max|x|, 1e-5) / 127 per timestep, q = clip(round(x / s_x), -128, 127)
    output      y = (q @ T^T) * (s_x * s_w) + bias

`round` is half-to-even. The gradient is straight-through: it is that of `x @ W^T + bias` taken at
the rounded values, as if rounding, sign and clipping were the identity.

Sources: BitNet (Wang et al. 2023, arXiv 2310.11453, eq. 1-3), b1.58 (Ma et al. 2024, arXiv
2402.17764, eq. 1-3) and its official training tips.
"""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tritserve.model.config import Quantize

EPS = 1e-5


def ternarize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Absmean: trits `[out, in]` of -1, 0, +1 and their scale (a scalar), in the weight's dtype."""
    scale = weight.abs().mean().clamp(min=EPS)
    return (weight / scale).round().clamp(-1, 1), scale


def binarize(weight: Tensor, center: bool = False) -> tuple[Tensor, Tensor]:
    """Signs `[out, in]` of -1, +1 and their scale (a scalar): absmean of the uncentred W."""
    shift = weight.mean() if center else 0.0
    signs = (weight >= shift).to(weight.dtype).mul_(2).sub_(1)
    return signs, weight.abs().mean().clamp(min=EPS)


def ternarize_as_edifice(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Edifice's rule: `round(W / (mean|W| + 1e-6))`, halves away from zero, and a scale of 1."""
    scaled = weight / (weight.abs().mean() + 1e-6)
    # Clipped to -1 ... 1, rounding is one comparison. To add 0.5 and take the floor would not be:
    # the sum rounds up what is just below a half.
    trits = torch.sign(scaled) * (scaled.abs() >= 0.5)
    return trits, torch.ones((), dtype=weight.dtype)


def quantize_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Absmax per timestep: integers `[..., in]` held as floats, and scales `[..., 1]`."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=EPS) / 127
    return (x / scale).round_().clamp_(-128, 127), scale


class _BitMatmul(torch.autograd.Function):
    """`(q @ T^T) * (s_x * s_w)` forward, the straight-through gradient backward.

    The matmul runs on integers held as float32, which is exact below 2^24.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, q: Tensor, s_x: Tensor, trits: Tensor, s_w: Tensor
    ) -> Tensor:
        ctx.save_for_backward(q, s_x, trits, s_w)
        return (q @ trits.T).mul_(s_x * s_w)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, s_x, trits, s_w = ctx.saved_tensors
        grad_x = (grad * s_w) @ trits
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = grad.reshape(-1, len(trits)).T @ (q * s_x).reshape(-1, trits.shape[1])
        return grad_x, grad_weight, None, None, None, None


class BitLinear(nn.Linear):
    """A linear layer with ternary or binary weights.

    Args:
        quantize: `ternary`, `binary`, or `none` for an ordinary linear layer.
        activations: `int8` rounds the input to 8 bits per timestep, `float32` leaves it.
        weight_rule: `absmean`, or `edifice` for Edifice's rounding and a weight scale of 1.
        center_weights: binary only, subtract the mean weight before taking the sign.
        sub_norm: normalise the input, without affine, before it is quantised (SubLN).
        norm: which normalisation `sub_norm` uses.

    Raises:
        ValueError: `quantize`, `activations`, `weight_rule` or `norm` is none of its words.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        quantize: Quantize = "ternary",
        activations: Literal["int8", "float32"] = "int8",
        weight_rule: Literal["absmean", "edifice"] = "absmean",
        center_weights: bool = False,
        sub_norm: bool = False,
        norm: Literal["layernorm", "rmsnorm"] = "layernorm",
    ) -> None:
        super().__init__(in_features, out_features, bias=bias)
        for name, given, known in (
            ("quantize", quantize, get_args(Quantize)),
            ("activations", activations, ("int8", "float32")),
            ("weight_rule", weight_rule, ("absmean", "edifice")),
            ("norm", norm, ("layernorm", "rmsnorm")),
        ):
            if given not in known:
                raise ValueError(f"{name} is {given!r}; it must be one of {', '.join(known)}")
        self.quantize = quantize
        self.activations = activations
        self.weight_rule = weight_rule
        self.center_weights = center_weights
        self.sub_norm = sub_norm
        self.norm = norm

    def integer_weight(self) -> tuple[Tensor, Tensor]:
        """The weights as computed with: `[out, in]` of -1, 0, +1 held as floats, and their scale.

        Raises:
            ValueError: the layer is a float twin, which has none.
        """
        if self.quantize == "none":
            raise ValueError("a layer with quantize 'none' has no integer weights")
        if self.quantize == "ternary":
            rule = ternarize_as_edifice if self.weight_rule == "edifice" else ternarize
            return rule(self.weight)
        trits, scale = binarize(self.weight, self.center_weights)
        return trits, torch.ones_like(scale) if self.weight_rule == "edifice" else scale

    def normalized(self, x: Tensor) -> Tensor:
        """The input as it is quantised: normalised where the layer has SubLN."""
        if not self.sub_norm:
            return x
        normalize = F.layer_norm if self.norm == "layernorm" else F.rms_norm
        return normalize(x, (self.in_features,), eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`, float32."""
        x = self.normalized(x)
        if self.quantize == "none":
            return F.linear(x, self.weight, self.bias)
        with torch.no_grad():
            trits, s_w = self.integer_weight()
            if self.activations == "int8":
                q, s_x = quantize_activations(x)
            else:
                q, s_x = x, torch.ones((), dtype=x.dtype)
        y: Tensor = _BitMatmul.apply(x, self.weight, q, s_x, trits, s_w)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, quantize={self.quantize}, activations={self.activations}"
