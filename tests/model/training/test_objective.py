"""The losses that need no labels, the views they see, and the rule that makes a recipe."""

import numpy as np
import pytest
import torch

from tests.builders import DATA, random_batch
from tritserve.model.config import ModelConfig
from tritserve.model.evaluation.probe import linear_probe
from tritserve.model.network.bitnet import BitNet
from tritserve.model.sequences import Sequences
from tritserve.model.training.learner import Learner, nt_xent, resample
from tritserve.model.training.recipe import (
    Augmentation,
    Objective,
    Recipe,
    RecipeError,
    Schedule,
    read_recipe,
    to_toml,
)
from tritserve.model.training.rule import recipe_for
from tritserve.model.training.scores import embed
from tritserve.model.training.train import train

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
        scores.append(linear_probe(x[:48], labels[:48], x[48:], labels[48:]))
    assert scores[0] > scores[1]


def test_resampling_interpolates_between_timesteps():
    batch = random_batch([1, 2, 7, 16, 40], 3)
    found = resample(torch.from_numpy(batch.values), torch.from_numpy(batch.lengths), 16)
    for sequence, resampled in zip(batch.split(), found.numpy(), strict=True):
        at = np.linspace(0, len(sequence) - 1, 16)
        expected = [np.interp(at, np.arange(len(sequence)), sequence[:, i]) for i in range(3)]
        np.testing.assert_allclose(resampled, np.stack(expected, axis=1), atol=1e-5)
        np.testing.assert_array_equal(resampled[[0, -1]], sequence[[0, -1]])


@pytest.fixture
def walks(tmp_path):
    """A recipe that learns to reconstruct random walks, and walks that it does not see."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((200, 10, 2)).cumsum(axis=1).astype(np.float32).reshape(-1, 2)
    lengths = np.full(200, 10)
    np.savez(tmp_path / "walks.npz", train_values=values[:1500], train_lengths=lengths[:150])
    how = Recipe(
        name="walks",
        dataset=tmp_path / "walks.npz",
        model={"hidden_size": 32, "num_layers": 1, "dropout": 0.0, "pooling": "weighted_mean"},
        objective=Objective(classification=0.0, next_timestep=0.0, reconstruction=1.0),
        schedule=Schedule(steps=200),
    )
    return how, Sequences(values[1500:], lengths[150:])


def unexplained(trained, shown, whole):
    """How much of whole sequences' variance cannot be decoded from embeddings of those shown."""
    decoded = embed(trained.model, shown) @ trained.heads["decoder.weight"].numpy().T
    decoded += trained.heads["decoder.bias"].numpy()
    standard = trained.model.standardize(torch.from_numpy(whole.values))
    target = resample(standard, torch.from_numpy(whole.lengths), 16).flatten(1).numpy()
    return np.mean((decoded - target) ** 2) / np.mean(target**2)


def test_reconstruction_learns_to_tell_a_sequence_from_its_embedding(walks):
    how, unseen = walks
    trained = train(how)
    assert set(trained.heads) == {"decoder.weight", "decoder.bias"}
    assert unexplained(trained, unseen, unseen) < 0.3


def test_masking_learns_to_fill_in_what_is_hidden(walks):
    how, whole = walks
    hidden = np.random.default_rng(1).random((len(whole.values), 1)) < 0.4
    found = {}
    for mask in (0.0, 0.4):
        trained = train(
            how.model_copy(update={"objective": how.objective.model_copy(update={"mask": mask})})
        )
        mean = trained.model.standardize.mean.numpy()
        shown = Sequences(np.where(hidden, mean, whole.values), whole.lengths)
        found[mask] = unexplained(trained, shown, whole)
    assert found[0.4] < 0.9 * found[0.0]


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
    with pytest.raises(RecipeError, match="the data set has no labels; --without-labels learns"):
        recipe_for(tmp_path / "long.npz")


