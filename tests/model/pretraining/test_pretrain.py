"""Pre-training: from a recipe to a packed model that embeds, and after a kill the same one."""

import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.builders import ROOT
from tests.model.killed import run_until_killed
from tritserve.model.engine.engine import Engine
from tritserve.model.packed.file import read
from tritserve.model.pretraining.learner import PretrainLearner, set_rate
from tritserve.model.pretraining.pretrain import draw, pretrain
from tritserve.model.pretraining.recipe import (
    PretrainObjective,
    PretrainRecipe,
    PretrainSchedule,
    read_pretrain_recipe,
)
from tritserve.model.pretraining.worker import write_block
from tritserve.model.training.checkpoint import load
from tritserve.model.training.log import read_log
from tritserve.model.training.loop import TrainingError
from tritserve.model.training.recipe import RecipeError
from tritserve.model.training.state import StateError
from tritserve.service.commands.cli import main

SMALL = """
name = "small"
threads = 1
[model]
hidden_size = 16
num_layers = 1
[model.channels]
points = 32
patch = 8
shape_size = 24
levels_size = 8
[prior]
series = 200
points = 64
[schedule]
steps = 12
batch_size = 16
warmup = 3
"""


def write(folder, text=SMALL):
    path = folder / "r.toml"
    path.write_text(text)
    return path


def small(tmp_path, **fields):
    return read_pretrain_recipe(write(tmp_path)).model_copy(update=fields)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    return draw(small(folder), folder)


def weights(checkpoint):
    return [value.numpy().tobytes() for value in checkpoint.model.state_dict().values()]


def test_pretrained_and_packed_a_model_embeds_series_of_any_length_and_width(tmp_path):
    folder, packed = tmp_path / "run", tmp_path / "small.safetensors"
    done = run("pretrain", write(tmp_path), "--out", folder)
    assert done.exit_code == 0, done.output
    assert f"checkpoint: {folder}" in done.stdout
    for line in read_log(folder):
        assert set(line["losses"]) == {"contrast", "reconstruction"}
        assert sum(line["losses"].values()) == pytest.approx(line["loss"], rel=1e-5)
    assert (folder / "training.png").stat().st_size > 10_000
    assert run("pack", folder, packed).exit_code == 0

    engine = Engine.load(packed)
    for width in (1, 5):
        values = np.random.default_rng(0).standard_normal((1200, width)).astype(np.float32)
        embeddings = engine.embed(values, np.array([1, 9, 1190]))
        assert embeddings.shape == (3, 32)
        assert np.isfinite(embeddings).all()

    told = read(packed).training
    assert told["data"] == "synthetic series alone; no real series was seen"
    assert told["recipe"]["prior"]["series"] == 200
    assert told["recipe"]["seed"] == 0
    assert told["recipe"]["schedule"]["steps"] == 12


def test_joined_rows_are_standardised_by_the_prior(tmp_path, pool):
    recipe = small(tmp_path)
    model = pretrain(recipe, pool, tmp_path).model
    series = torch.from_numpy(pool.astype(np.float32)).reshape(-1, 1)
    lengths = torch.full((len(pool),), pool.shape[1])
    rows = []
    model.join.register_forward_pre_hook(lambda _, given: rows.append(given[0]))
    with torch.inference_mode():
        model(series, lengths)
    rows = (rows[0] - model.join.mean) / model.join.std
    np.testing.assert_allclose(rows.mean(dim=0), 0, atol=1e-4)
    np.testing.assert_allclose(rows.std(dim=0, correction=0), 1, rtol=1e-3)


def test_one_seed_gives_one_model_and_another_seed_another(tmp_path, pool):
    first = weights(pretrain(small(tmp_path), pool, tmp_path / "a"))
    assert first == weights(pretrain(small(tmp_path), pool, tmp_path / "b"))
    assert first != weights(pretrain(small(tmp_path, seed=1), pool, tmp_path / "c"))


def test_pretraining_opens_no_file_but_its_own(tmp_path):
    """No data set is among what it learns from: all of it is drawn from a seed."""
    opened, recording = [], True

    def record(event, arguments):
        if recording and event == "open":
            opened.append(arguments[0])

    sys.addaudithook(record)  # which stays for as long as the process
    recipe, pool = small(tmp_path), tmp_path / "run" / "pool"
    pool.mkdir(parents=True)
    # Here, and not in another process, which no hook of this one sees.
    write_block(pool / "000000.npy", recipe.seed, 0, recipe.prior.series, recipe.prior)
    pretrain(recipe, draw(recipe, pool.parent), pool.parent)
    recording = False

    files = {Path(os.fsdecode(file)) for file in opened if not isinstance(file, int)}
    assert pool / "000000.npy" in files
    # Modules and what is said of packages, which importing reads; what the system tells of itself.
    aside = re.compile(r".*(\.py|\.pyc|\.so|\.zip|\.dist-info/\w+(\.txt)?)|/(dev|proc|sys)/.*")
    foreign = {file for file in files if not file.is_relative_to(tmp_path)}
    assert not [file for file in foreign if not aside.fullmatch(str(file))]


