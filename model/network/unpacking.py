"""A packed model as the torch encoder that packs to the same bytes: where training can go on.

A packed layer has integer weights T `[out, in]` and their scale; what is trained are latent weights
that round to them. Absmean rounds W to T by the scale mean|W|, so each latent weight is T times
one magnitude, and as those that are zero count in the mean, the magnitude is the scale over the
share that is not zero. In float32 that mean is the scale only if no sum on its way rounds:
magnitudes are therefore whole multiples of a power of two whose total float32 holds, and to make up
the total, some of them are one multiple larger than the rest.
"""

import math

import numpy as np
import torch

from tritserve.model.errors import UserError
from tritserve.model.network.bitlinear import BitLinear
from tritserve.model.network.bitnet import BitNet
from tritserve.model.packed.content import PackedLayer, PackedModel, unpack
from tritserve.model.packed.layout import layout
from tritserve.model.sequences import FloatArray


class UnpackError(UserError):
    """A packed model that no latent weights round to."""


def from_packed(packed: PackedModel) -> BitNet:
    """The encoder, in training mode; packed again, it is byte for byte what it was.

    Raises:
        UnpackError: a layer has weights or scales that training does not come to.
    """
    model = BitNet(packed.config)
    model.calibration = packed.calibration
    state = {name: torch.from_numpy(packed.tensors[name]) for name in layout(packed.config).tensors}
    for name, layer in packed.layers.items():
        state[f"{name}.weight"] = torch.from_numpy(_latent(packed, layer))
        if layer.bias is not None:
            state[f"{name}.bias"] = torch.from_numpy(layer.bias)
    model.load_state_dict(state)
    for name, layer in packed.layers.items():
        _check(model.get_submodule(name), packed, layer, name)
    return model


def _latent(packed: PackedModel, layer: PackedLayer) -> FloatArray:
    integers = unpack(layer, packed.config.quantize)
    others = np.flatnonzero(integers)
    total = float(layer.scale[0]) * integers.size
    # A float32 holds every integer up to 2^24.
    unit = 2.0 ** (math.frexp(total)[1] - 24)
    each, more = divmod(round(total / unit), max(len(others), 1))
    magnitudes = np.full(len(others), each, np.int64)
    magnitudes[:more] += 1
    latent = integers.astype(np.float32)
    latent.flat[others] *= (magnitudes * unit).astype(np.float32)
    return latent


def _check(layer: torch.nn.Module, packed: PackedModel, wanted: PackedLayer, name: str) -> None:
    assert isinstance(layer, BitLinear)
    with torch.no_grad():
        integers, scale = layer.integer_weight()
    same = np.array_equal(integers.numpy(), unpack(wanted, packed.config.quantize))
    if not same or wanted.scale.tolist() != [scale.item()]:
        raise UnpackError(
            f"{name} of {packed.name} has weights or scales that no training comes to"
        )
