"""The universal encoder's benchmark: which runs go where, few labels, and what the page says."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from benchmarks.quality.published import SETS
from benchmarks.quality.results import Result, Results
from benchmarks.quality.rows import Row
from benchmarks.quality.scoring import case_of
from benchmarks.quality.universal.__main__ import main
from benchmarks.quality.universal.encoders import RunError, random_row, run_row
from benchmarks.quality.universal.few_labels import LABELLED, complete_few, draw_labelled
from benchmarks.quality.universal.page import curves, few_table, goals
from benchmarks.quality.universal.rivals import balanced, levels, points
from tests.builders import DATA, ROOT
from tritserve.model.data.dataset import load as load_set
from tritserve.model.data.writing import write
from tritserve.model.engine.calibration import channel_statistics
from tritserve.model.network.bitnet import BitNet
from tritserve.model.pretraining.recipe import read_pretrain_recipe
from tritserve.model.training.checkpoint import Checkpoint, load, save

PAGE = ROOT / "docs" / "universal-quality.md"
VOWELS = DATA / "JapaneseVowels.npz"
RECIPE = """
[model]
hidden_size = 16
num_layers = 1
num_heads = 2

[model.channels]
points = 32
shape_size = 48
levels_size = 16

[schedule]
steps = 100
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return read_pretrain_recipe(path)


@pytest.fixture
def few_vowels(tmp_path):
    """A folder with 10 training and 4 test sequences of each class of JapaneseVowels."""
    parts = []
    for split, count in (("train", 10), ("test", 4)):
        data = load_set(VOWELS, split)
        rows = [np.flatnonzero(data.labels == label)[:count] for label in range(data.classes)]
        some = data.select(np.concatenate(rows))
        parts += [some.sequences.split(), some.labels]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / VOWELS.name, *parts)
    return tmp_path / "data"


def run_of(folder, recipe, *, seed=0, steps=None, prior=None, **model):
    """The folder of a finished run whose recipe differs so; its weights are random."""
    changed = recipe.model_copy(
        update={
            "seed": seed,
            "model": recipe.model.model_copy(update=model),
            "schedule": recipe.schedule.model_copy(update={"steps": steps} if steps else {}),
            "prior": recipe.prior.model_copy(update=prior or {}),
        }
    )
    torch.manual_seed(seed)
    training = {"recipe": changed.model_dump(mode="json")}
    save(Checkpoint(BitNet(changed.model).eval(), {}, "universal", training), folder)
    return folder


@pytest.mark.parametrize(
    ("differs", "key"),
    [
        ({"seed": 2}, "universal"),
        ({"seed": 2, "quantize": "none"}, "universal-float"),
        ({"seed": 2, "steps": 50}, "universal-steps-50"),
        ({"seed": 2, "hidden_size": 32, "num_heads": 4}, "universal-width-32"),
    ],
)
def test_a_run_is_the_row_that_its_recipe_says(tmp_path, recipe, differs, key):
    row, seed = run_row(run_of(tmp_path / "run", recipe, **differs), recipe, tmp_path)
    assert (row.key, seed) == (key, 2)


@pytest.mark.parametrize(
    ("differs", "named"),
    [
        ({"prior": {"series": 7}, "steps": 50}, "prior.series, schedule.steps"),
        ({"num_heads": 4}, "model.num_heads"),
        ({"quantize": "binary"}, "model.quantize"),
    ],
)
def test_a_run_that_is_no_row_is_an_error(tmp_path, recipe, differs, named):
    with pytest.raises(RunError, match=f"differs from the recipe in {named}; a run may"):
        run_row(run_of(tmp_path / "run", recipe, **differs), recipe, tmp_path)


