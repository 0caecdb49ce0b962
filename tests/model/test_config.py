import pytest
from pydantic import ValidationError

from tritserve.model.config import ModelConfig
from tritserve.model.network.bitnet import build, output_size, recommended_defaults


def test_the_defaults_are_those_of_the_seed():
    config = ModelConfig(embed_dim=287)
    assert recommended_defaults() == {
        "hidden_size": 256,
        "num_heads": 4,
        "num_layers": 4,
        "window_size": 60,
        "dropout": 0.1,
        "quantize": "ternary",
    }
    assert {k: getattr(config, k) for k in recommended_defaults()} == recommended_defaults()
    assert output_size() == 256
    assert output_size(embed_dim=7, hidden_size=48) == 48


def test_seq_len_overrides_window_size():
    assert ModelConfig(embed_dim=1, window_size=20).max_timesteps == 20
    assert ModelConfig(embed_dim=1, window_size=20, seq_len=30).max_timesteps == 30


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 64}, "hidden"),
        ({"hidden_size": 65}, "multiple of num_heads"),
        ({"num_heads": 4, "num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"hidden_size": 12, "positions": "rope"}, "even head size"),
        ({"attention": "full", "attention_window": 5}, "for causal attention, not full"),
        ({"attention_window": 0}, "greater than or equal to 1"),
        ({"center_weights": True}, "for binary weights"),
        ({"weight_rule": "edifice"}, "activations 'float32'"),
        ({"quantize": "int4"}, "'ternary', 'binary' or 'none'"),
        ({"dropout": 1.0}, "less than 1"),
        ({"hidden_size": "64"}, "valid integer"),
        ({"num_layers": True}, "valid integer"),
        ({"num_layers": 10**9}, "less than or equal to 256"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_so(fields, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(embed_dim=4, **fields)
    with pytest.raises(ValidationError, match=message):
        build(embed_dim=4, **fields)
    with pytest.raises(ValidationError, match=message):
        output_size(embed_dim=4, **fields)


def test_embed_dim_is_required():
    with pytest.raises(ValidationError, match="embed_dim"):
        ModelConfig()
