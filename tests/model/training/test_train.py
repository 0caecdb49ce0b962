import io
import json
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.builders import DATA
from tritserve.model.data.dataset import DataError
from tritserve.model.data.dataset import load as load_data
from tritserve.model.engine.engine import Engine
from tritserve.model.sequences import SequenceError
from tritserve.model.training.checkpoint import CheckpointError, load, save
from tritserve.model.training.export import export
from tritserve.model.training.log import TrainingLog, read_log
from tritserve.model.training.loop import TrainingError
from tritserve.model.training.memory import OutOfMemoryError
from tritserve.model.training.recipe import (
    Augmentation,
    Objective,
    Recipe,
    RecipeError,
    Schedule,
    read_recipe,
)
from tritserve.model.training.state import StateError, load_state, save_state
from tritserve.model.training.train import train
from tritserve.service.commands.cli import main

VOWELS = DATA / "JapaneseVowels.npz"
SMALL = {"hidden_size": 16, "num_layers": 1, "dropout": 0.0}
ALONE = {"classification": 0.0, "next_timestep": 1.0}


def recipe(**fields):
    base = {
        "name": "small",
        "dataset": VOWELS,
        "model": SMALL,
        "schedule": Schedule(steps=8, batch_size=16),
    }
    return Recipe(**(base | fields))


def packed_bytes(checkpoint, path):
    export(checkpoint.model, path, name=checkpoint.name, training=checkpoint.training)
    return path.read_bytes()


def test_one_seed_gives_one_file_and_another_seed_another(tmp_path):
    how = {"augmentation": Augmentation(jitter=0.1, warp=0.2), "model": SMALL | {"dropout": 0.1}}
    a = packed_bytes(train(recipe(**how)), tmp_path / "a")
    b = packed_bytes(train(recipe(**how)), tmp_path / "b")
    c = packed_bytes(train(recipe(seed=1, **how)), tmp_path / "c")
    assert a == b
    assert a != c


def test_training_learns_and_tells_its_progress():
    steps = []
    checkpoint = train(
        recipe(schedule=Schedule(steps=120, batch_size=32), validation=0.2), steps.append
    )
    assert [s.step for s in steps] == list(range(1, 121))
    losses = [s.loss for s in steps]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert checkpoint.training["scores"]["validation_probe_accuracy"] > 0.8
    rates = [s.learning_rate for s in steps]
    assert np.argmax(rates) == 11
    assert rates[60] / rates[59] == pytest.approx(0.67 * 60 / 61, rel=1e-2)


