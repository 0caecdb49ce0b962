"""`tritserve embed`, with a model of 12 features, at most 60 timesteps."""

import json
import resource
from contextlib import contextmanager

import numpy as np
import pytest
from click.testing import CliRunner

from tests.builders import JAPANESE_VOWELS
from tritserve.model.packed.tensors import save_tensors
from tritserve.service.commands.cli import main

DENSE = np.random.default_rng(0).standard_normal((3, 4, 12), dtype=np.float32)


def run(*arguments):
    return CliRunner().invoke(main, ["embed", "--model", *map(str, (JAPANESE_VOWELS, *arguments))])


def refused(*arguments):
    """The one line that a failed run shows."""
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    lines = [line for line in result.output.splitlines() if line.startswith("Error")]
    assert "Traceback" not in result.output
    return lines[0]


@contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def saved(path, array):
    np.save(path, array)
    return path


def test_tensors_of_a_type_that_numpy_lacks(tmp_path):
    values = {"dtype": "BF16", "shape": [4, 12], "data_offsets": [0, 96]}
    lengths = {"dtype": "I64", "shape": [1], "data_offsets": [96, 104]}
    header = json.dumps({"values": values, "lengths": lengths}).encode()
    path = tmp_path / "bf16.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(96) + b"\4" + bytes(7))
    assert "has a tensor of type 'BF16'" in refused(path, tmp_path / "out.npy")


def test_what_is_read_is_not_written_over(tmp_path):
    source = saved(tmp_path / "in.npy", DENSE)
    model = tmp_path / "m.safetensors"
    model.write_bytes(JAPANESE_VOWELS.read_bytes())
    (tmp_path / "link.npy").symlink_to(source)
    before = source.read_bytes()
    for out in (source, tmp_path / "link.npy", model):
        message = refused(source, out, "--model", model)
        assert f"{out} is read; write the embeddings to another file" in message
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (DENSE[:0], "a batch needs at least one sequence"),
        (DENSE[:, :0], "sequence 0 has length 0"),
        (DENSE[..., :0], "values have shape [12, 0]; this model takes [timesteps, 12]"),
        (DENSE.astype(int) + 2**24 + 1, "sequence 0 holds 16777217, which float32 rounds to"),
        (DENSE.astype(str), "<U32 of shape [3, 4, 12]; they must be real numbers, [batch, seq_len"),
        (DENSE[0], "float32 of shape [4, 12]; they must be real numbers, [batch, seq_len, embed_d"),
    ],
    ids=["no sequences", "no timesteps", "no features", "large integers", "text", "one sequence"],
)
def test_arrays_that_are_no_batch(tmp_path, array, message):
    assert message in refused(saved(tmp_path / "in.npy", array), tmp_path / "out.npy")


@pytest.mark.parametrize(
    ("form", "damage"),
    [
        ("npz", lambda data: data.replace(data[90:130], bytes(40))),
        ("npz", lambda data: data[: len(data) // 2]),
        ("npy", lambda data: data.replace(b"}", b"(")),
        ("safetensors", lambda data: data[:-1]),
    ],
    ids=["npz of zeros", "half an npz", "npy header", "safetensors without its end"],
)
def test_damaged_files(tmp_path, form, damage):
    path = tmp_path / f"in.{form}"
    arrays = {"values": DENSE.reshape(12, 12), "lengths": np.array([12])}
    if form == "npz":
        np.savez_compressed(path, **arrays)
    elif form == "npy":
        np.save(path, DENSE)
    else:
        path.write_bytes(save_tensors(arrays))
    path.write_bytes(damage(path.read_bytes()))
    assert f"is not a .{form} file of numbers" in refused(path, tmp_path / "out.npy")


def test_a_folder_that_is_not_there_is_told_before_anything_is_read(tmp_path):
    source = saved(tmp_path / "in.npy", DENSE.astype(str))
    assert "there is no folder" in refused(source, tmp_path / "nowhere" / "out.npy")


@pytest.mark.parametrize("form", ["npy", "npz", "safetensors"])
def test_a_good_file_stays_until_a_new_one_is_complete(tmp_path, form):
    source, out = saved(tmp_path / "in.npy", DENSE), tmp_path / f"out.{form}"
    out.write_text("good")
    with files_of_at_most(512):
        assert "File too large" in refused(source, out)
    assert out.read_text() == "good"
    assert sorted(tmp_path.iterdir()) == sorted([source, out])
    assert run(source, out).exit_code == 0
    assert sorted(tmp_path.iterdir()) == sorted([source, out])


def test_what_a_link_leads_to_is_replaced(tmp_path):
    source, real = saved(tmp_path / "in.npy", DENSE), tmp_path / "real.npy"
    real.touch()
    (tmp_path / "link.npy").symlink_to(real)
    assert run(source, tmp_path / "link.npy").exit_code == 0
    assert np.load(real).shape == (3, 64)
    assert (tmp_path / "link.npy").is_symlink()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "sequence 1500, timestep 2, feature 5 is nan"),
        (1e30, "sequence 1500, timestep 2, feature 5 is 1.0"),
    ],
)
def test_rows_are_counted_in_the_whole_file(tmp_path, value, message):
    """Both what is checked before anything is computed, and what the engine finds."""
    many = np.zeros((2000, 10, 12), np.float32)
    many[1500, 2, 5] = value
    assert message in refused(saved(tmp_path / "in.npy", many), tmp_path / "out.npy")
