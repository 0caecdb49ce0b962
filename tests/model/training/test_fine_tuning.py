"""Training that begins with a packed model, and models that see channels one by one."""

import numpy as np
import pytest
from click.testing import CliRunner

from tests.builders import CHANNELS, DATA, random_batch, random_packed
from tests.model.killed import run_until_killed
from tritserve.model.channels import windows
from tritserve.model.data.writing import write
from tritserve.model.engine.calibration import CalibrationError, channel_statistics
from tritserve.model.network.unpacking import from_packed
from tritserve.model.packed.file import read
from tritserve.model.pretrained import EMBEDDED_MODELS
from tritserve.model.training.checkpoint import load, save
from tritserve.model.training.export import export
from tritserve.model.training.recipe import Recipe, RecipeError, Schedule, read_recipe, to_toml
from tritserve.model.training.rule import recipe_for
from tritserve.model.training.scores import EVALUATION_BATCH, embed
from tritserve.model.training.train import train
from tritserve.service.commands.cli import main

VOWELS = DATA / "JapaneseVowels.npz"


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    random_packed(path, name="tiny", **CHANNELS | {"dropout": 0.1})
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Waves of two frequencies on two channels, some of their values missing."""
    path = tmp_path_factory.mktemp("data") / "waves.npz"
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    waves = [
        np.sin(np.arange(24 + i % 5)[:, None] * (0.3 + 0.3 * label) + [0, 1]) * [1, 20] + [5, -40]
        for i, label in enumerate(labels)
    ]
    waves = [wave + 0.1 * rng.standard_normal(wave.shape) * [1, 20] for wave in waves]
    for wave in waves:
        wave[rng.integers(len(wave)), 0] = np.nan
    names = [["slow", "fast"][label] for label in labels]
    write(path, waves[:32], names[:32], waves[32:], names[32:], missing=True)
    return path


def recipe(start, dataset, **fields):
    base = {"name": "tuned", "dataset": dataset, "start": str(start) if start else None}
    return Recipe(**base | {"schedule": {"steps": 4, "batch_size": 8}} | fields)


def packed_bytes(checkpoint, path):
    model = checkpoint.model
    export(model, path, name=checkpoint.name, training={}, signature=checkpoint.signature)
    return path.read_bytes()


def test_from_a_recipe_to_a_packed_file_that_is_evaluated(start, dataset, tmp_path):
    path, folder, packed = tmp_path / "r.toml", tmp_path / "run", tmp_path / "m.safetensors"
    assert run("recipe", dataset, "--start", start, "--out", path).exit_code == 0
    made = read_recipe(path)
    assert (made.start, made.model, made.validation) == (str(start), {}, 0.2)
    # A small model has few weights, and large ones.
    quick = {"steps": 30, "learning_rate": 0.03}
    schedule = made.schedule.model_copy(update=quick)
    path.write_text(to_toml(made.model_copy(update={"schedule": schedule})))
    told = run("train", path, "--out", folder)
    assert told.exit_code == 0, told.output
    assert "validation probe accuracy: " in told.output
    assert run("pack", folder, packed).exit_code == 0
    tuned = read(packed)
    first = read(start)
    assert tuned.training["start"] == {"name": "tiny", "revision": first.revision}
    assert "start" not in tuned.training["recipe"]
    assert tuned.signature.classes == ("fast", "slow")
    np.testing.assert_allclose(tuned.calibration[0], [5, -40], atol=5)
    changed = {
        name
        for name, layer in tuned.layers.items()
        if (layer.packed != first.layers[name].packed).any()
    }
    assert changed == {name for name in tuned.layers if name.startswith("blocks.")}
    told = run("evaluate", packed, dataset)
    assert "accuracy on 16 test sequences" in told.output
    assert float(told.output.split()[-1]) > 0.8
    assert "calibrated by 2 channels" in run("inspect", packed).output


def test_before_the_first_step_embeddings_are_those_of_the_calibrated_model(
    start, dataset, tmp_path
):
    schedule = Schedule(steps=1, batch_size=8, learning_rate=1e-30, weight_decay=0.0)
    begun = train(recipe(start, dataset, schedule=schedule))
    packed_bytes(begun, tmp_path / "begun.safetensors")
    assert run("calibrate", start, dataset, tmp_path / "told.safetensors").exit_code == 0
    rows = []
    for name in ("begun", "told"):
        out = tmp_path / f"{name}.npy"
        model = tmp_path / f"{name}.safetensors"
        assert run("embed", dataset, out, "--split", "test", "--model", model).exit_code == 0
        rows.append(out.read_bytes())
    assert rows[0] == rows[1]


def test_training_learns_through_the_join(start, dataset):
    losses = []
    schedule = {"steps": 60, "batch_size": 16, "learning_rate": 0.03}
    how = recipe(start, dataset, schedule=schedule, objective={"label_smoothing": 0.0})
    train(how, lambda step: losses.append(step.loss))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_contrast_fine_tunes_without_labels(start, dataset):
    made = recipe_for(dataset, start=str(start), use_labels=False)
    asked = {name for name, weight in made.objective if weight}
    assert asked == {"contrast", "temperature", "label_smoothing"}
    losses = []
    schedule = made.schedule.model_copy(update={"steps": 60, "learning_rate": 0.01})
    train(made.model_copy(update={"schedule": schedule}), lambda step: losses.append(step.loss))
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_channels_are_also_learned_from_nothing(dataset, tmp_path):
    fields = {name: value for name, value in CHANNELS.items() if value is not None}
    model = fields | {"channels": fields["channels"].model_dump(), "hidden_size": 16}
    objective = {"next_timestep": 0.0}
    made = train(recipe(None, dataset, model=model, objective=objective))
    assert "start" not in made.training
    packed_bytes(made, tmp_path / "m")
    assert len(read(tmp_path / "m").calibration[0]) == 2


def test_a_checkpoint_keeps_the_calibration(start, dataset, tmp_path):
    made = train(recipe(start, dataset))
    save(made, tmp_path / "run")
    again = load(tmp_path / "run")
    assert packed_bytes(again, tmp_path / "a") == packed_bytes(made, tmp_path / "b")
    center, spread = again.model.calibration
    assert center.tolist() == made.model.calibration[0].tolist()
    assert spread.tolist() == made.model.calibration[1].tolist()


def test_a_killed_run_taken_up_again_ends_with_the_same_model(start, dataset, tmp_path):
    text = (
        f"name = 'tuned'\ndataset = '{dataset}'\nstart = '{start}'\n"
        "[schedule]\nsteps = 130\nbatch_size = 8\n[augmentation]\njitter = 0.1\nwarp = 0.1\n"
    )
    path, folder = tmp_path / "r.toml", tmp_path / "run"
    path.write_text(text)
    expected = packed_bytes(train(read_recipe(path)), tmp_path / "whole")
    arguments = ["train", str(path), "--out", str(folder)]
    run_until_killed(tmp_path, *arguments)
    other = tmp_path / "other.safetensors"
    random_packed(other, 1, name="tiny", **CHANNELS | {"dropout": 0.1})
    path.write_text(text.replace(str(start), str(other)))
    assert "another run, which differs in start" in run(*arguments, "--resume").output
    path.write_text(text)
    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert packed_bytes(load(folder), tmp_path / "resumed") == expected


def test_with_a_start_other_defaults_stand(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("name = 'x'\ndataset = 'd.npz'\nstart = 'm.safetensors'\n")
    found = read_recipe(path)
    assert found.start == str(tmp_path / "m.safetensors")
    assert found.objective.next_timestep == 0
    usual = Recipe(name="x", dataset="d.npz")
    assert found.schedule.steps < usual.schedule.steps
    assert found.schedule.learning_rate < usual.schedule.learning_rate
    path.write_text(path.read_text() + "[schedule]\nsteps = 7\n")
    again = read_recipe(path).schedule
    assert (again.steps, again.learning_rate) == (7, found.schedule.learning_rate)


def test_an_embedded_model_is_named_without_its_path(tmp_path, dataset, start, monkeypatch):
    path = tmp_path / "r.toml"
    monkeypatch.setitem(EMBEDDED_MODELS, "universal", start)
    path.write_text(to_toml(recipe_for(dataset, start="universal")))
    assert read_recipe(path).start == "universal"
    made = train(recipe("universal", dataset))
    assert made.training["start"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"start": "universe"},
            "start is 'universe', which is neither a packed file nor one of the em",
        ),
        ({"start": "japanese-vowels"}, "a model of features of its own; training starts from"),
        ({"objective": {"next_timestep": 0.3}}, "one by one; set next_timestep = 0 in"),
        ({"objective": {"reconstruction": 0.3}}, "one by one; set reconstruction = 0 in"),
        ({"objective": {"mask": 0.3}}, "one by one; set mask = 0 in"),
    ],
)
def test_a_recipe_that_does_not_fit_is_an_error(start, dataset, fields, message):
    with pytest.raises(RecipeError, match=message):
        train(recipe(**{"start": start, "dataset": dataset} | fields))


def test_a_start_brings_its_own_configuration(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("name = 'x'\ndataset = 'd'\nstart = 's'\n[model]\nhidden_size = 8\n")
    with pytest.raises(RecipeError, match=r"configuration is that of 'start'; leave \[model\] out"):
        read_recipe(path)


def test_sequences_of_many_windows_are_embedded_a_few_at_once(start):
    model = from_packed(read(start))
    embed_windows, at_once = model.embed_windows, []

    def watched(tokens):
        at_once.append(len(tokens))
        return embed_windows(tokens)

    model.embed_windows = watched
    window = model.config.channels.window
    for timesteps in (window, 50 * window):
        at_once.clear()
        embed(model, random_batch([timesteps] * 20, 2))
        each = 2 * len(windows(timesteps, window))
        assert sum(at_once) == 20 * each
        assert max(at_once) <= max(EVALUATION_BATCH, each)


def test_a_channel_that_does_not_vary_is_an_error(start, tmp_path):
    flat = [np.c_[np.arange(9.0), np.ones(9)]] * 4
    write(tmp_path / "flat.npz", flat, [0, 1, 0, 1], feature_names=["speed", "lid"])
    with pytest.raises(CalibrationError, match="not vary in the data: 'lid'; leave them out"):
        train(recipe(start, tmp_path / "flat.npz"))


def test_only_the_training_part_calibrates(start):
    whole = np.load(VOWELS)["train_values"]
    made = train(recipe(start, VOWELS, validation=0.2, score_test=True))
    center, _ = made.model.calibration
    assert not np.array_equal(center, channel_statistics(whole)[0])
    np.testing.assert_allclose(center, whole.mean(axis=0), atol=0.1)
    assert set(made.training["scores"]) == {"validation_probe_accuracy", "test_probe_accuracy"}


def test_a_recipe_starts_from_universal_where_values_are_missing_or_it_is_asked_for(dataset):
    assert "start" not in run("recipe", VOWELS).output
    assert 'start = "universal"' in run("recipe", VOWELS, "--start", "universal").output
    assert 'start = "universal"' in run("recipe", dataset).output
    assert 'quantize = "binary"' in run("recipe", VOWELS, "--quantize", "binary").output
    told = run("recipe", VOWELS, "--start", "universal", "--quantize", "binary").output
    assert "the weights are those of universal; leave --quantize out" in told


def test_missing_values_are_told_where_the_model_does_not_take_them(dataset):
    told = run("recipe", dataset, "--start", "nothing")
    assert told.exit_code == 1
    assert "feature 0 is nan; values must be finite float32 numbers" in told.output
