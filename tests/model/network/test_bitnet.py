import numpy as np
import pytest
import torch

from tests.builders import cosines, random_batch, random_bitnet, torch_embed
from tritserve.model.config import ModelConfig
from tritserve.model.network.bitlinear import BitLinear
from tritserve.model.network.bitnet import BitNet, bitlinear, build, build_bitnet_block
from tritserve.model.network.block import Places
from tritserve.model.packed.layout import layout

SETTINGS = [
    {},
    {"quantize": "binary"},
    {"quantize": "none"},
    {"pooling": "mean", "differences": 2},
    {"pooling": "weighted_mean"},
    {"sub_norm": True, "activations": "float32"},
    {"attention_window": 5, "positions": "rope"},
    {
        "norm": "rmsnorm",
        "ffn": "swiglu",
        "positions": "rope",
        "bias": False,
        "sub_norm": True,
        "num_key_value_heads": 2,
    },
]


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_padding_changes_no_answer(options):
    model = random_bitnet(**options)
    batch = random_batch([3, 1, 60, 17], 5)
    together = torch_embed(model, batch)
    for row in range(len(batch)):
        alone = torch_embed(model, batch.select([row]))
        assert cosines(alone, together[[row]])[0] > 0.9999


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_a_timestep_sees_only_its_past(options):
    model = random_bitnet(**options)
    batch = random_batch([20], 5)
    changed = batch.values.copy()
    changed[12:] += 1
    lengths = torch.tensor([20])
    with torch.inference_mode():
        before = model.encode(*model.read(torch.from_numpy(batch.values), lengths))
        after = model.encode(*model.read(torch.from_numpy(changed), lengths))
    torch.testing.assert_close(before[:12], after[:12])
    assert not torch.allclose(before[12:], after[12:])


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_parameters_are_those_of_the_layout(options):
    model = random_bitnet(**options)
    wanted = layout(model.config)
    names = {f"{name}.weight" for name in wanted.layers} | set(wanted.tensors)
    if model.config.bias:
        names |= {f"{name}.bias" for name in wanted.layers}
    state = model.state_dict()
    assert set(state) == names
    assert all(tuple(state[f"{k}.weight"].shape) == v for k, v in wanted.layers.items())
    assert all(tuple(state[k].shape) == v for k, v in wanted.tensors.items())


def test_rope_tells_orders_apart_at_equal_distance_from_the_end():
    # Without positions, causal attention over one layer sees a set of past timesteps.
    batch = random_batch([3], 5)
    swapped = batch.values[[1, 0, 2]]
    for positions, differs in [("none", False), ("rope", True)]:
        model = random_bitnet(num_layers=1, positions=positions, activations="float32")
        a = torch_embed(model, batch)
        b = torch_embed(model, type(batch)(swapped, batch.lengths))
        assert np.allclose(a, b, atol=1e-5) != differs


def test_dense_and_ragged_batches_agree():
    model = random_bitnet()
    batch = random_batch([9, 9], 5)
    dense = torch.from_numpy(batch.values).reshape(2, 9, 5)
    with torch.inference_mode():
        np.testing.assert_array_equal(model(dense).numpy(), torch_embed(model, batch))


def test_inputs_that_do_not_fit_are_errors():
    model = random_bitnet(window_size=8)
    with pytest.raises(ValueError, match="has 9 timesteps; this model takes at most 8"):
        torch_embed(model, random_batch([9], 5))
    batch = random_batch([4, 4], 5)
    with pytest.raises(ValueError, match="add up to 7 timesteps, values hold 8"):
        model(torch.from_numpy(batch.values), torch.tensor([4, 3]))
    for lengths in ([8, 0], [9, -1]):
        with pytest.raises(ValueError, match=rf"has length {lengths[1]}; it must be 1 or more"):
            model(torch.from_numpy(batch.values), torch.tensor(lengths))
    with pytest.raises(ValueError, match="has length 0"):
        model(torch.zeros(2, 0, 5))


