"""The validation part: its curve, its groups, and that measuring leaves no trace."""

import numpy as np
import pytest

from tests.builders import DATA
from tritserve.model.data.dataset import DataError, load
from tritserve.model.data.writing import write
from tritserve.model.errors import DataWarning
from tritserve.model.training import scores
from tritserve.model.training.log import read_log
from tritserve.model.training.plot import plot_training
from tritserve.model.training.recipe import Augmentation, Recipe, Schedule
from tritserve.model.training.rule import recipe_for
from tritserve.model.training.train import train

STEPS = 40


def recipe(**fields):
    base = {
        "name": "small",
        "dataset": DATA / "JapaneseVowels.npz",
        "validation": 0.2,
        "model": {"hidden_size": 16, "num_layers": 1, "dropout": 0.1},
        "schedule": Schedule(steps=STEPS, batch_size=16),
        "augmentation": Augmentation(jitter=0.1, warp=0.1),
    }
    return Recipe(**(base | fields))


def sessions(path, count=6):
    """Sequences of two classes, of several sessions."""
    rng = np.random.default_rng(0)
    labels = np.arange(8 * count) % 2
    values = rng.standard_normal((8 * count, 5, 2)) + labels[:, None, None]
    write(path, values, labels, groups=np.repeat(np.arange(count), 8))
    return path


def weights(checkpoint):
    return {name: tensor.tolist() for name, tensor in checkpoint.model.state_dict().items()}


def test_measuring_the_curve_leaves_no_trace(monkeypatch):
    steps = {}
    found = {}
    for points in (1, 10):
        monkeypatch.setattr(scores, "CURVE_POINTS", points)
        told = steps[points] = []
        found[points] = weights(train(recipe(), told.append))
    assert found[1] == found[10]
    assert [step.loss for step in steps[1]] == [step.loss for step in steps[10]]
    measured = {n: [s.step for s in told if s.validation is not None] for n, told in steps.items()}
    assert measured == {1: [40], 10: list(range(4, 41, 4))}
    assert steps[10][-1].validation > 0.5


def test_without_a_validation_part_there_is_no_curve(tmp_path):
    told = []
    train(recipe(validation=0.0), told.append, tmp_path)
    assert {step.validation for step in told} == {None}
    assert not any("validation" in line for line in read_log(tmp_path))


class StoppedError(Exception):
    """What stops a run in the middle."""


def test_a_resumed_run_has_the_same_curve_and_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("tritserve.model.training.loop.SAVE_EVERY", 15)
    whole = weights(train(recipe(), folder=tmp_path / "whole"))

    def stop(step):
        if step.step == 20:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(recipe(), stop, tmp_path / "stopped")
    assert weights(train(recipe(), folder=tmp_path / "stopped")) == whole
    logs = [
        [(line["step"], line.get("validation")) for line in read_log(tmp_path / folder)]
        for folder in ("whole", "stopped")
    ]
    assert logs[0] == logs[1]


def test_the_picture_has_the_curve(tmp_path):
    train(recipe(), folder=tmp_path)
    with_curve = plot_training(tmp_path).read_bytes()
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text().replace('"validation"', '"other"'))
    assert plot_training(tmp_path).read_bytes() != with_curve


def test_whole_groups_are_held_out_and_told_of(tmp_path):
    told = train(recipe(dataset=sessions(tmp_path / "d.npz"))).training["dataset"]
    assert (told["groups"], told["groups_held_out"], told["sequences_held_out"]) == (6, 1, 8)


def test_one_group_cannot_be_validated(tmp_path):
    data = sessions(tmp_path / "d.npz", count=1)
    with pytest.raises(DataError, match="all sequences are of one group"):
        train(recipe(dataset=data))
    message = "^d has no validation part: all sequences are of one group"
    with pytest.warns(DataWarning, match=message):
        assert recipe_for(data, validate=True).validation == 0
    assert load(data, "train").groups is not None


def test_the_rule_proposes_a_share_that_training_takes(tmp_path):
    made = recipe_for(sessions(tmp_path / "d.npz"), validate=True)
    assert made.validation == 0.2
    train(made.model_copy(update={"schedule": Schedule(steps=2)}))
    assert recipe_for(sessions(tmp_path / "d.npz")).validation == 0


def test_the_rule_proposes_a_share_where_many_groups_hold_a_class_alone(tmp_path):
    labels = np.zeros(200, np.int64)
    labels[:100:4] = np.arange(1, 26)
    values = np.random.default_rng(0).standard_normal((200, 5, 2))
    write(tmp_path / "d.npz", values, labels, groups=np.repeat(np.arange(50), 4))
    assert recipe_for(tmp_path / "d.npz", validate=True).validation == 0.2


def test_the_rule_counts_on_no_loss_that_only_held_out_sequences_could_teach(tmp_path):
    # One sequence alone has a next timestep; a seed holds it out.
    values = [np.ones((2, 1)) * n for n in range(3)] + [np.ones((300, 1))] + [np.ones((1, 1))] * 6
    write(tmp_path / "d.npz", values, [0, 1] * 5, layout="time_first")
    for seed in range(6):
        made = recipe_for(tmp_path / "d.npz", use_labels=False, validate=True, seed=seed)
        train(made.model_copy(update={"schedule": Schedule(steps=1)}))


def test_a_data_set_that_looks_transposed_is_warned_about(tmp_path):
    values = np.random.default_rng(0).standard_normal((8, 3, 40))
    write(tmp_path / "d.npz", values, [0, 1] * 4, layout="time_first")
    message = r"every sequence of d has 3 timesteps of 40 features; transposed\?"
    with pytest.warns(DataWarning, match=message):
        recipe_for(tmp_path / "d.npz")
    with pytest.warns(DataWarning, match=message):
        train(recipe(dataset=tmp_path / "d.npz", schedule=Schedule(steps=1)))
