"""Reads the parameters of an `Edifice.Feedforward.BitNet`.

Edifice keeps weights `[in, out]` under `<layer>/<layer>_weight`, and its forward pass differs from
its documentation: it rounds no activations, multiplies no weight scale back, and rounds halves
away from zero. The model returned here does as Edifice does, exactly.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tritserve.model.config import ModelConfig
from tritserve.model.network.bitnet import BitNet
from tritserve.model.network.block import BitNetBlock

# Edifice's layer after "<block>_", and ours within a block.
_BIT_LINEARS = {
    "attn_qkv": "attention.query_key_value",
    "attn_out": "attention.output",
    "ffn_up": "ffn.up",
    "ffn_down": "ffn.down",
}
_NORMS = {"attn_norm": "attention_norm", "ffn_norm": "ffn_norm"}

Params = Mapping[str, npt.ArrayLike]


def from_edifice(params: Params, options: Mapping[str, Any]) -> BitNet:
    """A BitNet that computes what Edifice computes from these parameters.

    Args:
        params: arrays by `<layer>/<parameter>`, as Edifice names and lays them out.
        options: the options of `Edifice.Feedforward.BitNet.build`.

    Raises:
        pydantic.ValidationError: an option is unknown or out of range.
        ValueError: a parameter is missing, left over or of the wrong shape.
    """
    model = BitNet(_config(options))
    left = dict(params)
    state: dict[str, Tensor] = {}
    if model.config.has_input_projection:
        state["input_projection.weight"] = _take(left, "input_projection/kernel").T
        state["input_projection.bias"] = _take(left, "input_projection/bias")
    for i in range(model.config.num_layers):
        block = _take_block(left, f"bitnet_block_{i + 1}")
        state |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
    state |= _take_norm(left, "final_norm", "final_norm")
    state["standardize.mean"] = model.standardize.mean
    state["standardize.std"] = model.standardize.std
    _load(model, state, left)
    return model.eval()


def block_from_edifice(params: Params, options: Mapping[str, Any], name: str) -> BitNetBlock:
    """One block, from the parameters of an Edifice block called `name`; otherwise as above."""
    block = BitNetBlock(_config({"embed_dim": options["hidden_size"], **options}))
    left = dict(params)
    _load(block, _take_block(left, name), left)
    return block.eval()


def _config(options: Mapping[str, Any]) -> ModelConfig:
    return ModelConfig(activations="float32", weight_rule="edifice", **options)


def _take(left: dict[str, npt.ArrayLike], name: str) -> Tensor:
    if name not in left:
        raise ValueError(f"parameter '{name}' is missing")
    return torch.from_numpy(np.array(left.pop(name), dtype=np.float32))


def _take_block(left: dict[str, npt.ArrayLike], block: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for theirs, ours in _BIT_LINEARS.items():
        layer = f"{block}_{theirs}"
        state[f"{ours}.weight"] = _take(left, f"{layer}/{layer}_weight").T
        state[f"{ours}.bias"] = _take(left, f"{layer}/{layer}_bias")
    for theirs, ours in _NORMS.items():
        state |= _take_norm(left, f"{block}_{theirs}", ours)
    return state


def _take_norm(left: dict[str, npt.ArrayLike], theirs: str, ours: str) -> dict[str, Tensor]:
    return {
        f"{ours}.weight": _take(left, f"{theirs}/gamma"),
        f"{ours}.bias": _take(left, f"{theirs}/beta"),
    }


def _load(
    module: torch.nn.Module, state: dict[str, Tensor], left: dict[str, npt.ArrayLike]
) -> None:
    if left:
        raise ValueError(f"the options have no place for the parameters {sorted(left)}")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"parameters do not fit the options: {error}") from error
