"""The packed file: a BitNet with its weights at 1.6 (ternary) or 1.0 (binary) bits each.

It is a safetensors file. Its metadata has four keys: `format` (`tritserve/1`), `config` (the
ModelConfig as JSON), `name` (1 to 200 letters), and `training` (JSON: what it was trained on and
scored). It may have a fifth, `signature`, and no other: what features and labels mean, as JSON of
`tritserve.model.signature.Signature`: `feature_names`, `units`, `sampling_rate` in Hz, `classes`,
each left out where it is not known.

Each BitLinear `L`, with weights `[out, in]`, is

- `L.packed`, uint8, flat: the weights in row-major order.
  Ternary: five to a byte, `byte = sum over i of (t[5j + i] + 1) * 3**i`, at most 242; the last
  byte is filled with zeros (code 1). Binary: eight to a byte, bit i is set where
  `t[8j + i] = +1`; the last byte is filled with zero bits.
- `L.scale`, float32, `[1]` or `[out]`: multiplies the integer weights.
- `L.bias`, float32, `[out]`, where the model has biases.

Everything else is float32 by name: the input standardisation (`standardize.mean` and `.std`,
`[input_size]`), the input projection, the norms, and one golden vector by which an engine can tell
that it computes what the exporter computed: `golden.values` `[timesteps, embed_dim]`, drawn from
the statistics of the training data, and `golden.embedding` `[output_size]`. `layout` lists it all
for a configuration. `revision` is the sha256 of the file.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from pydantic import ValidationError

from tritserve.model.config import MAX_NAME, ModelConfig
from tritserve.model.errors import UserError, explain
from tritserve.model.packed.content import PackedLayer, PackedModel, unpack
from tritserve.model.packed.golden import GOLDEN_CHANNELS
from tritserve.model.packed.layout import Layout, layout
from tritserve.model.packed.tensors import read_header, read_metadata, save_tensors
from tritserve.model.packed.trits import TritError, packed_size
from tritserve.model.sequences import FloatArray
from tritserve.model.signature import NO_SIGNATURE, FeatureError, Signature

FORMAT = "tritserve/1"
METADATA_KEYS = {"format", "config", "name", "training"}
SIGNATURE_KEY = "signature"

# What the safetensors reader says, and what it means for the file.
_READER_HINTS = {
    "header too small": "the file is shorter than the 8 bytes of its header's length",
    "header too large": "a header has at most 100 MB",
    "invalid header length": "the file ends before its header does",
    "invalid offset": "the bytes of tensors overlap, leave a gap or run backwards",
    "incomplete metadata": "the tensors end before or after the file does",
    "invalid shape": "a tensor's shape and type do not match its number of bytes",
}


class PackedFileError(UserError):
    """A packed file that is damaged, hostile or not of this format; the message says where."""


def serialize(
    *,
    config: ModelConfig,
    name: str,
    training: Mapping[str, Any],
    layers: Mapping[str, PackedLayer],
    tensors: Mapping[str, FloatArray],
    signature: Signature = NO_SIGNATURE,
) -> bytes:
    """A packed file's bytes; the same content gives the same ones. `parse` checks them."""
    arrays: dict[str, npt.NDArray[Any]] = dict(tensors)
    for layer_name, layer in layers.items():
        arrays[f"{layer_name}.packed"] = layer.packed
        arrays[f"{layer_name}.scale"] = layer.scale
        if layer.bias is not None:
            arrays[f"{layer_name}.bias"] = layer.bias
    metadata = {
        "format": FORMAT,
        "config": config.model_dump_json(),
        "name": name,
        "training": json.dumps(training, sort_keys=True, allow_nan=False),
    }
    if known := signature.known():
        metadata[SIGNATURE_KEY] = json.dumps(known)
    return _sort_metadata(save_tensors(arrays, metadata))


