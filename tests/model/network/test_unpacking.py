"""A packed model in training again: the same bytes until the first step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.builders import CHANNELS, SETTINGS, random_packed, torch_embed
from tritserve.model.engine.calibration import calibrate
from tritserve.model.network.unpacking import UnpackError, from_packed
from tritserve.model.packed.file import parse, read
from tritserve.model.sequences import Sequences
from tritserve.model.training.export import export


def packed_again(packed, path):
    model = from_packed(packed)
    export(
        model,
        path,
        name=packed.name,
        training=packed.training,
        signature=packed.signature,
    )
    return path.read_bytes()


@pytest.mark.parametrize("options", [*SETTINGS[::97], CHANNELS, CHANNELS | {"quantize": "binary"}])
def test_packed_again_a_model_is_byte_for_byte_what_it_was(tmp_path, options):
    for seed, hidden_size in enumerate((16, 40)):
        _, packed = random_packed(
            tmp_path / "a", seed, **options | {"hidden_size": hidden_size, "num_layers": 1}
        )
        assert packed_again(packed, tmp_path / "b") == (tmp_path / "a").read_bytes()


def test_the_scale_is_exact_in_whatever_order_threads_sum(tmp_path):
    _, packed = random_packed(tmp_path / "a", hidden_size=256, num_layers=1)
    threads = torch.get_num_threads()
    layers = [name for name in packed.layers if "ffn" in name]
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            model = from_packed(packed)
            for name in layers:
                scale = model.get_submodule(name).integer_weight()[1]
                assert scale.item() == packed.layers[name].scale.item()
    finally:
        torch.set_num_threads(threads)


def test_a_calibrated_model_stays_calibrated(tmp_path):
    _, packed = random_packed(tmp_path / "a", **CHANNELS)
    center, spread = np.float32([3, -2]), np.float32([0.5, 4])
    content = calibrate(packed, center, spread)
    calibrated = parse(content)
    values = np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32)
    batch = Sequences(values, np.array([30]))
    packed_again(calibrated, tmp_path / "b")
    assert read(tmp_path / "b").calibration[1].tolist() == spread.tolist()
    rows = [torch_embed(from_packed(model).eval(), batch) for model in (packed, calibrated)]
    assert not np.allclose(*rows)


def test_what_no_training_comes_to_is_an_error(tmp_path):
    _, packed = random_packed(tmp_path / "a")
    name, layer = next(iter(packed.layers.items()))
    by_row = replace(layer, scale=np.full(layer.shape[0], layer.scale[0]))
    with pytest.raises(UnpackError, match=f"{name} of random has weights or scales that no"):
        from_packed(replace(packed, layers=packed.layers | {name: by_row}))
