"""The quality benchmark: its results file, its page, and rows that need no long training."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.quality.__main__ import main
from benchmarks.quality.page import goals, table, write_page
from benchmarks.quality.published import SETS
from benchmarks.quality.results import Result, Results
from tests.builders import DATA, ROOT
from tritserve.model.data.dataset import load
from tritserve.model.packed.file import read
from tritserve.model.training.rule import recipe_for

PAGE = ROOT / "docs" / "quality.md"


def result(dataset, row, accuracy, seed=0):
    return Result(dataset, row, seed, "x", accuracy, accuracy, None, 1.0)


def test_the_last_result_of_a_row_counts(tmp_path):
    results = Results(tmp_path / "new" / "results.jsonl")
    assert results.read() == []
    for accuracy in (0.5, 0.75):
        results.append(result("Libras", "ternary", accuracy))
    results.append(result("Libras", "ternary", 0.25, seed=1))
    assert [(r.seed, r.svm) for r in results.read()] == [(0, 0.75), (1, 0.25)]


def test_the_table_has_means_and_deviations():
    found = [result(name, "ternary", 0.9, seed) for name in SETS for seed in (0, 1)]
    found[0] = result(SETS[0], "ternary", 0.8)
    row = next(line for line in table(found, "svm").splitlines() if "**ternary**" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["yes", "1.6", "85.0 ± 7.1"]
    assert cells[-2:] == ["89.29", "2"]
    assert "TS2Vec, published" not in table(found, "linear")


def test_goals_are_told_as_they_came_out():
    found = [result(name, "float", 0.95) for name in SETS]
    found += [result(name, "ternary", 0.94) for name in SETS]
    found += [result(name, "after", 0.94) for name in SETS]
    lines = goals(found).splitlines()
    assert "| ternary within 0.5 points of its float twin on the mean | -1.00 | missed |" in lines
    assert "| no set worse than 2.5 points | -1.00, JapaneseVowels | reached |" in lines
    assert any("ternarising after training everywhere | not on Japanese" in line for line in lines)
    assert not any("self-supervised" in line for line in lines)


def test_a_page_without_its_markers_is_an_error(tmp_path):
    (tmp_path / "page.md").write_text("# Quality\n")
    with pytest.raises(ValueError, match="has no part 'svm'"):
        write_page(tmp_path / "page.md", [])


@pytest.fixture
def quick(monkeypatch):
    """Recipes of two steps, for trainings that need not learn."""

    def two_steps(*given, **options):
        made = recipe_for(*given, **options)
        return made.model_copy(update={"schedule": made.schedule.model_copy(update={"steps": 2})})

    monkeypatch.setattr("benchmarks.quality.rows.recipe_for", two_steps)


def test_a_model_trained_on_other_data_is_not_taken(tmp_path, quick):
    shutil.copy(PAGE, tmp_path / "quality.md")
    arrays = dict(np.load(DATA / "JapaneseVowels.npz"))
    models = tmp_path / "models"
    arguments = ["--data", tmp_path, "--out", tmp_path / "quality", "--models", models]
    arguments += ["--sets", "JapaneseVowels", "--rows", "ternary", "--seeds", "0"]
    for shift in (0, 1, 1):
        changed = arrays["train_values"] + np.float32(shift)
        np.savez(tmp_path / "JapaneseVowels.npz", **arrays | {"train_values": changed})
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        packed = read(models / "JapaneseVowels-ternary-0.safetensors")
        sha256 = packed.training["dataset"]["sha256"]
        assert sha256 == load(tmp_path / "JapaneseVowels.npz", "train").sha256
    assert len(list(models.glob("*/checkpoint.json"))) == 2


def test_unseen_classes_are_judged_and_not_trained_on(tmp_path, quick):
    shutil.copy(PAGE, tmp_path / "quality.md")
    models = tmp_path / "models"
    arguments = ["--data", DATA, "--out", tmp_path / "quality", "--models", models]
    arguments += ["--sets", "JapaneseVowels", "--rows", "unseen-ternary,unseen-known"]
    done = CliRunner().invoke(main, [*map(str, arguments), "--seeds", "0,1"])
    assert done.exit_code == 0, done.output
    scored = [json.loads(line) for line in done.output.splitlines()]
    assert [(r["row"], r["seed"]) for r in scored] == [
        (f"unseen-{row}", seed) for seed in (0, 1) for row in ("ternary", "known")
    ]
    # Each of nine speakers has 30 utterances to train on.
    unseen = read(models / "unseen/JapaneseVowels-ternary-0.safetensors").training["dataset"]
    known = read(models / "JapaneseVowels-ternary-0.safetensors").training["dataset"]
    assert (unseen["classes"], unseen["sequences"]) == (5, 150)
    assert (known["classes"], known["sequences"]) == (9, 270)
    trained_on = [
        load(models / "unseen" / f"JapaneseVowels-{seed}.npz", "train") for seed in (0, 1)
    ]
    assert trained_on[0].sha256 != trained_on[1].sha256
    whole = load(DATA / "JapaneseVowels.npz", "train")
    rows = np.random.default_rng(0).permutation(9)[:4]
    expected = whole.select(np.flatnonzero(~np.isin(whole.labels, rows)))
    np.testing.assert_array_equal(trained_on[0].sequences.values, expected.sequences.values)
    # Each case's probes saw four classes: chance is a quarter.
    assert min(r["svm"] for r in scored) > 0.5


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--rows", "last,nope", "there is no row 'nope'; there are last, summary, "),
        ("--sets", "Vowels", "there is no set 'Vowels'; there are JapaneseVowels, "),
        ("--seeds", "0,a", "'0,a' are no whole numbers separated by commas"),
        ("--seeds", "-1", "'-1' are no whole numbers separated by commas"),
        ("--seeds", "", "'' are no whole numbers separated by commas"),
    ],
)
def test_an_option_that_names_nothing_is_an_error(tmp_path, option, value, message):
    done = CliRunner().invoke(main, ["--data", str(tmp_path), option, value])
    assert done.exit_code == 2
    assert f"Error: Invalid value for '{option}': {message}" in done.output


def test_a_run_taken_up_again_does_only_what_is_missing(tmp_path):
    shutil.copy(PAGE, tmp_path / "quality.md")
    arguments = ["--data", DATA, "--out", tmp_path / "quality", "--models", tmp_path / "models"]
    arguments += ["--sets", "JapaneseVowels", "--seeds", "0,1"]

    def run(rows):
        done = CliRunner().invoke(main, [*map(str, arguments), "--rows", rows])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.output.splitlines()]

    assert [(r["row"], r["seed"]) for r in run("last")] == [("last", 0)]
    (random, *_) = again = run("last,random")
    assert [(r["row"], r["seed"]) for r in again] == [("random", 0), ("random", 1)]
    assert random["svm"] > 0.5
    assert (tmp_path / "models" / "JapaneseVowels-random-0.safetensors").exists()
    assert "| raw last timestep | no |" in (tmp_path / "quality.md").read_text()
    assert (tmp_path / "quality" / "bits.png").exists()