def test_features_are_standardized_from_the_training_part():
    checkpoint = train(recipe())
    values = load_data(VOWELS, "train").sequences.values
    np.testing.assert_allclose(checkpoint.model.standardize.mean, values.mean(0), atol=1e-5)
    np.testing.assert_allclose(checkpoint.model.standardize.std, values.std(0), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_features_may_be_of_any_unit(tmp_path, scale):
    arrays = dict(np.load(VOWELS))
    np.savez(tmp_path / "x.npz", **arrays | {"train_values": arrays["train_values"] * scale})
    model = SMALL | {"differences": 2}
    usual = train(recipe(model=model)).model.standardize
    other = train(recipe(model=model, dataset=tmp_path / "x.npz")).model.standardize
    np.testing.assert_allclose(other.std, scale * usual.std.numpy(), rtol=1e-3)
    np.testing.assert_allclose(other.mean[:12], scale * usual.mean[:12].numpy(), rtol=1e-3)


@pytest.mark.parametrize("largest", [9e36, 1.1e37, 3e38])
def test_values_so_large_that_training_would_overflow_are_an_error(tmp_path, largest):
    values = np.random.default_rng(0).uniform(-1, 1, (600, 2))
    values *= largest / np.abs(values).max()
    path = tmp_path / "x.npz"
    np.savez(path, train_values=values, train_lengths=np.full(12, 50))
    how = recipe(
        dataset=path,
        model=SMALL,
        objective=ALONE,
        augmentation=Augmentation(jitter=0.1, scale=0.1, offset=0.1),
    )
    if largest < 1e37:
        train(how)
        return
    with pytest.raises(DataError, match=r"values reach .*e\+3[78]; .* would overflow float32"):
        train(how)


@pytest.mark.parametrize("value", [-3e30, 3e12])
def test_what_the_packed_model_would_refuse_is_not_scored(tmp_path, value):
    arrays = dict(np.load(VOWELS))
    seventh = arrays["test_lengths"][:7].sum()
    arrays["test_values"][seventh + 4, 2] = value
    np.savez(tmp_path / "x.npz", **arrays)
    checkpoint = train(recipe(dataset=tmp_path / "x.npz"))
    export(checkpoint.model, tmp_path / "x.safetensors", name="x", training={})
    with pytest.raises(SequenceError, match=r"over 1e\+12 deviations") as refused:
        test = load_data(tmp_path / "x.npz", "test").sequences
        Engine.load(tmp_path / "x.safetensors").embed(test.values, test.lengths)
    assert "sequence 7, timestep 4, feature 2" in str(refused.value)
    steps = []
    message = re.escape(f"the test part cannot be scored: {refused.value}")
    with pytest.raises(DataError, match=message):
        train(recipe(dataset=tmp_path / "x.npz", score_test=True), steps.append)
    assert not steps


def statistics(path, feature, **model):
    """Of a model trained without labels on 12 sequences of 50, the second of 3 features given."""
    values = np.random.default_rng(0).standard_normal((600, 3)).astype(np.float32)
    values[:, 1] = feature
    np.savez(path, train_values=values, train_lengths=np.full(12, 50))
    return train(recipe(dataset=path, model=SMALL | model, objective=ALONE)).model.standardize


@pytest.mark.parametrize("stride", [1, 30])
@pytest.mark.parametrize("constant", [7, 0.1, 1e6 + 0.1, 1e-12, 0])
def test_a_constant_feature_stays_finite(tmp_path, constant, stride):
    found = statistics(tmp_path / "x.npz", constant, stride=stride, differences=2)
    # Averages of a constant, and differences of them, are not quite constant.
    assert found.std[1::3].tolist() == pytest.approx([1, 1, 1])
    assert (found.std[::3] != 1).all()


def test_a_feature_that_changes_by_rounding_alone_is_constant(tmp_path):
    feature = np.full(600, 1000, np.float32)
    feature[::2] = np.nextafter(feature[0], np.float32(2000))
    assert statistics(tmp_path / "x.npz", feature).std[1] == 1


def test_a_large_constant_with_its_rounding_stays_near_zero(tmp_path):
    seconds = np.float32(1.7e9) + 128 * (np.arange(600) % 2).astype(np.float32)
    found = statistics(tmp_path / "x.npz", seconds)
    assert np.abs((seconds - found.mean[1].item()) / found.std[1].item()).max() < 0.1


def test_differences_of_a_feature_that_is_constant_in_each_sequence_are_constant(tmp_path):
    feature = np.repeat(1e6 + 0.1 + np.arange(12), 50)
    found = statistics(tmp_path / "x.npz", feature, stride=30, differences=2)
    assert found.std[1] == pytest.approx(np.std(np.arange(12)), rel=1e-2)
    assert found.std[[4, 7]].tolist() == pytest.approx([1, 1], rel=1e-3)


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    checkpoint = train(recipe())
    save(checkpoint, tmp_path / "c")
    again = load(tmp_path / "c")
    assert packed_bytes(again, tmp_path / "a") == packed_bytes(checkpoint, tmp_path / "b")
    assert set(again.heads) == set(checkpoint.heads)
    training = json.loads((tmp_path / "c" / "checkpoint.json").read_text())["training"]
    assert training["dataset"]["sha256"] == load_data(VOWELS, "train").sha256
    assert training["recipe"]["schedule"]["steps"] == 8
    # Whoever gets the packed file learns nothing of where the data set lies.
    assert str(DATA) not in json.dumps(training)


def test_a_folder_that_is_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        load(tmp_path)
    save(train(recipe()), tmp_path)
    description = tmp_path / "checkpoint.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps(content | {"model": content["model"] | {"num_layers": 2}}))
    with pytest.raises(CheckpointError, match=r"blocks\.1"):
        load(tmp_path)
    description.write_text(json.dumps(content | {"model": content["model"] | {"layers": 2}}))
    with pytest.raises(CheckpointError, match="layers: Extra inputs"):
        load(tmp_path)
    for change, message in [
        ({"name": 5}, "name: Input should be a valid string"),
        ({"name": ["a"]}, "name: Input should be a valid string"),
        ({"name": ""}, "name: String should have at least 1"),
        ({"training": []}, "training: Input should be"),
        ({"extra": 1}, "extra: Extra inputs"),
    ]:
        description.write_text(json.dumps(content | change))
        with pytest.raises(CheckpointError, match=re.escape(f"{description}: {message}")):
            load(tmp_path)
    for damaged, message in [
        (b"{}", "name: Field required; model: Field required"),
        (b"{", "Invalid JSON"),
        (b'{"name": "\xff"}', "Invalid JSON"),
        (b"[" * 100_000, "Invalid JSON"),
    ]:
        description.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=re.escape(f"{description}: {message}")):
            load(tmp_path)


