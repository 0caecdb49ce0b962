"""The pool of series: drawn by any number of processes, killed at any point, the same."""

import multiprocessing
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tritserve.model.pretraining.pool import PoolError, fill_pool
from tritserve.model.pretraining.prior import BLOCK, draw_block
from tritserve.model.pretraining.recipe import Prior
from tritserve.model.training.state import StateError

SMALL = Prior(series=6 * BLOCK + 5, points=8)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "pool").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, fill_pool(folder, 0, SMALL, processes=2)


def test_a_pool_holds_the_blocks_of_its_seed(whole):
    _, pool = whole
    assert pool.shape == (SMALL.series, 8)
    assert pool.dtype == np.float16
    assert np.array_equal(pool[-5:], draw_block(0, 6, SMALL)[:5].astype(np.float16))


def test_one_process_draws_what_several_draw_and_tells_how_far_it_is(whole, tmp_path):
    told = []
    pool = fill_pool(tmp_path, 0, SMALL, told.append, processes=1)
    assert np.array_equal(pool, whole[1])
    assert bytes_of(tmp_path) == bytes_of(whole[0])
    assert told == [*range(0, SMALL.series, BLOCK), SMALL.series]


def test_a_pool_killed_goes_on_with_the_blocks_that_are_missing(whole, tmp_path):
    # Killed by itself as soon as it is told that two blocks are there.
    code = (
        "import os, signal, sys\n"
        "from tritserve.model.pretraining.pool import fill_pool\n"
        "from tritserve.model.pretraining.recipe import Prior\n"
        "def kill(there):\n"
        "    if there >= int(sys.argv[3]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    prior = Prior.model_validate_json(sys.argv[2])\n"
        "    fill_pool(sys.argv[1], 0, prior, kill, processes=1)\n"
    )
    script = tmp_path / "draw.py"
    script.write_text(code)
    arguments = [str(tmp_path), SMALL.model_dump_json(), str(2 * BLOCK)]
    # Whose output ends when the process that drew has ended, too: it does not outlive the other.
    victim = subprocess.run(
        [sys.executable, str(script), *arguments], check=False, capture_output=True, timeout=120
    )
    assert victim.returncode == -signal.SIGKILL, victim.stderr
    (tmp_path / "pool" / "000006.npy.0a1b2c3d.partial").write_bytes(b"half")
    there = []
    pool = fill_pool(tmp_path, 0, SMALL, there.append)
    assert 2 * BLOCK <= there[0] < SMALL.series
    assert np.array_equal(pool, whole[1])
    assert bytes_of(tmp_path) == bytes_of(whole[0])


@pytest.mark.parametrize(
    ("seed", "change", "message"),
    [(1, {}, "differs in seed;"), (0, {"graphs": 0.5}, "differs in graphs;")],
)
def test_a_pool_of_other_series_is_not_gone_on_with(whole, seed, change, message):
    with pytest.raises(StateError, match=message):
        fill_pool(whole[0], seed, SMALL.model_copy(update=change))


@pytest.mark.parametrize("name", ["000001.npy", "prior.json"])
@pytest.mark.parametrize("damaged", [b"", b"\x93NUMPY", b"[1]", b"\xff"])
def test_a_damaged_pool_is_told_as_such(whole, tmp_path, name, damaged):
    (tmp_path / "pool").mkdir()
    for path in (whole[0] / "pool").iterdir():
        (tmp_path / "pool" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pool" / name).write_bytes(damaged)
    with pytest.raises(StateError, match=f"{name} is damaged; --overwrite starts over"):
        fill_pool(tmp_path, 0, SMALL)


def test_a_block_of_another_shape_is_damaged(whole, tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "prior.json").write_bytes((whole[0] / "pool" / "prior.json").read_bytes())
    for index in range(7):
        np.save(tmp_path / "pool" / f"{index:06d}.npy", np.zeros((5, 7), np.float16))
    with pytest.raises(StateError, match=r"000000\.npy is damaged"):
        fill_pool(tmp_path, 0, SMALL)


def test_a_process_that_is_killed_ends_the_drawing_with_a_reason(tmp_path):
    def kill_one(_):
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    large = SMALL.model_copy(update={"series": 50 * BLOCK})
    with pytest.raises(PoolError, match=r"was killed, .* --resume goes on"):
        fill_pool(tmp_path, 0, large, kill_one, processes=1)