def test_the_rule_needs_two_classes(tmp_path):
    path = tmp_path / "one.npz"
    np.savez(path, train_values=np.ones((6, 1)), train_lengths=[2, 2, 2], y_train=[1, 1, 1])
    with pytest.raises(RecipeError, match=r"every training label is 1; .* --without-labels learns"):
        recipe_for(path)
    assert recipe_for(path, use_labels=False).objective.classification == 0


def without_labels(path, *lengths):
    values = np.random.default_rng(0).standard_normal((sum(lengths), 1), np.float32)
    np.savez(path, train_values=values, train_lengths=np.array(lengths))
    return path


def test_the_rule_stays_within_what_a_model_takes(tmp_path):
    long = recipe_for(without_labels(tmp_path / "long.npz", 1_000_000), use_labels=False)
    config = ModelConfig(embed_dim=1, **long.model)
    assert config.max_timesteps == 1_048_576
    assert config.stride == 1_024
    longer = without_labels(tmp_path / "longer.npz", 2_000_000, 5)
    with pytest.raises(RecipeError, match="2000000 timesteps, a model takes at most 1048576; cut"):
        recipe_for(longer, use_labels=False)


@pytest.mark.parametrize("lengths", [[1] * 9, [40], [1]])
def test_the_rule_leaves_out_losses_that_could_teach_nothing(tmp_path, lengths):
    made = recipe_for(without_labels(tmp_path / "few.npz", *lengths), use_labels=False)
    assert made.objective.reconstruction == 3
    assert (made.objective.next_timestep > 0) == (max(lengths) > 1)
    assert (made.objective.contrast > 0) == (len(lengths) > 1)
    schedule = made.schedule.model_copy(update={"steps": 2})
    train(made.model_copy(update={"schedule": schedule}))


def test_nothing_tells_of_hidden_timesteps():
    torch.manual_seed(0)
    config = ModelConfig(embed_dim=2, hidden_size=16, num_layers=1, differences=2)
    objective = Objective(classification=0.0, next_timestep=0.0, reconstruction=1.0, mask=0.3)
    learner = Learner(BitNet(config), 0, objective)
    batch = random_batch([1, 2, 9, 40], 2)
    given = torch.from_numpy(batch.values), torch.from_numpy(batch.lengths)
    whole, _ = learner.encoder.read(*given)
    shown = []
    encode = learner.encoder.encode
    learner.encoder.encode = lambda inputs, lengths: shown.append(inputs) or encode(inputs, lengths)
    learner.loss(*given, None)
    hidden = (shown[0][:, :2] == 0).all(dim=1).numpy()
    assert 0.1 < hidden.mean() < 0.5
    for order in range(3):
        # The difference of an order is of so many timesteps before it too.
        gone = [
            sequence[max(0, at - order) : at + 1].any()
            for sequence in np.split(hidden, batch.offsets[1:-1])
            for at in range(len(sequence))
        ]
        columns = slice(2 * order, 2 * order + 2)
        expected = np.where(np.array(gone)[:, None], 0, whole[:, columns].numpy())
        np.testing.assert_array_equal(shown[0][:, columns].numpy(), expected)


@pytest.mark.parametrize("length", [1, 2])
def test_the_rule_hides_no_whole_sequences(tmp_path, length):
    path = tmp_path / "few.npz"
    values = np.random.default_rng(0).standard_normal((4 * length, 1))
    np.savez(path, train_values=values, train_lengths=[length] * 4, y_train=[0, 1, 0, 1])
    made = recipe_for(path)
    assert (made.objective.mask > 0) == (length > 1)
    train(made.model_copy(update={"schedule": Schedule(steps=2)}))


def test_a_recipe_written_is_the_recipe_read(tmp_path):
    made = recipe_for(VOWELS.resolve(), use_labels=False, seed=7)
    (tmp_path / "made.toml").write_text(to_toml(made))
    assert read_recipe(tmp_path / "made.toml") == made
