"""From a trained BitNet to a packed file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tritserve.model.config import ModelConfig
from tritserve.model.engine.reference import Reference
from tritserve.model.errors import UserError
from tritserve.model.network.bitlinear import BitLinear
from tritserve.model.network.bitnet import BitNet
from tritserve.model.packed.content import PackedLayer, PackedModel
from tritserve.model.packed.file import parse, serialize
from tritserve.model.packed.golden import GOLDEN_CHANNELS, disagreement, golden_sequence
from tritserve.model.packed.layout import layout
from tritserve.model.packed.trits import pack_binary, pack_ternary
from tritserve.model.replace import replace_file
from tritserve.model.sequences import FloatArray
from tritserve.model.signature import NO_SIGNATURE, Signature


class ExportError(UserError):
    """A model that cannot be packed."""


def export(
    model: BitNet,
    path: Path | str,
    *,
    name: str,
    training: Mapping[str, Any],
    signature: Signature = NO_SIGNATURE,
) -> PackedModel:
    """Packs a model, checks that its packed form computes what the model computes, and writes it.

    What was at the path is replaced at once and only by a good file: after an error it is as it
    was, and who reads it meanwhile reads the old file or the new one.

    Args:
        model: a ternary or binary encoder; it is put into evaluation mode.
        path: of the packed file; its folder must exist.
        name: what the service calls the model.
        training: what it was trained on and scored; anything JSON can hold.
        signature: what features and labels mean, as far as that is known.

    Raises:
        OSError: the file cannot be written.
        PackedFileError: the content does not make a valid packed file.
        ExportError: the model is a float twin, or its packed form computes something else.
        ReplaceError: a folder or a device is at the path.
    """
    config = model.config
    if config.quantize == "none":
        raise ExportError("a model with quantize 'none' has no ternary or binary weights to pack")
    state = {key: value.detach().numpy() for key, value in model.state_dict().items()}
    expected = layout(config)
    layers = {key: _pack(model.get_submodule(key)) for key in expected.layers}
    tensors = {key: state[key] for key in expected.tensors}

    golden = golden_sequence(config, *_statistics(config, state))
    with torch.inference_mode():
        embedding = model.eval()(torch.from_numpy(golden)[None])[0].numpy()
    tensors |= {"golden.values": golden, "golden.embedding": embedding}
    if model.calibration:
        center, spread = model.calibration
        tensors |= {"calibration.center": center, "calibration.spread": spread}
    data = serialize(
        config=config,
        name=name,
        training=training,
        layers=layers,
        tensors=tensors,
        signature=signature,
    )
    packed = parse(data)
    computed = Reference(packed).embed(golden, np.array([len(golden)]))[0]
    if difference := disagreement(computed, embedding):
        raise ExportError(f"the packed model disagrees with the trained one: {difference}")
    replace_file(path, data)
    return packed


def _statistics(config: ModelConfig, state: Mapping[str, Any]) -> tuple[FloatArray, FloatArray]:
    """Mean and deviation of what the golden sequence is drawn from."""
    if config.channels:
        return np.zeros(GOLDEN_CHANNELS, np.float32), np.ones(GOLDEN_CHANNELS, np.float32)
    features = slice(config.embed_dim)
    return state["standardize.mean"][features], state["standardize.std"][features]


def _pack(layer: torch.nn.Module) -> PackedLayer:
    assert isinstance(layer, BitLinear)
    with torch.no_grad():
        trits, scale = layer.integer_weight()
    pack = pack_ternary if layer.quantize == "ternary" else pack_binary
    return PackedLayer(
        packed=pack(trits.to(torch.int8).numpy()),
        scale=scale.reshape(1).numpy(),
        bias=None if layer.bias is None else layer.bias.detach().numpy(),
        shape=(layer.out_features, layer.in_features),
    )