def test_an_encoder_is_told_the_training_split_s_channels_and_served_as_it_was_trained(
    tmp_path, recipe
):
    folder = run_of(tmp_path / "run", recipe)
    case = case_of(VOWELS, 0, tmp_path)
    row, _ = run_row(folder, recipe, tmp_path)
    served = row.features(case)
    calibration = channel_statistics(case.train.sequences.values)
    for features, part in zip(served, (case.train, case.test), strict=True):
        with torch.inference_mode():
            trained = load(folder).model.embed_channels(
                torch.from_numpy(part.sequences.values),
                torch.from_numpy(part.sequences.lengths),
                calibration,
            )
        np.testing.assert_allclose(features, trained.numpy(), rtol=0, atol=0.02)


def test_random_weights_are_the_seed_s(tmp_path, recipe):
    row = random_row(recipe)
    (first, _), (second, _) = (row.features(case_of(VOWELS, s, tmp_path)) for s in (0, 1))
    assert first.shape == (270, 64)
    assert not np.allclose(first, second)
    # Of rows that were not standardised one number would drown the others.
    assert first[:, :48].std(axis=0).max() < 10 * np.median(first[:, :48].std(axis=0))


def test_blocks_of_features_have_one_variance_in_the_training_split(tmp_path):
    case = case_of(VOWELS, 0, tmp_path)
    train, test = balanced(points, levels)(case)
    assert (train.shape, test.shape) == ((270, 12 * (32 + 23)), (370, 12 * (32 + 23)))
    variance = train.var(axis=0)
    # What never varies, the share missing, adds nothing.
    assert variance[: 12 * 32].sum() == pytest.approx(1, abs=0.01)
    assert variance[12 * 32 :].sum() == pytest.approx(22 / 23, abs=0.01)
    fewer = replace(case, test=case.test.select(np.arange(5)))
    np.testing.assert_array_equal(balanced(points, levels)(fewer)[1], test[:5])


def test_draws_are_balanced_and_hold_the_smaller_ones():
    labels = np.repeat([0, 1, 2], [10, 30, 500])
    drawn = {count: draw_labelled(labels, count, draw=3) for count in LABELLED}
    for count, rows in drawn.items():
        assert np.bincount(labels[rows]).tolist() == [count] * 3
        assert len(set(rows)) == len(rows)
    for smaller, larger in pairwise(LABELLED):
        assert set(drawn[smaller]) < set(drawn[larger])
    np.testing.assert_array_equal(drawn[5], draw_labelled(labels, 5, draw=3))
    assert set(drawn[5]) != set(draw_labelled(labels, 5, draw=4))
    with pytest.raises(ValueError, match="class 0 has 10 sequences, fewer than 11"):
        draw_labelled(labels, 11, draw=0)


def test_all_rows_get_the_same_few_labels_and_what_is_there_is_not_done_again(tmp_path, few_vowels):
    results = Results(tmp_path / "few-labels.jsonl")
    case = case_of(few_vowels / VOWELS.name, 0, tmp_path)
    # The second row's features are the first's in another unit and order.
    first = Row("a", "a", features=levels)
    second = Row("b", "b", features=lambda case: tuple(5 - 3 * x[:, ::-1] for x in levels(case)))
    complete_few(results, first, case)
    complete_few(results, second, case)
    found = {(r.row, r.seed): r.linear for r in results.read()}
    assert len(found) == 2 * 10 * len(LABELLED)
    for (row, draw), accuracy in found.items():
        assert found[row.replace("a", "b"), draw] == pytest.approx(accuracy, abs=0.01)
    means = [np.mean([found[f"a-{n}", draw] for draw in range(10)]) for n in LABELLED]
    assert means == sorted(means)
    before = results.path.read_bytes()
    complete_few(results, first, case)
    assert results.path.read_bytes() == before


def result(dataset, row, svm, seed=0, neighbour=None):
    return Result(dataset, row, seed, "x", svm, svm, neighbour, 1.0)