def test_a_model_that_does_not_fit_into_memory_is_an_error():
    limit = resource.getrlimit(resource.RLIMIT_AS)
    how = recipe(model=SMALL | {"hidden_size": 16_384, "num_heads": 1})
    # Less than one of its matrices takes.
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000, limit[1]))
    try:
        with pytest.raises(
            OutOfMemoryError, match=r"does not fit into memory \(\d[\d,]+ bytes more"
        ):
            train(how)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)


@pytest.mark.parametrize(
    ("weight", "message"),
    [(1e39, "the loss is inf at step 1 of 50, learning"), (1e25, "the gradient's norm is inf at")],
)
def test_what_is_not_finite_stops_with_a_reason(weight, message):
    objective = Objective(classification=weight)
    with pytest.raises(TrainingError, match=message):
        train(recipe(objective=objective, schedule=Schedule(steps=50)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": SMALL | {"window_size": 10}}, "26 timesteps, the model takes at most 10"),
        ({"model": SMALL | {"embed_dim": 3}}, "embed_dim is 3, the data set has 12 features"),
        ({"model": SMALL | {"num_heads": 3}}, "multiple of num_heads"),
        ({"model": SMALL | {"width": 3}}, "width: Extra inputs"),
    ],
)
def test_a_recipe_that_does_not_fit_the_data_is_an_error(fields, message):
    with pytest.raises(RecipeError, match=message):
        train(recipe(**fields))


def test_classification_needs_labels(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        train_values=np.zeros((4, 2), np.float32),
        train_lengths=np.array([2, 2]),
    )
    with pytest.raises(RecipeError, match="no labels; set classification = 0"):
        train(recipe(dataset=tmp_path / "x.npz"))


def test_classification_needs_two_classes(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, train_values=np.ones((6, 1)), train_lengths=[2, 2, 2], y_train=[1, 1, 1])
    with pytest.raises(RecipeError, match=r"every training label is 1; .*set classification = 0"):
        train(recipe(dataset=path))


def no_labels(path, lengths):
    values = np.random.default_rng(0).standard_normal((sum(lengths), 2))
    np.savez(path, train_values=values, train_lengths=np.array(lengths))
    return path