def _sort_metadata(data: bytes) -> bytes:
    # The library writes metadata in random order; a revision must not depend on chance.
    header, start = read_header(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[start:]


def read(path: Path | str) -> PackedModel:
    """Reads and checks a packed file whole.

    Raises:
        OSError: the file cannot be read.
        PackedFileError: it is not a valid packed file; the message says what is wrong.
    """
    try:
        return parse(Path(path).read_bytes())
    except PackedFileError as error:
        raise PackedFileError(f"{path}: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def parse(data: bytes) -> PackedModel:
    """Checks a packed file's bytes whole and returns their content.

    Raises:
        PackedFileError: they are not a valid packed file.
    """
    arrays = _parse_tensors(data)
    metadata = read_metadata(data)
    if metadata.get("format") != FORMAT:
        raise PackedFileError(
            f"metadata 'format' is {metadata.get('format')!r}; this version reads {FORMAT!r}"
        )
    if metadata.keys() - {SIGNATURE_KEY} != METADATA_KEYS:
        raise PackedFileError(
            f"metadata keys are {sorted(metadata)}; they must be {sorted(METADATA_KEYS)}, and may "
            f"be '{SIGNATURE_KEY}' too"
        )
    if not 1 <= len(metadata["name"]) <= MAX_NAME:
        letters = len(metadata["name"])
        raise PackedFileError(
            f"metadata 'name' has {letters} letters; it must have 1 to {MAX_NAME}"
        )
    try:
        config = ModelConfig.model_validate_json(metadata["config"])
    except ValidationError as error:
        raise PackedFileError(
            f"metadata 'config' is not a valid ModelConfig: {explain(error)}"
        ) from error
    if config.quantize == "none":
        raise PackedFileError("config has quantize 'none'; a packed file is ternary or binary")
    try:
        training = json.loads(metadata["training"], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise PackedFileError(f"metadata 'training' is not JSON: {error}") from error
    if not isinstance(training, dict):
        raise PackedFileError("metadata 'training' is not a JSON object")

    expected = layout(config)
    golden = _take_golden(arrays, config)
    layers = {name: _take_layer(arrays, name, expected, config) for name in expected.layers}
    tensors = {
        name: _take(arrays, name, np.dtype(np.float32), [shape])
        for name, shape in expected.tensors.items()
    }
    calibration = _take_calibration(arrays, config)
    signature = _parse_signature(metadata, config, calibration)
    tensors |= calibration
    if arrays:
        raise PackedFileError(f"unknown tensors, the config has no place for them: {list(arrays)}")
    for name in ("standardize.std", "join.std"):
        if name in tensors and (tensors[name] <= 0).any():
            raise PackedFileError(f"{name} must be above zero everywhere")
    return PackedModel(
        config=config,
        name=metadata["name"],
        training=training,
        signature=signature,
        layers=layers,
        tensors=tensors | golden,
        revision=hashlib.sha256(data).hexdigest(),
        file_bytes=len(data),
    )


def _parse_signature(
    metadata: Mapping[str, str], config: ModelConfig, calibration: Mapping[str, FloatArray]
) -> Signature:
    center = calibration.get("calibration.center")
    try:
        signature = Signature.model_validate_json(metadata.get(SIGNATURE_KEY, "{}"))
        signature.check_width(config.embed_dim if center is None else len(center))
    except ValidationError as error:
        raise PackedFileError(f"metadata 'signature' is not valid: {explain(error)}") from error
    except FeatureError as error:
        raise PackedFileError(f"metadata 'signature' does not fit the config: {error}") from error
    return signature


def _parse_tensors(data: bytes) -> dict[str, npt.NDArray[Any]]:
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        text = str(error).removeprefix("Error while deserializing: ")
        hint = next((f" ({why})" for said, why in _READER_HINTS.items() if said in text), "")
        raise PackedFileError(f"not a valid safetensors file: {text}{hint}") from error
    except KeyError as error:
        raise PackedFileError(f"a tensor has the type {error}; only U8 and F32 occur") from error


def _take(
    arrays: dict[str, npt.NDArray[Any]],
    name: str,
    dtype: np.dtype[Any],
    shapes: list[tuple[int, ...]],
) -> npt.NDArray[Any]:
    if name not in arrays:
        raise PackedFileError(f"tensor '{name}' is missing; the config asks for it")
    array = arrays.pop(name)
    if array.dtype != dtype or array.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise PackedFileError(
            f"tensor '{name}' is {array.dtype} {list(array.shape)}; it must be {dtype} {wanted}"
        )
    if dtype == np.float32 and not np.isfinite(array).all():
        raise PackedFileError(f"tensor '{name}' holds a value that is NaN or infinite")
    return array


def _take_layer(
    arrays: dict[str, npt.NDArray[Any]], name: str, expected: Layout, config: ModelConfig
) -> PackedLayer:
    shape = expected.layers[name]
    size = packed_size(math.prod(shape), config.quantize)
    packed = _take(arrays, f"{name}.packed", np.dtype(np.uint8), [(size,)])
    scale = _take(arrays, f"{name}.scale", np.dtype(np.float32), [(1,), shape[:1]])
    bias = _take(arrays, f"{name}.bias", np.dtype(np.float32), [shape[:1]]) if config.bias else None
    if (scale <= 0).any():
        raise PackedFileError(f"tensor '{name}.scale' must be above zero")
    layer = PackedLayer(packed, scale, bias, shape)
    try:
        unpack(layer, config.quantize)
    except TritError as error:
        raise PackedFileError(f"tensor '{name}.packed': {error}") from error
    return layer


def _take_calibration(
    arrays: dict[str, npt.NDArray[Any]], config: ModelConfig
) -> dict[str, FloatArray]:
    names = ("calibration.center", "calibration.spread")
    if not config.channels or not set(names) & set(arrays):
        return {}
    shape = (arrays[names[0]].size if names[0] in arrays else 0,)
    taken = {name: _take(arrays, name, np.dtype(np.float32), [shape]) for name in names}
    if (taken["calibration.spread"] <= 0).any():
        raise PackedFileError("calibration.spread must be above zero everywhere")
    return taken


def _take_golden(arrays: dict[str, npt.NDArray[Any]], config: ModelConfig) -> dict[str, FloatArray]:
    # The golden sequence may have any length the model takes, so its own first axis is the norm.
    values = arrays.get("golden.values")
    timesteps = 0 if values is None or not values.ndim else len(values)
    if not 1 <= timesteps <= config.max_timesteps:
        raise PackedFileError(
            f"'golden.values' is missing or not 1 to {config.max_timesteps} timesteps long"
        )
    shapes: dict[str, tuple[int, ...]] = {
        "golden.values": (timesteps, config.embed_dim or GOLDEN_CHANNELS),
        "golden.embedding": (config.output_size,),
    }
    return {
        name: _take(arrays, name, np.dtype(np.float32), [shape]) for name, shape in shapes.items()
    }
