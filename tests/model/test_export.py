"""What a packed file replaces is replaced whole, by a good file, or not at all."""

import stat
from pathlib import Path

import pytest

from model.export import ExportError
from model.packed import read
from model.replace import ReplaceError
from tests.builders import random_packed


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_model_that_cannot_be_packed_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    random_packed(path)
    before = path.read_bytes()
    monkeypatch.setattr("model.export.MIN_COSINE", 2)
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
    monkeypatch.setattr("model.export.Path.replace", full)
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