@pytest.mark.parametrize(
    ("lengths", "fields", "message"),
    [
        ([5] * 9, {"contrast": 1.0, "batch_size": 1}, "batch_size is 1, the training part has 9"),
        ([50], {"contrast": 1.0}, "batch_size is 4, the training part has 1"),
        ([1] * 9, {"next_timestep": 1.0}, "the longest sequence has 1 timesteps, one at a stride"),
        ([3, 2, 3, 1], {"next_timestep": 1.0, "stride": 3}, "at a stride of 3: there is no next"),
        ([3, 2, 3, 1], {"mask": 0.1, "stride": 3}, "stride of 3: hiding it would hide the sequ"),
    ],
)
def test_what_could_teach_nothing_is_an_error(tmp_path, lengths, fields, message):
    stride, batch_size = fields.pop("stride", 1), fields.pop("batch_size", 4)
    how = recipe(
        dataset=no_labels(tmp_path / "x.npz", lengths),
        model=SMALL | {"stride": stride},
        objective={"classification": 0.0, "next_timestep": 0.0, "reconstruction": 1.0} | fields,
        schedule=Schedule(steps=2, batch_size=batch_size),
    )
    with pytest.raises(RecipeError, match=message):
        train(how)


def test_a_batch_without_a_next_timestep_teaches_nothing_and_stops_nothing(tmp_path):
    how = recipe(
        dataset=no_labels(tmp_path / "x.npz", [1, 1, 1, 1, 2, 9]),
        objective=ALONE,
        schedule=Schedule(steps=12, batch_size=1),
    )
    losses = []
    train(how, lambda step: losses.append(step.loss))
    assert losses.count(0.0) == 8
    assert sum(loss > 0 for loss in losses) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "is not TOML"),
        ("name = " + "[" * 5000, "is nested too deeply"),
        ("name = 'x'\ndataset = 'd'\nseed = 9223372036854775808", "seed: .* less than"),
        ("name = 'x'\ndataset = 'd'\nthreads = 1025", "threads: .* less than or equal to 1024"),
        ("name = 'x'\ndataset = 'd'\n[schedule]\nlearning_rate = inf", "rate: .* finite number"),
        ("name = 'x'\ndataset = 'd'\n[schedule]\nlearning_rate = 1e38", "rate: .* equal to 1"),
        ("name = 'x'\ndataset = 'd'\n[schedule]\nwarmup = nan", r"warmup: .*"),
        ("name = 'x'\ndataset = 'd'\n[schedule]\nmax_gradient_norm = inf", "norm: .* finite"),
        ("name = 'x'\ndataset = 'd'\n[augmentation]\njitter = inf", "jitter: .* finite number"),
        ("name = 'x'\ndataset = 'd'\n[objective]\ncontrast = inf", "contrast: .* finite number"),
        ("name = 'x'\ndataset = 'd'\n[objective]\nmask = 1.0", "mask: .* less than 1"),
        ("name = 'x'", "dataset: Field required"),
        ("name = 'x'\ndataset = 'd'\nepochs = 3", "epochs: Extra inputs"),
        ("name = 'x'\ndataset = 'd'\n[schedule]\nsteps = 0", r"schedule\.steps: .* greater"),
        ("name = 'x'\ndataset = 'd'\n[schedule]\nsteps = '9'", r"schedule\.steps: .* integer"),
        (
            "name = 'x'\ndataset = 'd'\n[objective]\nclassification = 0.0\nnext_timestep = 0.0",
            "nothing would be trained",
        ),
    ],
)
def test_a_recipe_that_makes_no_sense_is_an_error(tmp_path, text, message):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "r.toml")


def test_a_recipe_may_begin_with_a_mark_of_its_encoding(tmp_path):
    (tmp_path / "r.toml").write_text("name = 'x'\ndataset = 'd'", encoding="utf-8-sig")
    assert read_recipe(tmp_path / "r.toml").name == "x"


def test_a_recipes_data_set_is_beside_it(tmp_path):
    (tmp_path / "r.toml").write_text("name = 'x'\ndataset = 'sets/d.npz'")
    assert read_recipe(tmp_path / "r.toml").dataset == Path(tmp_path / "sets" / "d.npz").resolve()