def test_goals_are_told_as_they_came_out():
    means = {"levels": 0.94, "points": 0.95, "rocket": 0.96, "universal-float": 0.966}
    found = [result(name, row, mean) for row, mean in means.items() for name in SETS]
    found += [result(name, "universal", 0.962, seed, 0.92) for name in SETS for seed in (0, 1)]
    lines = goals(found).splitlines()[2:]
    assert [line.split(" | ")[1:] for line in lines] == [
        ["96.20", "reached |"],
        ["96.20", "missed |"],
        ["-0.40", "reached |"],
        ["92.00", "missed |"],
        ["+2.20", "reached |"],
        ["+1.20", "missed |"],
        ["+0.20", "missed |"],
    ]
    # A mean of six sets says nothing of seven.
    assert goals([r for r in found if r.dataset != "Libras"]).count("\n") == 2


def test_few_labels_are_told_as_means_over_sets_with_their_deviation_over_draws():
    found = [
        Result(name, f"levels-{count}", draw, "x", None, 0.5 + 0.1 * (draw % 2), None, 1.0)
        for name in SETS
        for count in (1, 2)
        for draw in range(10)
    ]
    assert "| statistics | 55.0 ± 5.3 | 55.0 ± 5.3 |  |  |" in few_table(found)
    assert "| statistics |  | 55.0 ± 5.3 |  |  |" in few_table(found[1:])


def test_curves_begin_at_random_weights_and_hold_the_recipe_s_own_run(recipe):
    keys = {"universal-random": 0.5, "universal-steps-50": 0.6, "universal": 0.7}
    found = [result(name, row, svm, neighbour=svm) for row, svm in keys.items() for name in SETS]
    found.append(result("Libras", "universal-width-32", 0.8, neighbour=0.8))
    steps, widths = curves(found, recipe)
    assert {at: point["svm"] for at, point in steps.items()} == pytest.approx(
        {0: 50, 50: 60, 100: 70}
    )
    assert list(widths) == [16]


def test_the_command_does_what_is_missing_and_fills_the_page(tmp_path, recipe, few_vowels):
    shutil.copy(PAGE, tmp_path / "page.md")
    others = tmp_path / "others"
    others.mkdir()
    shutil.copy(few_vowels / VOWELS.name, others / "Vowels2.npz")
    run_of(tmp_path / "run", recipe)
    arguments = [tmp_path / "run", "--recipe", tmp_path / "recipe.toml"]
    arguments += ["--page", tmp_path / "page.md", "--out", tmp_path / "quality"]
    arguments += ["--models", tmp_path / "models", "--sets", "JapaneseVowels"]

    def invoke(*more):
        done = CliRunner().invoke(main, [str(argument) for argument in (*arguments, *more)])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.output.splitlines()]

    some = ["--data", few_vowels, "--others", others, "--rows", "levels,universal"]
    scored = invoke(*some)
    assert {(r["dataset"], r["row"]) for r in scored if r["svm"]} == {
        (name, row) for name in ("JapaneseVowels", "Vowels2") for row in ("levels", "universal")
    }
    assert len(scored) == 4 + 2 * 10 * len(LABELLED)
    # Chance is a ninth.
    assert min(r["linear"] for r in scored) > 0.2
    assert invoke(*some) == []
    page = (tmp_path / "page.md").read_text()
    assert "| statistics | no |" in page
    assert "| **universal, ternary** | no | 1.6 |" in page
    assert "Vowels2" in page
    assert (tmp_path / "quality" / "few-labels.png").exists()
    assert (tmp_path / "quality" / "universal-curves.png").exists()

    # Other weights are another model, whatever their recipe says.
    checkpoint = load(tmp_path / "run")
    with torch.no_grad():
        checkpoint.model.blocks[0].ffn.up.weight.mul_(-1)
    save(checkpoint, tmp_path / "run")
    again = invoke("--data", few_vowels, "--rows", "levels,universal")
    assert {r["row"].split("-")[0] for r in again} == {"universal"}
