"""The commands that train and pack: what they refuse, and what they leave as it was."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from model.checkpoint import Checkpoint, save
from model.packed import read
from service.cli import main
from tests.builders import random_batch, random_bitnet


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
    golden = random_batch([7], 5).values
    save(Checkpoint(random_bitnet(), {}, golden, "e", {}), folder)
    return folder


def test_a_checkpoint_is_not_packed_onto_itself(checkpoint, tmp_path):
    (tmp_path / "link").symlink_to(checkpoint / "model.safetensors")
    before = contents(checkpoint)
    for out in (checkpoint / "model.safetensors", checkpoint / "state.pt", tmp_path / "link"):
        # In a process of its own: it may die of what this is about.
        command = [sys.executable, "-m", "service.cli", "pack", str(checkpoint), str(out)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr == f"Error: {out} is a file of the checkpoint; pack into another one\n"
    assert contents(checkpoint) == before


def test_a_packed_file_may_lie_beside_its_checkpoint(checkpoint):
    out = checkpoint / "packed.safetensors"
    assert run("pack", checkpoint, out).exit_code == 0
    assert read(out).name == "e"
    assert run("pack", checkpoint, out).exit_code == 0
