"""The commands with a model that sees channels one by one."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from tests.builders import CHANNELS, JAPANESE_VOWELS, random_packed
from tritserve.model.data.dataset import load
from tritserve.model.data.writing import write
from tritserve.model.engine.engine import Engine
from tritserve.model.packed.file import read
from tritserve.service.commands.cli import main

NAMES = ["speed", "torque"]
CENTER, SPREAD = np.array([40, -3]), np.array([5, 0.5])


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def shown(*arguments):
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    return done.output


def refusal(*arguments):
    done = run(*arguments)
    assert done.exit_code == 1, done.output
    return done.output


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.safetensors"
    random_packed(path, **CHANNELS)
    return path


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    sequences = [CENTER + SPREAD * rng.standard_normal((20 + i, 2)) for i in range(16)]
    labels = ["off", "on"] * 8
    path = tmp_path / "machines.npz"
    write(
        path,
        sequences,
        labels,
        sequences,
        labels,
        feature_names=NAMES,
        units=["1/s", "N m"],
        sampling_rate=50.0,
    )
    return path


def test_inspect_tells_of_channels(model):
    told = shown("inspect", model)
    assert "ternary, any number of channels to 52 dimensions" in told
    assert "not calibrated" in told
    assert "calibrated" not in shown("inspect", JAPANESE_VOWELS)


def test_bench_takes_any_number_of_channels(model):
    bench = ("bench", "--model", model, "--batch", 2, "--seconds", 0.1, "--threads", 1)
    assert json.loads(shown(*bench))["channels"] == 6
    assert json.loads(shown(*bench, "--channels", 2))["channels"] == 2


def test_bench_of_a_model_that_joins_features_has_no_channels():
    bench = ("bench", "--model", JAPANESE_VOWELS, "--batch", 2, "--seconds", 0.1, "--threads", 1)
    assert json.loads(shown(*bench))["features"] == 12
    assert "takes 12 features; leave --channels out" in refusal(*bench, "--channels", 6)


def test_embed_takes_missing_values(model, tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 50, 5), dtype=np.float32)
    values[1, 7, 2] = np.nan
    np.save(tmp_path / "in.npy", values)
    shown("embed", tmp_path / "in.npy", tmp_path / "out.npy", "--model", model)
    expected = Engine.load(model).embed(values.reshape(150, 5), np.full(3, 50))
    assert np.load(tmp_path / "out.npy").tobytes() == expected.tobytes()
    values[2, 9, 1] = np.inf
    np.save(tmp_path / "in.npy", values)
    told = refusal("embed", tmp_path / "in.npy", tmp_path / "out.npy", "--model", model)
    assert "sequence 2, timestep 9, feature 1 is inf" in told
    values = np.full((1, 2, 12), np.nan, np.float32)
    np.save(tmp_path / "in.npy", values)
    told = refusal("embed", tmp_path / "in.npy", tmp_path / "out.npy", "--model", JAPANESE_VOWELS)
    assert "feature 0 is nan; values must be finite" in told


def test_evaluate_probes_any_number_of_channels(model, dataset):
    assert "accuracy on 16 test sequences" in shown("evaluate", model, dataset)


def test_calibrate_stores_level_scale_and_names(model, dataset, tmp_path):
    out = tmp_path / "machines.safetensors"
    told = shown("calibrate", model, dataset, out)
    assert "calibrated by 2 channels of 440 timesteps, revision " + read(out).revision in told
    center, spread = read(out).calibration
    np.testing.assert_allclose(center, CENTER, atol=1)
    np.testing.assert_allclose(spread, SPREAD, rtol=0.2)
    signature = read(out).signature
    assert signature.known() == {
        "feature_names": NAMES,
        "units": ["1/s", "N m"],
        "sampling_rate": 50.0,
    }
    told = shown("inspect", out)
    assert "calibrated by 2 channels" in told
    assert "features speed (1/s), torque (N m)" in told


def test_a_calibrated_model_matches_columns_by_name(model, dataset, tmp_path):
    calibrated, turned = tmp_path / "c.safetensors", tmp_path / "turned.npz"
    shown("calibrate", model, dataset, calibrated)
    with np.load(dataset) as arrays:
        content = {name: arrays[name] for name in ("train_values", "train_lengths")}
    content["train_values"] = content["train_values"][:, ::-1]
    np.savez(turned, feature_names=NAMES[::-1], **content)
    rows = []
    for source in (dataset, turned):
        target = tmp_path / "out.npy"
        shown("embed", source, target, "--model", calibrated, "--split", "train")
        rows.append(np.load(target).tobytes())
    assert rows[0] == rows[1]


def test_calibrate_again_forgets_what_was_known(model, dataset, tmp_path):
    shown("calibrate", model, dataset, model)
    other = tmp_path / "other.npz"
    write(other, [np.random.default_rng(0).standard_normal((9, 5))])
    shown("calibrate", model, other, model)
    assert read(model).calibration[0].shape == (5,)
    assert read(model).signature.known() == {}


def test_calibrate_refuses_what_it_cannot_do_and_writes_nothing(model, dataset, tmp_path):
    out = tmp_path / "out.safetensors"
    told = refusal("calibrate", JAPANESE_VOWELS, dataset, out)
    assert "was trained on features of its own, with their level and scale" in told
    flat = tmp_path / "flat.npz"
    write(flat, [np.c_[np.arange(9.0), np.ones(9)]])
    assert "channel 1 does not vary in the data" in refusal("calibrate", model, flat, out)
    before = dataset.read_bytes()
    link = tmp_path / "link.npz"
    os.link(dataset, link)
    assert "is the data set" in refusal("calibrate", model, dataset, link)
    assert dataset.read_bytes() == before
    assert not out.exists()


def with_missing(dataset, path):
    arrays = dict(np.load(dataset))
    arrays["train_values"][3, 1] = arrays["test_values"][25, 0] = np.nan
    np.savez(path, **arrays)
    return path


def test_evaluate_and_calibrate_take_missing_values(model, dataset, tmp_path):
    holes, out = with_missing(dataset, tmp_path / "holes.npz"), tmp_path / "out.safetensors"
    assert "accuracy on 16 test sequences" in shown("evaluate", model, holes)
    shown("calibrate", model, holes, out)
    center, _ = read(out).calibration
    values = np.load(holes)["train_values"].astype(np.float64)
    np.testing.assert_allclose(center, np.nanmean(values, axis=0), rtol=1e-6)
    told = refusal("evaluate", JAPANESE_VOWELS, holes)
    assert "sequence 0, timestep 3, feature 1 is nan; values must be finite" in told
    arrays = dict(np.load(holes))
    arrays["train_values"][4, 0] = np.inf
    np.savez(holes, **arrays)
    for command in (("evaluate", model, holes), ("calibrate", model, holes, out)):
        told = refusal(*command)
        assert "sequence 0, timestep 4, feature 0 is inf; values must be finite, or NaN" in told


def test_embed_keeps_channels_apart(model, dataset, tmp_path):
    out = tmp_path / "out.npy"
    told = shown("embed", dataset, out, "--split", "test", "--model", model, "--channels", "apart")
    test = load(dataset, "test").sequences
    expected = Engine.load(model).embed(test.values, test.lengths, apart=True)
    assert np.load(out).tobytes() == expected.tobytes()
    assert f"16 embeddings of {2 * read(model).config.channel_size} numbers" in told
    values = np.zeros((1, 2, 12), np.float32)
    np.save(tmp_path / "in.npy", values)
    apart = ("embed", tmp_path / "in.npy", out, "--model", JAPANESE_VOWELS, "--channels", "apart")
    assert "this model joins its features; it cannot keep channels apart" in refusal(*apart)
