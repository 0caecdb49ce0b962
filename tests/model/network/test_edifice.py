"""Held to outputs of the real Edifice, at the tolerances of its golden files."""

import json
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import ROOT
from tritserve.model.engine.engine import Engine
from tritserve.model.network.bitlinear import BitLinear
from tritserve.model.network.block import Places
from tritserve.model.network.edifice import block_from_edifice, from_edifice
from tritserve.model.training.export import export

GOLDEN = ROOT / "tests" / "golden" / "edifice"
OPTIONS = {"embed_dim", "hidden_size", "num_heads", "num_layers", "dropout", "window_size"}


def read(name):
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        content = {key: arrays[key] for key in arrays.files}
    config = json.loads(str(content.pop("config")))
    params = {k.removeprefix("params/"): v for k, v in content.items() if k.startswith("params/")}
    options = {k: v for k, v in config.items() if k in OPTIONS | {"quantize"}}
    return content, params, options


@pytest.mark.parametrize("name", ["case1_ternary_e32_h64", "case2_binary_e32_h64"])
def test_a_whole_encoder_computes_what_edifice_computes(name, tmp_path):
    content, params, options = read(name)
    model = from_edifice(params, options)
    with torch.inference_mode():
        output = model(torch.from_numpy(content["input"])).numpy()
    np.testing.assert_allclose(output, content["output"], rtol=0, atol=5e-5)

    # Packed and served, it still does.
    export(model, tmp_path / "m", name="edifice", training={})
    batch, seq_len, width = content["input"].shape
    values = content["input"].reshape(batch * seq_len, width)
    embeddings = Engine.load(tmp_path / "m").embed(values, np.full(batch, seq_len))
    np.testing.assert_allclose(embeddings, content["output"], rtol=0, atol=5e-5)


def test_a_block_computes_what_edifice_computes_at_all_positions():
    content, params, options = read("case6_block_ternary_h48_heads3")
    block = block_from_edifice(params, options, "blk")
    batch, seq_len, width = content["input"].shape
    x = torch.from_numpy(content["input"]).flatten(0, 1)
    with torch.inference_mode():
        places = Places(block.attention.config, torch.full((batch,), seq_len))
        output = block(x, places).numpy()
    np.testing.assert_allclose(
        output.reshape(batch, seq_len, width), content["output"], rtol=1e-5, atol=1e-3
    )


@pytest.mark.parametrize("quantize", ["ternary", "binary"])
def test_a_layer_computes_what_edifice_computes(quantize):
    content, _, _ = read(f"case5_bitlinear_{quantize}")
    layer = BitLinear(32, 48, quantize=quantize, activations="float32", weight_rule="edifice")
    layer.load_state_dict(
        {
            "weight": torch.from_numpy(content["weight"]).T,
            "bias": torch.from_numpy(content["bias"]),
        }
    )
    with torch.inference_mode():
        output = layer(torch.from_numpy(content["input"])).numpy()
    np.testing.assert_allclose(output, content["output"], rtol=1e-5, atol=1e-4)


def test_parameters_that_do_not_fit_are_named():
    _, params, options = read("case1_ternary_e32_h64")
    with pytest.raises(ValueError, match="'final_norm/gamma' is missing"):
        from_edifice({k: v for k, v in params.items() if k != "final_norm/gamma"}, options)
    with pytest.raises(ValueError, match=r"no place for the parameters .*block_2"):
        from_edifice(params, options | {"num_layers": 1})
    with pytest.raises(ValueError, match="size mismatch"):
        from_edifice(params | {"final_norm/gamma": np.ones(3)}, options)


def edifice_trits(weight):
    """The trits `[in, out]` of a layer of Edifice's with these weights `[in, out]`."""
    layer = BitLinear(*weight.shape, activations="float32", weight_rule="edifice", bias=False)
    layer.load_state_dict({"weight": torch.from_numpy(weight).T})
    trits, scale = layer.integer_weight()
    assert scale == 1
    return trits.T.int().tolist()


def test_a_weight_next_to_a_half_is_rounded_as_edifice_rounds_it():
    weight = [
        [32, -32, 96, -96],
        [0, -0.0, 128, -128],
        [31.999998, -31.999998, 96, -96],
        [32.000004, -32.000004, 96, -96],
    ]
    assert edifice_trits(np.array(weight, np.float32)) == [
        [1, -1, 1, -1],
        [0, 0, 1, -1],
        [0, 0, 1, -1],
        [1, -1, 1, -1],
    ]


@given(
    steps=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    signs=st.lists(st.sampled_from([-1, 1]), min_size=30, max_size=30),
    exponent=st.integers(-4, 12),
)
def test_halves_are_rounded_away_from_zero_exactly(steps, signs, exponent):
    # About half their mean, on either side by a few steps of float32.
    low, high = 2.0**-19, 2.0**-18
    magnitudes = [w for n in steps for w in (32 - n * low, 32 - n * low, 32 + n * high, 96, 96, 96)]
    weight = np.array([magnitudes], np.float32) * np.float32(2.0**exponent)
    weight *= np.array(signs[: weight.size], np.float32)
    numbers = torch.from_numpy(weight)
    scaled = numbers / (numbers.abs().mean() + 1e-6)
    exact = [int(Decimal(x).to_integral_value(ROUND_HALF_UP)) for x in scaled[0].tolist()]
    assert edifice_trits(weight) == [np.clip(exact, -1, 1).tolist()]