def test_the_seeds_functions_build_its_parts():
    model = build(embed_dim=6, hidden_size=32, num_layers=3, quantize="binary")
    assert isinstance(model, BitNet)
    assert len(model.blocks) == 3
    assert model(torch.randn(2, 5, 6)).shape == (2, 32)
    assert build(embed_dim=32, hidden_size=32).input_projection is None
    block = build_bitnet_block(hidden_size=16, num_heads=2)
    places = Places(block.attention.config, torch.tensor([3, 4]))
    assert block(torch.randn(7, 16), places).shape == (7, 16)
    assert bitlinear(8, 3, quantize="binary").quantize == "binary"


@pytest.mark.parametrize("quantize", ["ternary", "binary"])
def test_bitlinear_weights_alone_learn_what_edifice_cannot(quantize):
    """Which of two timesteps came first, learned by nothing but the BitLinear weights.

    In Edifice every one of these gradients is exactly zero, so its loss could not move.
    """
    torch.manual_seed(0)
    config = ModelConfig(
        embed_dim=4, hidden_size=32, num_layers=2, quantize=quantize, dropout=0.0, positions="rope"
    )
    model = BitNet(config)
    head = torch.nn.Linear(32, 2)
    weights = [m.weight for m in model.modules() if isinstance(m, BitLinear)]
    assert len(weights) == 8

    def batch(count):
        order = torch.randint(2, (count,))
        x = 0.3 * torch.randn(count, 8, 4)
        x[torch.arange(count), 2 + 3 * order, 0] += 3
        x[torch.arange(count), 5 - 3 * order, 1] += 3
        return x, order

    optimizer = torch.optim.Adam(weights, lr=3e-3)
    for step in range(150):
        x, order = batch(64)
        loss = torch.nn.functional.cross_entropy(head(model(x)), order)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(w.grad.abs().max() > 0 for w in weights)
        optimizer.step()
    x, order = batch(512)
    with torch.inference_mode():
        accuracy = (head(model(x)).argmax(1) == order).float().mean().item()
    assert accuracy > 0.95


@pytest.mark.parametrize("pooling", ["last", "mean", "weighted_mean"])
def test_pooling(pooling):
    model = random_bitnet(pooling=pooling)
    batch = random_batch([3, 1, 20], 5)
    with torch.inference_mode():
        values, lengths = torch.from_numpy(batch.values), torch.from_numpy(batch.lengths)
        encoded = model.encode(*model.read(values, lengths))
    got = torch_embed(model, batch)
    for row, part in enumerate(np.split(encoded.numpy(), [3, 4])):
        weights = {
            "last": [0.0] * (len(part) - 1) + [1.0],
            "mean": [1.0] * len(part),
            "weighted_mean": range(1, len(part) + 1),
        }[pooling]
        expected = np.average(part, axis=0, weights=weights)
        np.testing.assert_allclose(got[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["none", "rope"])
@pytest.mark.parametrize("stride", [1, 3])
def test_an_attention_window_hides_all_that_came_before_it(positions, stride):
    window, layers = 4, 2
    options = {"attention_window": window, "positions": positions, "stride": stride}
    model = random_bitnet(num_layers=layers, **options)
    # What the last timestep sees of the first block's outputs, and those of the inputs.
    seen = stride * (layers * (window - 1) + 1)
    batch = random_batch([45, 10], 5)
    before = torch_embed(model, batch)
    batch.values[: 45 - seen] += 1.0
    changed = torch_embed(model, batch)
    np.testing.assert_allclose(changed[0], before[0], rtol=1e-4, atol=1e-5)
    batch.values[45 - seen] += 1.0
    assert np.abs(torch_embed(model, batch)[0] - before[0]).max() > 1e-3
    everything = random_bitnet(num_layers=layers, **options | {"attention_window": None})
    assert np.abs(torch_embed(everything, batch)[0] - before[0]).max() > 1e-3
