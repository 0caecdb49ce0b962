import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tritserve.model.engine import reference
from tritserve.model.network.bitlinear import BitLinear, binarize, quantize_activations, ternarize


def test_ternary_weights_are_rounded_half_to_even_over_the_mean():
    weight = torch.tensor([[1.0, -0.5, 0.5, -2.0], [1.5, 0.4, -1.1, 1.0]])
    trits, scale = ternarize(weight)
    assert scale.item() == 1.0
    assert trits.tolist() == [[1, 0, 0, -1], [1, 0, -1, 1]]


def test_weights_of_zero_stay_finite():
    trits, scale = ternarize(torch.zeros(2, 2))
    assert trits.tolist() == [[0, 0], [0, 0]]
    assert scale > 0
    assert binarize(torch.zeros(1, 2))[0].tolist() == [[1, 1]]


def test_binary_scale_is_that_of_the_uncentered_weights():
    weight = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    assert binarize(weight)[0].tolist() == [[1, 1, 1, 1]]
    signs, scale = binarize(weight, center=True)
    assert signs.tolist() == [[-1, -1, 1, 1]]
    assert scale.item() == 3.0


def test_activations_have_a_scale_per_timestep():
    q, scale = quantize_activations(torch.tensor([[1.0, -127.0], [0.0, 0.0], [0.5, -1.0]]))
    assert q.tolist() == [[1, -127], [0, 0], [64, -127]]
    assert scale[0].item() == 1.0
    assert scale[1].item() > 0


@given(
    rows=st.integers(1, 5),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 20),
    quantize=st.sampled_from(["ternary", "binary"]),
    seed=st.integers(0, 1000),
)
def test_integer_matmuls_of_torch_and_numpy_are_equal(rows, inputs, outputs, quantize, seed):
    torch.manual_seed(seed)
    layer = BitLinear(inputs, outputs, quantize=quantize, bias=False)
    x = torch.randn(rows, inputs)
    trits, _ = layer.integer_weight()
    q, _ = quantize_activations(x)
    expected = q.long() @ trits.long().T

    q_numpy, scale = reference.quantize_activations(x.numpy())
    got = reference.integer_matmul(q_numpy, trits.detach().numpy())
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, expected.numpy())
    np.testing.assert_array_equal(scale, quantize_activations(x)[1].numpy())


@pytest.mark.parametrize("quantize", ["ternary", "binary"])
def test_the_gradient_is_straight_through(quantize):
    torch.manual_seed(0)
    layer = BitLinear(12, 7, quantize=quantize)
    x = torch.randn(2, 3, 12, requires_grad=True)
    cotangent = torch.randn(2, 3, 7)
    layer(x).backward(cotangent)

    # The same by the detach trick: the gradient of a linear layer at the rounded values.
    trits, s_w = (t.detach() for t in layer.integer_weight())
    q, s_x = (t.detach() for t in quantize_activations(x))
    rounded_x = (q * s_x).requires_grad_()
    rounded_w = (trits * s_w).requires_grad_()
    F.linear(rounded_x, rounded_w, layer.bias.detach()).backward(cotangent)
    torch.testing.assert_close(x.grad, rounded_x.grad)
    torch.testing.assert_close(layer.weight.grad, rounded_w.grad)
    torch.testing.assert_close(layer.bias.grad, cotangent.sum((0, 1)))


@pytest.mark.parametrize("quantize", ["ternary", "binary"])
def test_float64_and_single_rows_are_computed_too(quantize):
    torch.manual_seed(0)
    layer = BitLinear(8, 5, quantize=quantize).double()
    x = torch.randn(8, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    torch.testing.assert_close(y, layer(x[None])[0])
    assert x.grad.shape == (8,)
    assert layer.weight.grad.shape == (5, 8)


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("quantize", "ternary, binary, none"),
        ("activations", "int8, float32"),
        ("weight_rule", "absmean, edifice"),
        ("norm", "layernorm, rmsnorm"),
    ],
)
def test_a_word_that_is_not_known_is_an_error(field, known):
    with pytest.raises(ValueError, match=f"{field} is 'trinary'; it must be one of {known}"):
        BitLinear(4, 4, **{field: "trinary"})


def test_sub_norm_makes_the_layer_blind_to_the_scale_of_its_input():
    layer = BitLinear(16, 4, sub_norm=True)
    x = torch.randn(3, 16)
    torch.testing.assert_close(layer(x), layer(1000 * x), rtol=1e-3, atol=1e-3)


def test_the_float_twin_is_an_ordinary_linear_layer():
    layer = BitLinear(16, 4, quantize="none")
    x = torch.randn(3, 16)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    with pytest.raises(ValueError, match="no integer weights"):
        layer.integer_weight()
