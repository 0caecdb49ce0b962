"""What `recipe` and `train` write and tell, from a data set to a picture."""

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from tritserve.model.data.dataset import load
from tritserve.model.data.writing import write
from tritserve.model.packed.file import read
from tritserve.model.training.recipe import read_recipe
from tritserve.service.commands.cli import main


def run(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def data_set(path, **options):
    labels = np.arange(48) % 2
    values = np.random.default_rng(0).standard_normal((48, 5, 2)) + labels[:, None, None]
    write(path, values, labels, test=values, test_labels=labels, **options)
    return path


def shortened(recipe):
    """A recipe that is trained in no time."""
    lines = recipe.read_text().splitlines()
    steps = ["steps = 3" if line.startswith("steps") else line for line in lines]
    recipe.write_text("\n".join(steps))
    return recipe


def test_a_recipe_finds_its_data_set_from_where_it_is_written(tmp_path, monkeypatch):
    for folder in ("sets", "recipes", "elsewhere"):
        (tmp_path / folder).mkdir()
    data = data_set(tmp_path / "sets" / "d.npz")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("recipe", data, "--out", tmp_path / "recipes" / "r.toml").exit_code == 0
    (tmp_path / "elsewhere" / "r.toml").write_text(run("recipe", data).stdout)
    for folder in ("recipes", "elsewhere"):
        text = (tmp_path / folder / "r.toml").read_text()
        assert 'dataset = "../sets/d.npz"' in text
        assert "# Paths are relative to the folder of this file." in text
        found = read_recipe(tmp_path / folder / "r.toml")
        assert found.dataset == data
        assert found.validation == 0.2


def test_a_recipe_that_is_there_is_not_replaced(tmp_path):
    data = data_set(tmp_path / "d.npz")
    (tmp_path / "r.toml").write_text("mine")
    told = run("recipe", data, "--out", tmp_path / "r.toml")
    assert told.exit_code == 1
    assert "r.toml is there already; a recipe replaces none" in told.output
    assert (tmp_path / "r.toml").read_text() == "mine"


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(6), 8)], ids=["alone", "groups"])
def test_training_tells_what_its_score_shows_and_where_the_picture_is(tmp_path, groups):
    data = data_set(tmp_path / "d.npz", groups=groups)
    assert run("recipe", data, "--out", tmp_path / "r.toml").exit_code == 0
    told = run("train", shortened(tmp_path / "r.toml"), "--out", tmp_path / "run").output
    assert "validation probe accuracy: " in told
    assert f"picture: {tmp_path / 'run' / 'training.png'}\n" in told
    unseen = "sequences of one session or subject may be on both sides"
    held = "validation: 1 of 6 groups, 8 of 48 sequences, held out whole"
    assert (unseen in told, held in told) == ((True, False) if groups is None else (False, True))


def test_a_transposed_data_set_is_one_line_on_stderr(tmp_path):
    values = np.random.default_rng(0).standard_normal((8, 3, 40))
    write(tmp_path / "d.npz", values, [0, 1] * 4, layout="time_first")
    command = [sys.executable, "-m", "tritserve", "recipe", str(tmp_path / "d.npz")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == (
        "Warning: every sequence of d has 3 timesteps of 40 features; transposed? A sequence is "
        "[seq_len, embed_dim]\n"
    )


def test_an_error_moves_no_terminals_cursor(tmp_path):
    data = data_set(tmp_path / "d.npz")
    arrays = dict(np.load(data))
    np.savez(data, **arrays | {"feature_names": np.array(["a", "\x1b[2J"])})
    told = run("recipe", data)
    assert told.exit_code == 1
    assert "\x1b" not in told.output
    (tmp_path / "\x1b[2J.npz").write_bytes(b"")
    told = run("recipe", tmp_path / "\x1b[2J.npz")
    assert r"\x1b[2J.npz is not an .npz file" in told.output
    assert "\x1b" not in told.output


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A packed model of features `a` and `b`, and the data set that it was trained on."""
    folder = tmp_path_factory.mktemp("named")
    data = data_set(folder / "d.npz", feature_names=["a", "b"], sampling_rate=50)
    assert run("recipe", data, "--out", folder / "r.toml").exit_code == 0
    assert run("train", shortened(folder / "r.toml"), "--out", folder / "run").exit_code == 0
    assert run("pack", folder / "run", folder / "m.safetensors").exit_code == 0
    return folder / "m.safetensors", data


def test_names_reach_the_packed_file(named):
    model, _ = named
    signature = read(model).signature
    assert signature.feature_names == ("a", "b")
    assert signature.classes == ("0", "1")
    assert "features a, b\n" in run("inspect", model).output


def test_embed_and_evaluate_put_columns_into_the_models_order(named, tmp_path):
    model, data = named
    test = load(data, "test").sequences
    turned = data_set(tmp_path / "turned.npz", feature_names=["a", "b"])
    arrays = dict(np.load(turned))
    for split in ("train", "test"):
        arrays[f"{split}_values"] = arrays[f"{split}_values"][:, ::-1]
    np.savez(turned, **arrays | {"feature_names": np.array(["b", "a"])})
    found = []
    for source, out in ((data, "data.npy"), (turned, "turned.npy")):
        options = ["--split", "test", "--model", model]
        assert run("embed", source, tmp_path / out, *options).exit_code == 0
        found.append(np.load(tmp_path / out))
    assert found[0].shape == (len(test), 64)
    np.testing.assert_array_equal(*found)
    scores = [run("evaluate", model, source) for source in (data, turned)]
    assert [told.exit_code for told in scores] == [0, 0]
    assert scores[0].stdout == scores[1].stdout
    np.savez(turned, **arrays | {"feature_names": np.array(["b", "c"])})
    for command in (
        ("embed", turned, tmp_path / "x.npy", "--split", "test", "--model", model),
        ("evaluate", model, turned),
    ):
        told = run(*command)
        assert told.exit_code == 1
        assert "the features are not the model's: missing 'a'; unknown 'c'" in told.output


def test_integers_in_files_are_embedded_as_the_floats_they_are(tmp_path):
    whole = np.arange(2 * 4 * 12).reshape(2, 4, 12) % 7
    embeddings = []
    for dtype in (np.float32, np.int64, np.uint8):
        np.save(tmp_path / "in.npy", np.asfortranarray(whole.astype(dtype)))
        assert run("embed", tmp_path / "in.npy", tmp_path / "out.npy").exit_code == 0
        embeddings.append(np.load(tmp_path / "out.npy"))
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    np.testing.assert_array_equal(embeddings[0], embeddings[2])
