"""Which tensors a model has: names and shapes, as in the packed file and in the torch module."""

from dataclasses import dataclass

from tritserve.model.config import ModelConfig

_BLOCK_PARTS = ("attention", "ffn")


@dataclass(frozen=True)
class Layout:
    """The tensors that a configuration asks for.

    Attributes:
        layers: `(out, in)` of each BitLinear by name.
        tensors: shape of each float32 tensor by name; the golden vector is not among them.
    """

    layers: dict[str, tuple[int, int]]
    tensors: dict[str, tuple[int, ...]]


def layout(config: ModelConfig) -> Layout:
    """Names and shapes of everything a model of this configuration holds."""
    hidden, inner = config.hidden_size, config.inner_size
    layers: dict[str, tuple[int, int]] = {}
    norms = [f"blocks.{i}.{part}_norm" for i in range(config.num_layers) for part in _BLOCK_PARTS]
    for i in range(config.num_layers):
        attention, ffn = (f"blocks.{i}.{part}" for part in _BLOCK_PARTS)
        layers[f"{attention}.query_key_value"] = (config.query_key_value_size, hidden)
        layers[f"{attention}.output"] = (hidden, config.num_heads * config.head_dim)
        if config.ffn == "swiglu":
            layers[f"{ffn}.gate"] = (inner, hidden)
        layers[f"{ffn}.up"] = (inner, hidden)
        layers[f"{ffn}.down"] = (hidden, inner)

    tensors: dict[str, tuple[int, ...]] = {
        "standardize.mean": (config.input_size,),
        "standardize.std": (config.input_size,),
    }
    if config.has_input_projection:
        tensors["input_projection.weight"] = (hidden, config.input_size)
        tensors["input_projection.bias"] = (hidden,)
    for norm in [*norms, "final_norm"]:
        tensors[f"{norm}.weight"] = (hidden,)
        if config.norm == "layernorm":
            tensors[f"{norm}.bias"] = (hidden,)
    if config.channels:
        layers["join.shape"] = (config.channels.shape_size, config.pooled_size)
        layers["join.levels"] = (config.channels.levels_size, config.channels.levels)
        tensors["join.mean"] = tensors["join.std"] = (config.pooled_size,)
    return Layout(layers, tensors)
