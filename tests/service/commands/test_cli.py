"""The commands that train and pack: what they refuse, and what they leave as it was."""

import json
import os
import subprocess
import sys
import time

import click
import numpy as np
import pytest
from click.testing import CliRunner

from tests.builders import random_bitnet
from tritserve.model.packed.file import read
from tritserve.model.training.checkpoint import Checkpoint, save
from tritserve.model.training.export import export
from tritserve.model.training.log import read_log
from tritserve.model.training.recipe import read_recipe
from tritserve.service.commands.cli import main


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def refusal(*arguments):
    done = run(*arguments)
    assert done.exit_code != 0, done.output
    return done.output


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "runs" / "e"
    save(Checkpoint(random_bitnet(), {}, "e", {}), folder)
    return folder


def test_help_lists_every_command():
    command = [sys.executable, "-m", "tritserve", "--help"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    listed = {line.split()[0] for line in told.partition("Commands:")[2].splitlines() if line}
    assert listed >= {"serve", "health", "embed", "train", "pack", "inspect", "evaluate"}
    assert listed >= {"recipe", "bench"}
    assert "No such command 'serv'" in refusal("serv")


PACK_INTO_EACH = """
import sys
from click.testing import CliRunner
from tritserve.service.commands.cli import main

for out in sys.argv[2:]:
    done = CliRunner().invoke(main, ["pack", sys.argv[1], out])
    print(done.exit_code, done.stderr, end="")
"""


def test_a_checkpoint_is_not_packed_onto_itself(checkpoint, tmp_path):
    (tmp_path / "link").symlink_to(checkpoint / "model.safetensors")
    before = contents(checkpoint)
    outs = [checkpoint / name for name in ("model.safetensors", "state.pt", "run.lock")]
    outs.append(tmp_path / "link")
    # In a process of its own: it may die of what this is about.
    command = [sys.executable, "-c", PACK_INTO_EACH, checkpoint, *outs]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    refused = [f"1 Error: {out} is a file of the checkpoint; pack into another one" for out in outs]
    assert done.stdout.splitlines() == refused
    assert contents(checkpoint) == before


def test_a_packed_file_may_lie_beside_its_checkpoint(checkpoint):
    out = checkpoint / "packed.safetensors"
    assert run("pack", checkpoint, out).exit_code == 0
    assert read(out).name == "e"
    assert run("pack", checkpoint, out).exit_code == 0


@pytest.mark.parametrize("command", ["health", "bench"])
@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf", "1e9"])
def test_seconds_out_of_range_are_an_error(command, seconds):
    assert "Invalid value for '--seconds'" in refusal(command, "--seconds", seconds)


def bench(model, *options):
    done = run("bench", "--model", model, "--batch", 2, "--seconds", 0.1, *options)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize("unit", [1e-14, 1e14])
def test_bench_takes_models_of_any_unit(tmp_path, unit):
    model = random_bitnet(differences=1)
    model.standardize.std *= unit
    model.standardize.mean *= unit
    export(model, tmp_path / "packed", name="x", training={})
    assert bench(tmp_path / "packed", "--timesteps", 20)["timesteps"] == 20


def test_bench_takes_sequences_of_a_usual_length(tmp_path):
    export(random_bitnet(window_size=2**20), tmp_path / "long", name="x", training={})
    export(random_bitnet(window_size=9), tmp_path / "short", name="x", training={})
    assert bench(tmp_path / "long")["timesteps"] == 60
    assert bench(tmp_path / "short")["timesteps"] == 9
    message = refusal("bench", "--model", tmp_path / "short", "--timesteps", 10)
    assert "10 timesteps; this model takes at most 9" in message


def test_without_memory_the_command_says_so(tmp_path):
    export(random_bitnet(window_size=2**20), tmp_path / "long", name="x", training={})
    options = ["--batch", 1_000_000, "--timesteps", 2**20]
    message = refusal("bench", "--model", tmp_path / "long", *options)
    assert message.startswith("Error: there is not enough memory: Unable to allocate")


def test_threads_are_those_of_the_option_or_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITSERVE_THREADS", "3")
    export(random_bitnet(), tmp_path / "packed", name="x", training={})
    assert bench(tmp_path / "packed")["threads"] == 3
    assert bench(tmp_path / "packed", "--threads", 2)["threads"] == 2
    for command in ("bench", "embed", "evaluate"):
        assert "is not in the range 1<=x<=1024" in refusal(command, "--threads", 0)


def test_every_option_says_what_it_is():
    for name in main.list_commands(click.Context(main)):
        command = main.get_command(click.Context(main), name)
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert all(option.help for option in options), name


@pytest.fixture
def small(tmp_path):
    """A data set of two classes, and a recipe for it that is trained in no time."""
    rng = np.random.default_rng(0)
    arrays = {f"{part}_values": rng.standard_normal((60, 3)) for part in ("train", "test")}
    arrays |= {f"{part}_lengths": np.full(12, 5) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(12) % 2 for part in ("train", "test")}
    np.savez(tmp_path / "small.npz", **arrays)
    return tmp_path / "small.npz", write_recipe(tmp_path / "small.toml", "name = 'small'")


def write_recipe(path, *lines):
    path.write_text(
        "\n".join(lines)
        + "\ndataset = 'small.npz'\n[model]\nhidden_size = 16\nnum_layers = 1\n"
        + "[schedule]\nsteps = 3\n"
    )
    return path


def changed(dataset, **arrays):
    """Other arrays in place of a data set's; None leaves one out."""
    arrays = dict(np.load(dataset)) | arrays
    np.savez(dataset, **{name: array for name, array in arrays.items() if array is not None})


ONE_CLASS = np.zeros(12, int)
ALONE = "[objective]\nclassification = 0.0\nnext_timestep = 1.0\n"


@pytest.mark.parametrize(
    ("asked", "arrays", "message"),
    [
        ("score_test = true", {"test_values": None}, "score_test asks for the test split: "),
        ("score_test = true", {"y_test": None}, "score_test asks for the test split: it has no y_"),
        (
            "score_test = true",
            {"test_values": np.zeros((60, 2))},
            "score_test asks for the test split: values have shape [60, 2]; this model takes [time",
        ),
        (
            "score_test = true",
            {"test_values": np.zeros((61, 3)), "test_lengths": [61], "y_test": [0]},
            "sequence 0 has 61 timesteps; this model takes at most 60",
        ),
        (
            "score_test = true",
            {"y_test": ONE_CLASS + 2**62},
            f"y_test holds the label {2**62}, which y_train has not",
        ),
        ("score_test = true", {"y_train": ONE_CLASS}, "every training label is 0; a score needs"),
        (
            "validation = 0.2",
            {"y_train": ONE_CLASS + 3},
            "every training label is 3; a score needs",
        ),
        ("validation = 0.2", {"y_train": None}, "validation asks for a score, which needs labels"),
        ("score_test = true", {"y_train": None}, "score_test asks for a score, which needs labels"),
        ("seed = 0", {"y_train": ONE_CLASS + 2_000_000_000}, "label 2000000000, and there are 12"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_the_first_step(
    small, tmp_path, asked, arrays, message
):
    dataset, _ = small
    recipe = write_recipe(tmp_path / "scored.toml", "name = 'scored'", asked)
    recipe.write_text(recipe.read_text() + ALONE)
    changed(dataset, **arrays)
    output = refusal("train", recipe, "--out", tmp_path / "run")
    assert message in output
    assert "1/3" not in output
    assert not (tmp_path / "run").exists()


def test_what_can_be_scored_is_scored(small, tmp_path):
    dataset, _ = small
    recipe = write_recipe(
        tmp_path / "r.toml", "name = 'scored'", "score_test = true", "validation = 0.2"
    )
    # Fewer test sequences than classes, and one class of them, are no reason to refuse.
    changed(dataset, test_values=np.zeros((5, 3)), test_lengths=[5], y_test=[1])
    output = run("train", recipe, "--out", tmp_path / "run").output
    assert "validation probe accuracy: " in output
    assert "test probe accuracy: " in output


def test_evaluate_needs_two_classes(small, checkpoint, tmp_path):
    dataset, _ = small
    changed(
        dataset, train_values=np.zeros((60, 5)), test_values=np.zeros((60, 5)), y_train=ONE_CLASS
    )
    assert run("pack", checkpoint, tmp_path / "packed").exit_code == 0
    message = refusal("evaluate", tmp_path / "packed", dataset)
    assert message.startswith("Error: every training label is 0; a score needs two classes")
    assert message.count("\n") == 1


def test_evaluate_needs_test_labels_that_training_has(small, checkpoint, tmp_path):
    dataset, _ = small
    zeros = np.zeros((60, 5))
    changed(dataset, train_values=zeros, test_values=zeros, y_test=ONE_CLASS + 2)
    assert run("pack", checkpoint, tmp_path / "packed").exit_code == 0
    message = refusal("evaluate", tmp_path / "packed", dataset)
    assert message == "Error: y_test holds the label 2, which y_train has not\n"


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluate_tells_which_split_does_not_fit(small, checkpoint, tmp_path, split):
    dataset, _ = small
    values, lengths = np.zeros((12_061, 5)), np.append(np.ones(12_000, int), 61)
    arrays = {"train_values": np.zeros((60, 5)), "test_values": np.zeros((60, 5))}
    arrays |= {f"{split}_values": values, f"{split}_lengths": lengths}
    changed(dataset, **arrays | {f"y_{split}": np.arange(12_001) % 2})
    assert run("pack", checkpoint, tmp_path / "packed").exit_code == 0
    message = refusal("evaluate", tmp_path / "packed", dataset).splitlines()[-1]
    what = "sequence 12000 has 61 timesteps; this model takes at most 60"
    assert message == f"Error: {dataset}, {split} split: {what}"


def test_a_run_is_replaced_only_by_one_that_can_begin(small, tmp_path):
    dataset, recipe = small
    folder = tmp_path / "run"
    assert run("train", recipe, "--out", folder).exit_code == 0
    (folder / "packed.safetensors").write_text("not of the run")
    before = contents(folder)
    assert "--overwrite replaces it" in refusal("train", recipe, "--out", folder)
    assert "give only one" in refusal("train", recipe, "--out", folder, "--resume", "--overwrite")
    arrays = dict(np.load(dataset))
    dataset.unlink()
    message = refusal("train", recipe, "--out", folder, "--overwrite")
    assert "No such file" in message
    np.savez(dataset, **arrays)
    recipe.write_text(recipe.read_text().replace("num_layers = 1", "num_heads = 3"))
    message = refusal("train", recipe, "--out", folder, "--overwrite")
    assert "multiple of num_heads" in message
    assert contents(folder) == before


def test_an_overwrite_leaves_nothing_of_the_old_run(small, tmp_path):
    _, recipe = small
    folder = tmp_path / "run"
    assert run("train", recipe, "--out", folder).exit_code == 0
    (folder / "state.pt.partial").write_bytes(b"of a run that was killed")
    (folder / "model.safetensors.1a2b3c4d.partial").write_bytes(b"likewise")
    (folder / "notes.txt").write_text("not of the run")
    old = set((folder / "tensorboard").iterdir())
    # A run that ends at its first step writes neither a checkpoint nor a picture.
    recipe.write_text(recipe.read_text() + "[objective]\nclassification = 1e39\n")
    assert "the loss is" in refusal("train", recipe, "--out", folder, "--overwrite")
    assert {path.name for path in folder.iterdir()} == {"log.jsonl", "notes.txt", "tensorboard"}
    assert not old & set((folder / "tensorboard").iterdir())


def test_there_must_be_a_run_to_go_on_with(small, tmp_path):
    _, recipe = small
    message = refusal("train", recipe, "--out", tmp_path / "rum", "--resume")
    assert f"{tmp_path / 'rum'} holds no run to go on with; without --resume one begins" in message
    assert not (tmp_path / "rum").exists()
    assert run("train", recipe, "--out", tmp_path / "run").exit_code == 0
    assert run("train", recipe, "--out", tmp_path / "run", "--resume").exit_code == 0
    (tmp_path / "run" / "state.pt").unlink()
    before = contents(tmp_path / "run")
    message = refusal("train", recipe, "--out", tmp_path / "run", "--resume")
    assert "no state to go on from (state.pt); --overwrite replaces it" in message
    assert contents(tmp_path / "run") == before


def test_one_run_at_a_time_is_at_work_in_a_folder(small, tmp_path):
    _, recipe = small
    folder = tmp_path / "run"
    endless = tmp_path / "endless.toml"
    endless.write_text(recipe.read_text().replace("steps = 3", "steps = 10000000"))
    command = [
        sys.executable,
        "-m",
        "tritserve.service.commands.cli",
        "train",
        str(endless),
        "--out",
        str(folder),
    ]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not (folder / "state.pt").exists() and time.monotonic() < until:
            time.sleep(0.01)
        for how in ([], ["--resume"], ["--overwrite"]):
            message = refusal("train", recipe, "--out", folder, *how)
            assert message == f"Error: another run is at work in {folder}\n"
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    # One that was killed keeps nobody out.
    assert run("train", recipe, "--out", folder, "--overwrite").exit_code == 0
    assert [line["step"] for line in read_log(folder)] == [1, 2, 3]
    assert not list(folder.glob("*.lock"))


def test_a_run_that_cannot_begin_leaves_its_folder_as_it_was(small, tmp_path):
    dataset, recipe = small
    dataset.unlink()
    assert "No such file" in refusal("train", recipe, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    assert "No such file" in refusal("train", recipe, "--out", tmp_path / "old")
    assert list((tmp_path / "old").iterdir()) == []


@pytest.mark.parametrize(
    "left", [["log.jsonl"], ["state.pt.partial"], ["log.jsonl", "tensorboard"]]
)
def test_a_run_stopped_before_its_first_state_begins_anew(small, tmp_path, left):
    _, recipe = small
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_text('{"step": 1, "loss": 9.0, "learning_rate": 0.1}\n')
    assert "--resume goes on with it" in refusal("train", recipe, "--out", folder)
    message = f"{folder} holds a run that is not finished; the command that began it goes on"
    assert message in refusal("pack", folder, tmp_path / "packed")
    assert run("train", recipe, "--out", folder, "--resume").exit_code == 0
    assert [line["step"] for line in read_log(folder)] == [1, 2, 3]
    assert not (folder / "state.pt.partial").exists()


@pytest.mark.parametrize("name", ["../esc", "/esc", "..", ".", "a/b", "a/", "a\\\\b", "a\\u0000"])
def test_a_name_that_is_not_a_folders_needs_one(small, tmp_path, monkeypatch, name):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    recipe = write_recipe(tmp_path / "named.toml", f'name = "{name}"')
    before = set(tmp_path.iterdir())
    assert "is not that of a folder; tell one with --out" in refusal("train", recipe)
    assert set(tmp_path.iterdir()) == before
    assert not list((tmp_path / "work").iterdir())
    assert run("train", recipe, "--out", "told").exit_code == 0


def test_a_run_goes_where_its_name_says(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "named.toml", "name = 'Drehzahl 2.1 🙂'")
    assert run("train", recipe).exit_code == 0
    assert (tmp_path / "runs" / "Drehzahl 2.1 🙂" / "checkpoint.json").exists()


def test_without_its_packages_training_says_what_to_install(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [
        sys.executable,
        "-m",
        "tritserve.service.commands.cli",
        "pack",
        str(tmp_path),
        str(tmp_path / "out"),
    ]
    environment = os.environ | {"PYTHONPATH": path}
    told = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert told.returncode == 1
    message = "Error: this command needs torch; install tritserve with its extra 'train'\n"
    assert told.stderr == message


def test_the_recipe_of_a_path_with_any_characters_is_read_again(small, tmp_path):
    dataset, _ = small
    moved = dataset.rename(tmp_path / "größe 🙂\x7f.npz")
    command = [sys.executable, "-m", "tritserve", "recipe", str(moved)]
    # A terminal's encoding is not TOML's.
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    printed = subprocess.run(
        command, check=True, capture_output=True, env=environment, cwd=tmp_path
    )
    (tmp_path / "made.toml").write_bytes(printed.stdout)
    assert read_recipe(tmp_path / "made.toml").dataset == moved


def test_the_recipe_has_the_seed_asked_for(small, tmp_path):
    dataset, _ = small
    (tmp_path / "made.toml").write_text(run("recipe", dataset, "--seed", 7).stdout)
    assert read_recipe(tmp_path / "made.toml").seed == 7


def test_a_recipe_for_a_file_of_any_name(small, tmp_path):
    dataset, _ = small
    dataset = dataset.rename(tmp_path / ("n" * 251 + ".npz"))
    (tmp_path / "made.toml").write_text(run("recipe", dataset).output)
    assert read_recipe(tmp_path / "made.toml").name == "n" * 200
    dataset = dataset.rename(tmp_path / "\udcff.npz")
    assert "TOML is Unicode" in refusal("recipe", dataset)