def test_a_killed_run_taken_up_again_ends_with_the_same_model(tmp_path):
    (tmp_path / "r.toml").write_text(
        f"name = 'x'\ndataset = '{VOWELS}'\n[model]\nhidden_size = 16\nnum_layers = 1\n"
        "[schedule]\nsteps = 260\nbatch_size = 16\n[augmentation]\njitter = 0.1\nwarp = 0.1\n"
        "[objective]\nmask = 0.2\n"
    )
    checkpoint = train(read_recipe(tmp_path / "r.toml"))
    expected = packed_bytes(checkpoint, tmp_path / "whole")

    folder = tmp_path / "run"
    arguments = ["train", str(tmp_path / "r.toml"), "--out", str(folder)]
    command = [sys.executable, "-m", "tritserve", *arguments]
    victim = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (folder / "state.pt").exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert victim.poll() is None, "the run was over before it could be killed"
    victim.kill()
    victim.wait()
    assert not (folder / "checkpoint.json").exists()
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert "--resume goes on with it" in refused.stderr

    resumed = CliRunner().invoke(main, [*arguments, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert packed_bytes(load(folder), tmp_path / "resumed") == expected
    log = read_log(folder)
    assert [line["step"] for line in log] == list(range(1, 261))
    figures = log[-1]["layers"]["blocks.0.ffn.up"]
    assert 0.1 < figures["zeros"] < 0.6
    assert 0 < figures["flips"] < 0.1
    assert figures["activation_scale"] > 0
    assert (folder / "training.png").stat().st_size > 10_000
    assert list((folder / "tensorboard").iterdir())


def test_a_resumed_runs_log_is_replaced_as_a_whole(tmp_path):
    train(recipe(), folder=tmp_path)
    whole = (tmp_path / "log.jsonl").read_text()
    with (tmp_path / "log.jsonl").open() as old:
        TrainingLog(tmp_path, 5).close()
        assert old.read() == whole
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("rest", [b"\0\0\0\n", b'{"loss": 1}\n', b"\xff\xfe{}\n", b"[]\n", b'{"s'])
def test_a_damaged_log_keeps_no_run_from_going_on(tmp_path, rest):
    train(recipe(), folder=tmp_path)
    log = tmp_path / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:5]) + rest + b"".join(lines[5:]))
    assert [line["step"] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    TrainingLog(tmp_path, 8).close()
    assert log.read_bytes() == b"".join(lines[:5])


def test_a_state_of_another_run_is_not_taken_up(tmp_path):
    train(recipe(), folder=tmp_path)
    with pytest.raises(StateError, match="differs in seed;"):
        train(recipe(seed=1), folder=tmp_path)


@pytest.mark.parametrize("package", ["tritserve", "torch", "numpy"])
def test_a_state_of_another_version_is_not_taken_up(tmp_path, package):
    train(recipe(), folder=tmp_path)
    content = torch.load(tmp_path / "state.pt")
    now = content["identity"][package]
    save_state(tmp_path, content["identity"] | {package: "0.0.1"}, content["state"])
    message = f"differs in {package} (0.0.1 then, {now} now);"
    with pytest.raises(StateError, match=re.escape(message)):
        train(recipe(), folder=tmp_path)


def test_a_damaged_state_is_told_as_such(tmp_path):
    path = tmp_path / "state.pt"
    save_state(tmp_path, {"seed": 1}, {"order": list(range(1000)), "learner": torch.ones(500)})
    whole = path.read_bytes()
    rng = random.Random(0)
    damaged = [b"", b"PK damaged", b"[]"]
    damaged += [whole[: rng.randrange(len(whole))] for _ in range(60)]
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(3):
            content[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        damaged.append(bytes(content))
    other = io.BytesIO()
    torch.save({"seed": 1}, other)
    damaged.append(other.getvalue())
    assert load_state(tmp_path, {"seed": 1})["order"] == list(range(1000))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(StateError) as error:
            load_state(tmp_path, {"seed": 1})
        assert str(error.value) == f"{path} is damaged; --overwrite starts over"
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        load_state(tmp_path, {"seed": 1})
