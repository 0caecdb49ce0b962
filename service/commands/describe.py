"""A packed model as a table for people."""

import json
import math

from tritserve.model.packed.content import PackedModel, shares
from tritserve.model.signature import Signature
from tritserve.model.text import printable

FLOAT32_BITS = 32
_HEADER = (
    f"{'layer':38}{'shape':>14}{'-1':>7}{'0':>7}{'+1':>7}{'bits/weight':>13}"
    f"{'bytes':>12}{'float32':>13}{'ratio':>8}"
)


def describe(model: PackedModel) -> str:
    """Layers, shapes, shares of -1, 0 and +1, bits a weight, and size against float32."""
    config = model.config
    features = "any number of channels" if config.channels else f"{config.embed_dim} features"
    lines = [
        f"{printable(model.name)}: {config.quantize}, {features} to "
        f"{config.output_size} dimensions, {config.num_layers} layers, {config.num_heads} heads, "
        f"up to {config.max_timesteps} timesteps",
        f"revision {model.revision}",
        *_calibration(model),
        "",
        _HEADER,
    ]
    for name, layer in model.layers.items():
        shape = f"{layer.shape[0]} x {layer.shape[1]}"
        lines.append(
            f"{name:38}{shape:>14}"
            + "".join(f"{share:7.3f}" for share in shares(layer, config.quantize))
            + _size(layer.packed.nbytes, math.prod(layer.shape))
        )
    stored = sum(layer.packed.nbytes for layer in model.layers.values())
    lines += [
        f"{'all packed weights':73}" + _size(stored, model.packed_weights),
        f"{'whole file':73}" + _size(model.file_bytes, model.parameters),
        "",
        *_signature(model.signature),
        "training " + json.dumps(model.training, indent=2),
    ]
    return "\n".join(lines)


def _calibration(model: PackedModel) -> list[str]:
    """A line that tells by how many channels a model that sees them one by one is calibrated."""
    if not model.config.channels:
        return []
    if model.calibration is None:
        return ["not calibrated"]
    return [f"calibrated by {len(model.calibration[0])} channels"]


def _signature(signature: Signature) -> list[str]:
    """Lines that tell what is known of features and labels."""
    lines = [f"sampled at {signature.sampling_rate:g} Hz"] if signature.sampling_rate else []
    if signature.feature_names:
        units = signature.units or [""] * len(signature.feature_names)
        features = zip(signature.feature_names, units, strict=True)
        lines.append("features " + ", ".join(f"{n} ({u})" if u else n for n, u in features))
    elif signature.units:
        lines.append("units " + ", ".join(signature.units))
    if signature.classes:
        lines.append("classes " + ", ".join(signature.classes))
    return [*lines, ""] if lines else []


def _size(stored: int, weights: int) -> str:
    full = weights * FLOAT32_BITS // 8
    return f"{8 * stored / weights:13.3f}{stored:12,}{full:13,}{full / stored:7.1f}x"