@pytest.mark.parametrize("loss", ["contrast", "reconstruction"])
def test_pretraining_learns_by_either_loss(tmp_path, pool, loss):
    weight = {"contrast": 0.0, "reconstruction": 0.0} | {loss: 1.0}
    recipe = small(
        tmp_path,
        objective=PretrainObjective(**weight),
        schedule=PretrainSchedule(steps=100, batch_size=32, warmup=5, learning_rate=5e-3),
    )
    losses = []
    pretrain(recipe, pool, tmp_path, lambda step: losses.append(step.loss))
    # What knows nothing of its window guesses among 63 others, or the mean, whose error is 1.
    ignorant = {"contrast": math.log(63), "reconstruction": 1.0}
    assert np.mean(losses[-10:]) < 0.9 * ignorant[loss]


def test_a_killed_run_taken_up_again_ends_with_the_same_model(tmp_path, pool):
    recipe = write(tmp_path, SMALL.replace("steps = 12", "steps = 130"))
    expected = weights(pretrain(read_pretrain_recipe(recipe), pool, tmp_path / "whole"))

    folder = tmp_path / "run"
    arguments = ["pretrain", str(recipe), "--out", str(folder)]
    run_until_killed(tmp_path, *arguments)
    assert (folder / "state.pt").exists()
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "--resume goes on with it" in refused.stderr
    assert "is not finished" in run("pack", folder, tmp_path / "packed").stderr

    resumed = run(*arguments, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert weights(load(folder)) == expected
    log = read_log(folder)
    assert [line["step"] for line in log] == list(range(1, 131))
    assert log[-1]["loss"] == read_log(tmp_path / "whole")[-1]["loss"]
    assert log[119]["layers"]["blocks.0.ffn.up"]["flips"] > 0


def test_a_run_stopped_before_its_first_state_keeps_its_series(tmp_path):
    recipe = small(tmp_path)
    folder = tmp_path / "run"
    draw(recipe, folder)
    block = folder / "pool" / "000000.npy"
    drawn = block.stat().st_mtime_ns
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 9.0, "learning_rate": 0.1}\n')
    assert "--resume goes on with it" in run("pretrain", write(tmp_path), "--out", folder).stderr
    assert run("pretrain", write(tmp_path), "--out", folder, "--resume").exit_code == 0
    assert block.stat().st_mtime_ns == drawn
    assert [line["step"] for line in read_log(folder)] == list(range(1, 13))
    assert run("pretrain", write(tmp_path), "--out", folder, "--overwrite").exit_code == 0
    assert block.stat().st_mtime_ns > drawn


def test_a_run_of_another_recipe_is_not_taken_up(tmp_path, pool):
    pretrain(small(tmp_path), pool, tmp_path)
    with pytest.raises(StateError, match="differs in schedule;"):
        pretrain(small(tmp_path, schedule=PretrainSchedule(steps=3)), pool, tmp_path)


def test_a_loss_that_is_not_finite_stops_with_a_reason(tmp_path, pool):
    recipe = small(tmp_path, objective=PretrainObjective(contrast=1e39))
    with pytest.raises(TrainingError, match="the loss is inf at step 1 of 12, learning rate"):
        pretrain(recipe, pool, tmp_path)


def test_the_rate_warms_up_and_falls_as_a_cosine():
    learner = PretrainLearner(PretrainRecipe().model, PretrainObjective())
    optimizer = torch.optim.SGD(learner.parameters(), lr=1.0)
    schedule = PretrainSchedule(steps=1000, warmup=10, learning_rate=1e-2, last=0.1)
    rates = [set_rate(optimizer, schedule, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-3)
    assert int(np.argmax(rates)) == 9
    assert rates[500] == pytest.approx(1e-2 * (0.1 + 0.9 * 0.5))
    assert rates[-1] == pytest.approx(1e-3, rel=1e-3)
    assert optimizer.param_groups[0]["lr"] == rates[-1]
    assert math.isclose(set_rate(optimizer, PretrainSchedule(warmup=0), 0), 2e-3)


def test_the_universal_recipe_is_what_is_not_said_otherwise(tmp_path):
    universal = read_pretrain_recipe(ROOT / "model" / "pretrained" / "universal.toml")
    assert universal == PretrainRecipe()
    assert universal == read_pretrain_recipe(write(tmp_path, ""))
    changed = read_pretrain_recipe(write(tmp_path, "[model]\nhidden_size = 128"))
    assert changed.model == universal.model.model_copy(update={"hidden_size": 128})
    assert json.loads(changed.model_dump_json())["model"]["attention"] == "full"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3", "steps: Extra inputs"),
        ("[prior]\nlength = 3", r"prior\.length: Extra inputs"),
        ("[model]\nwidth = 3", r"model\.width: Extra inputs"),
        ("[model.channels]\nsize = 3", r"model\.channels\.size: Extra inputs"),
        ("[model]\nnum_heads = 5", "must be a multiple of num_heads 5"),
        ("[model]\nembed_dim = 5", "either an embed_dim or channels"),
        ("model = 3", "model: Input should be"),
        ("[views]\nwarp = 0.2", r"views\.warp: .* less than 0.15"),
        ("[prior.graph]\nnodes = 3", "taken 8 of 3 nodes; take as many at most"),
        ("[objective]\ncontrast = 0.0\nreconstruction = 0.0", "nothing would be trained"),
        ("[schedule]\nbatch_size = 1", r"batch_size: .* greater than or equal to 2"),
        ("name = ", "is not TOML"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_an_error(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        read_pretrain_recipe(write(tmp_path, text))
