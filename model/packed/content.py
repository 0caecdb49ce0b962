"""What a packed file holds, as it is read and written."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tritserve.model.channels import Calibration
from tritserve.model.config import ModelConfig, Quantize
from tritserve.model.packed.trits import Bytes, Trits, unpack_binary, unpack_ternary
from tritserve.model.sequences import FloatArray
from tritserve.model.signature import Signature


@dataclass(frozen=True)
class PackedLayer:
    """One BitLinear.

    Attributes:
        packed: flat uint8, as in the file.
        scale: float32 `[1]` or `[out]`; multiplies the integer weights.
        bias: float32 `[out]`, or None.
        shape: `(out, in)`.
    """

    packed: Bytes
    scale: FloatArray
    bias: FloatArray | None
    shape: tuple[int, int]


@dataclass(frozen=True)
class PackedModel:
    """A packed file's content, checked whole.

    Attributes:
        layers: the BitLinears by name.
        tensors: everything else by name, float32.
        training: what the model was trained on and scored.
        signature: what features and labels mean, as far as that is known.
        revision: sha256 of the file, in hex.
        file_bytes: size of the file.
    """

    config: ModelConfig
    name: str
    training: dict[str, Any]
    signature: Signature
    layers: dict[str, PackedLayer]
    tensors: dict[str, FloatArray]
    revision: str
    file_bytes: int

    @property
    def calibration(self) -> Calibration | None:
        """What channels seen one by one are calibrated by, where the model knows any."""
        center = self.tensors.get("calibration.center")
        return None if center is None else (center, self.tensors["calibration.spread"])

    @property
    def packed_weights(self) -> int:
        """Number of ternary or binary weights."""
        return sum(math.prod(layer.shape) for layer in self.layers.values())

    @property
    def parameters(self) -> int:
        """Number of all parameters: packed weights, scales, biases, norms, input projection."""
        floats = sum(
            layer.scale.size + (0 if layer.bias is None else layer.bias.size)
            for layer in self.layers.values()
        )
        others = sum(
            array.size for name, array in self.tensors.items() if not name.startswith("golden.")
        )
        return self.packed_weights + floats + others

    @property
    def bits_per_weight(self) -> float:
        """Stored bits of the packed weights over their number."""
        stored = sum(layer.packed.nbytes for layer in self.layers.values())
        return 8 * stored / self.packed_weights

    @property
    def nominal_bits_per_weight(self) -> float:
        """Information of one weight: log2(3) ternary, 1 binary."""
        return math.log2(3) if self.config.quantize == "ternary" else 1.0

    @property
    def bits_per_parameter(self) -> float:
        """The whole file's bits over all parameters."""
        return 8 * self.file_bytes / self.parameters


def unpack(layer: PackedLayer, quantize: Quantize) -> Trits:
    """The integer weights of a layer, int8 `[out, in]`."""
    decode = unpack_ternary if quantize == "ternary" else unpack_binary
    return decode(layer.packed, math.prod(layer.shape)).reshape(layer.shape)


def shares(layer: PackedLayer, quantize: Quantize) -> list[float]:
    """Which shares of a layer's weights are -1, 0 and +1."""
    weights = unpack(layer, quantize)
    return [int(np.count_nonzero(weights == value)) / weights.size for value in (-1, 0, 1)]
