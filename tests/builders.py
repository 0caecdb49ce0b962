"""Small models and batches that several tests build on."""

import io
from itertools import product
from pathlib import Path

import numpy as np
import torch

from tritserve.model.config import Channels, ModelConfig
from tritserve.model.engine.engine import Engine
from tritserve.model.network.bitnet import BitNet
from tritserve.model.packed.content import PackedModel
from tritserve.model.pretrained import EMBEDDED_MODELS
from tritserve.model.sequences import Sequences
from tritserve.model.training.export import export

# Every combination of the settings that change what a packed model computes.
_CHOICES = {
    "quantize": ["ternary", "binary"],
    "activations": ["int8", "float32"],
    "sub_norm": [False, True],
    "norm": ["layernorm", "rmsnorm"],
    "ffn": ["silu", "swiglu"],
    "positions": ["none", "rope"],
    "num_key_value_heads": [None, 2],
    "bias": [True, False],
    "attention": ["causal", "full"],
    "attention_window": [None, 7],
    "pooling": ["last", "mean", "weighted_mean", "mean_max"],
    "differences": [0, 2],
}
CHANNELS = {
    "embed_dim": None,
    "channels": Channels(points=24, patch=4, window=60, segments=4, shape_size=40, levels_size=12),
    "attention": "full",
    "pooling": "mean_max",
    "positions": "rope",
    "window_size": 1000,
}
SETTINGS = [
    options
    for picks in product(*_CHOICES.values())
    if (options := dict(zip(_CHOICES, picks, strict=True)))
    and not (options["attention"] == "full" and options["attention_window"])
]
ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
JAPANESE_VOWELS = EMBEDDED_MODELS["japanese-vowels"]
ATTACKS = Path(__file__).parent / "attacks"


def random_batch(lengths: list[int], embed_dim: int, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((sum(lengths), embed_dim), dtype=np.float32)
    return Sequences(values, np.array(lengths, dtype=np.int64))


def npy(array: np.ndarray, **options) -> bytes:
    """An array as the bytes of an `.npy` file; options are those of numpy's `write_array`."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def random_bitnet(seed: int = 0, **options) -> BitNet:
    """An untrained encoder whose norms, biases and standardisation are not the neutral ones."""
    torch.manual_seed(seed)
    fields = {"embed_dim": 5, "hidden_size": 16, "num_heads": 4, "num_layers": 2} | options
    model = BitNet(ModelConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.standardize.mean.copy_(torch.randn(model.config.input_size))
        model.standardize.std.copy_(torch.rand(model.config.input_size) + 0.5)
    return model


def random_packed(
    path: Path, seed: int = 0, name: str = "random", **options
) -> tuple[BitNet, PackedModel]:
    model = random_bitnet(seed, **options)
    return model, export(model, path, name=name, training={"seed": seed})


def shared_engine(packed: PackedModel, **options) -> Engine:
    """An engine whose threads share the smallest batch, which they would not do by themselves."""
    engine = Engine(packed, **options)
    engine._encoder.alone_work = 0
    return engine


def torch_embed(model: BitNet, batch: Sequences) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(batch.values), torch.from_numpy(batch.lengths)).numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
