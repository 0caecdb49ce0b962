"""The whole path on real speech: train, pack, serve, embed, judge."""

import json

import httpx
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner

from tests.builders import ATTACKS, DATA, JAPANESE_VOWELS, cosines
from tests.end_to_end.server import serving
from tritserve.model.data.dataset import load
from tritserve.model.evaluation.probe import linear_probe
from tritserve.model.packed.file import read
from tritserve.model.training.recipe import read_recipe
from tritserve.service.client.client import Client
from tritserve.service.commands.cli import main

VOWELS = DATA / "JapaneseVowels.npz"
RECIPE = JAPANESE_VOWELS.with_suffix(".toml")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving("--model", JAPANESE_VOWELS, log=log) as (url, _):
        yield url


def utterances(split):
    data = load(VOWELS, split)
    return data.sequences.split(), data.labels


def probe(client):
    (train, train_labels), (test, test_labels) = utterances("train"), utterances("test")
    return linear_probe(client.embed(train), train_labels, client.embed(test), test_labels)


def test_json_and_binary_give_the_same_embeddings(url):
    test, _ = utterances("test")
    body = {"sequences": [sequence.tolist() for sequence in test]}
    answer = httpx.post(f"{url}/embed", json=body, timeout=60).raise_for_status().json()
    from_json = np.array(answer["embeddings"], dtype=np.float32)
    assert from_json.shape == (370, 64)
    assert answer["usage"] == {"sequences": 370, "timesteps": 5687, "truncated": []}

    tensors = {
        "values": np.concatenate(test),
        "lengths": np.array([len(sequence) for sequence in test]),
    }
    answer = httpx.post(
        f"{url}/embed",
        content=safetensors.numpy.save(tensors),
        headers={
            "Content-Type": "application/vnd.safetensors",
            "Accept": "application/vnd.safetensors",
        },
        timeout=60,
    ).raise_for_status()
    from_tensors = safetensors.numpy.load(answer.content)["embeddings"]
    assert from_tensors.tobytes() == from_json.tobytes()


def test_the_embedded_model_tells_speakers_apart(url):
    with Client(url) as client:
        assert probe(client) >= 0.975


def test_info_says_what_the_bytes_say(url):
    data = JAPANESE_VOWELS.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    packed = [v for k, v in header.items() if k.endswith(".packed")]
    stored = sum(v["data_offsets"][1] - v["data_offsets"][0] for v in packed)
    info = httpx.get(f"{url}/info").json()
    weights = 2 * (192 * 64 + 64 * 64 + 2 * 256 * 64)
    assert info["bits_per_weight"] == pytest.approx(8 * stored / weights, rel=1e-12)
    assert info["bits_per_weight"] == pytest.approx(1.6, abs=1e-3)
    assert info["output_size"] == 64
    assert info["revision"] == read(JAPANESE_VOWELS).revision


def test_a_binary_model_is_trained_packed_served_and_good(tmp_path):
    recipe = RECIPE.read_text()
    recipe = recipe.replace("../../data/JapaneseVowels.npz", str(VOWELS))
    recipe = recipe.replace("[model]\n", '[model]\nquantize = "binary"\n')
    (tmp_path / "binary.toml").write_text(recipe.replace("steps = 1200", "steps = 600"))
    run(["train", tmp_path / "binary.toml", "--out", tmp_path / "checkpoint"])
    run(["pack", tmp_path / "checkpoint", tmp_path / "binary.safetensors"])
    with (
        serving("--model", tmp_path / "binary.safetensors", log=tmp_path / "log") as (url, _),
        Client(url) as client,
    ):
        assert client.info()["bits_per_weight"] == 1.0
        assert client.info()["config"]["quantize"] == "binary"
        assert probe(client) >= 0.96


@pytest.mark.parametrize("form", ["npy", "npz", "safetensors"])
def test_the_command_embeds_files_as_the_service_does(url, tmp_path, form):
    test, _ = utterances("test")
    with Client(url) as client:
        expected = client.embed(test)
    out = tmp_path / f"embeddings.{form}"
    run(["embed", VOWELS, out, "--split", "test", "--model", JAPANESE_VOWELS])
    if form == "npy":
        got = np.load(out)
    elif form == "npz":
        got = np.load(out)["embeddings"]
    else:
        got = safetensors.numpy.load_file(out)["embeddings"]
    assert got.tobytes() == expected.tobytes()


def test_torch_and_the_engine_agree_on_real_speech(url, tmp_path):
    """The embedded file's weights in the torch model: cosine 0.9999 and more on every utterance."""
    from tests.builders import torch_embed  # noqa: PLC0415
    from tritserve.model.network.unpacking import from_packed  # noqa: PLC0415

    model = from_packed(read(JAPANESE_VOWELS)).eval()
    data = load(VOWELS, "test")
    with Client(url) as client:
        got = client.embed(data.sequences.split())
    similar = cosines(got, torch_embed(model, data.sequences))
    assert similar.min() >= 0.9999


def run(arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_evaluate_tells_the_accuracy_of_each_probe():
    lines = run(["evaluate", JAPANESE_VOWELS, VOWELS]).splitlines()
    accuracies = {name: float(value) for name, value in map(str.split, lines[1:])}
    assert lines[0] == "accuracy on 370 test sequences:"
    assert set(accuracies) == {"svm", "linear", "neighbour"}
    assert accuracies["linear"] == 0.9865
    assert min(accuracies.values()) > 0.97


def test_a_recipe_by_rule_is_printed_for_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = run(["recipe", VOWELS, "--quantize", "binary", "--without-labels"])
    (tmp_path / "made.toml").write_text(printed)
    made = read_recipe(tmp_path / "made.toml")
    assert made.dataset == VOWELS.resolve()
    assert made.model["quantize"] == "binary"
    assert made.objective.contrast


def test_the_commands_say_what_is_wrong_in_one_line(tmp_path):
    hostile = ATTACKS / "byte_243.safetensors"
    for arguments, message in [
        (["inspect", hostile], "byte 0 is 243"),
        (["evaluate", JAPANESE_VOWELS, hostile], "is not an .npz file"),
        (["train", hostile], "is not TOML"),
        (["pack", tmp_path, tmp_path / "x"], "No such file"),
        (["serve", "--model", hostile], "byte 0 is 243"),
        (["embed", VOWELS, tmp_path / "x.csv"], ".csv"),
        (["embed", VOWELS, tmp_path / "x.npy"], "--split"),
    ]:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code != 0
        assert message in result.output, (arguments, result.output)
        assert "Traceback" not in result.output
    assert "20.0x" in run(["inspect"])
