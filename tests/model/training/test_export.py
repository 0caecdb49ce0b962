"""What a packed file replaces is replaced whole, by a good file, or not at all."""

import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.builders import random_packed
from tritserve.model.engine.engine import Engine
from tritserve.model.packed.file import PackedFileError, read
from tritserve.model.replace import ReplaceError
from tritserve.model.training.export import ExportError


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_model_that_cannot_be_packed_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    random_packed(path)
    before = path.read_bytes()
    monkeypatch.setattr("tritserve.model.packed.golden.MIN_AGREEMENT", 2)
    with pytest.raises(ExportError, match="disagrees with the trained one"):
        random_packed(path, seed=1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_who_reads_the_earlier_file_reads_it_whole(tmp_path):
    path = tmp_path / "model.safetensors"
    random_packed(path)
    before = path.read_bytes()
    with path.open("rb") as file:
        _, packed = random_packed(path, seed=1)
        assert file.read() == before
    assert read(path).revision == packed.revision


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    path = tmp_path / "model.safetensors"
    random_packed(path)
    before = path.read_bytes()
    monkeypatch.setattr("tritserve.model.training.export.Path.replace", full)
    with pytest.raises(OSError, match="No space left"):
        random_packed(path, seed=1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_packed_file_has_the_permissions_of_any_file_or_those_it_had(tmp_path):
    path, ordinary = tmp_path / "model.safetensors", tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    random_packed(path)
    assert mode(path) == mode(ordinary)
    path.chmod(0o640)
    random_packed(path, seed=1)
    assert mode(path) == 0o640


def test_a_link_goes_on_and_what_is_no_file_stays(tmp_path):
    path, link = tmp_path / "model.safetensors", tmp_path / "current"
    link.symlink_to(path)
    _, packed = random_packed(link)
    assert link.is_symlink()
    assert read(path).revision == packed.revision
    with pytest.raises(ReplaceError, match="/dev/null is not a file"):
        random_packed(Path("/dev/null"))
    with pytest.raises(ReplaceError, match=r"none is not a folder that m\.x can be written to"):
        random_packed(tmp_path / "none" / "m.x")


@pytest.mark.parametrize(
    ("stride", "window_size", "timesteps"),
    [(1, 60, 16), (1, 5, 5), (5, 200, 60), (64, 9000, 128), (1024, 9000, 2048)],
)
def test_the_golden_vector_is_short_and_made_of_statistics(
    tmp_path, stride, window_size, timesteps
):
    model, packed = random_packed(
        tmp_path / "m", stride=stride, window_size=window_size, differences=1
    )
    values = packed.tensors["golden.values"]
    assert values.shape == (timesteps, 5)
    standard = (values - model.standardize.mean.numpy()[:5]) / model.standardize.std.numpy()[:5]
    assert np.abs(standard).max() < 5
    assert 0.5 < standard.std() < 1.5


def test_embeddings_of_another_length_are_not_the_golden_one(tmp_path):
    _, packed = random_packed(tmp_path / "m")
    scaled = {
        name: 1.01 * value if name.startswith("final_norm") else value
        for name, value in packed.tensors.items()
    }
    with pytest.raises(PackedFileError, match=r"does not reproduce .* agree to 0\.990"):
        Engine(replace(packed, tensors=scaled))
