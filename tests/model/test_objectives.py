"""The contrast, the views it sees, and the rule that makes a recipe."""

import numpy as np
import pytest
import torch

from model.augment import augment
from model.learner import nt_xent
from model.probe import probe
from model.recipe import (
    Augmentation,
    Objective,
    Recipe,
    RecipeError,
    Schedule,
    read_recipe,
    to_toml,
)
from model.rule import recipe_for
from model.sequences import Sequences
from model.train import embed, train
from tests.builders import DATA, random_batch

VOWELS = DATA / "JapaneseVowels.npz"


def test_nt_xent_is_the_formula():
    torch.manual_seed(0)
    rows = torch.randn(6, 5)
    unit = (rows / rows.norm(dim=1, keepdim=True)).double().numpy()
    similar = np.exp(unit @ unit.T / 0.3)
    losses = []
    for i in range(6):
        j = (i + 3) % 6
        losses.append(-np.log(similar[i, j] / (similar[i].sum() - similar[i, i])))
    assert nt_xent(rows, 0.3).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_nt_xent_is_small_where_views_agree_and_sequences_differ():
    views = torch.eye(4)
    assert nt_xent(torch.cat([views, views]), 0.1) < 0.01
    assert nt_xent(torch.cat([views, views.roll(1, 0)]), 0.1) > 5


def test_a_crop_is_a_contiguous_part():
    batch = random_batch([10] * 200, 3)
    cropped = augment(
        batch, Augmentation(crop=0.4), np.ones(3, np.float32), 99, np.random.default_rng(0)
    )
    assert set(cropped.lengths.tolist()) == {6, 7, 8, 9, 10}
    starts = set()
    for whole, part in zip(batch.split(), cropped.split(), strict=True):
        start = int(np.flatnonzero((whole == part[0]).all(1))[0])
        starts.add(start)
        np.testing.assert_array_equal(part, whole[start : start + len(part)])
    assert starts == {0, 1, 2, 3, 4}


def test_contrast_learns_without_labels(tmp_path):
    """Sequences of eight patterns; the embeddings of a contrast tell them apart better."""
    rng = np.random.default_rng(0)
    time = np.linspace(0, 2 * np.pi, 20)
    labels = np.arange(96) % 8
    wave = np.sin((1 + labels[:, None]) * time) + 0.2 * rng.standard_normal((96, 20))
    values = wave.reshape(-1, 1).astype(np.float32)
    np.savez(tmp_path / "waves.npz", train_values=values, train_lengths=np.full(96, 20))
    how = Recipe(
        name="waves",
        dataset=tmp_path / "waves.npz",
        model={"hidden_size": 32, "num_layers": 1, "dropout": 0.0, "differences": 2},
        objective=Objective(classification=0.0, next_timestep=0.0, contrast=1.0),
        schedule=Schedule(steps=150),
        augmentation=Augmentation(jitter=0.2, crop=0.1),
    )
    steps = []
    checkpoint = train(how, steps.append)
    assert steps[-1].loss < 0.7 * steps[0].loss
    assert set(checkpoint.heads) == {
        f"projector.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")
    }
    untrained = train(how.model_copy(update={"schedule": Schedule(steps=1, learning_rate=1e-9)}))
    scores = []
    for model in (checkpoint.model, untrained.model):
        x = embed(model, Sequences(values, np.full(96, 20)))
        scores.append(probe(x[:48], labels[:48], x[48:], labels[48:]).linear)
    assert scores[0] > scores[1]


def test_the_rule_follows_the_data(tmp_path):
    vowels = recipe_for(VOWELS, quantize="binary", seed=3)
    assert vowels.schedule.batch_size == 64
    assert vowels.model["quantize"] == "binary"
    assert vowels.seed == 3
    assert vowels.objective.classification == 1
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "long.npz",
        train_values=rng.standard_normal((4000, 2)),
        train_lengths=np.full(10, 400),
    )
    alone = recipe_for(tmp_path / "long.npz", use_labels=False)
    assert alone.schedule.batch_size == 32
    assert alone.model["stride"] == 6
    assert alone.objective.classification == 0
    assert alone.objective.contrast == 1
    assert alone.model["window_size"] == 800
    with pytest.raises(RecipeError, match="has no labels to learn from"):
        recipe_for(tmp_path / "long.npz")


def test_a_recipe_written_is_the_recipe_read(tmp_path):
    made = recipe_for(VOWELS.resolve(), use_labels=False, seed=7)
    (tmp_path / "made.toml").write_text(to_toml(made))
    assert read_recipe(tmp_path / "made.toml") == made
