"""The pool of synthetic series: drawn once into the folder of a run, by several processes.

Each block of series is a file of its own, float16 as npy, and complete or not there: what was
killed goes on with the blocks that are missing.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.environment import available_processors
from tritserve.model.errors import UserError
from tritserve.model.pretraining.prior import BLOCK
from tritserve.model.pretraining.recipe import Prior
from tritserve.model.pretraining.worker import leave_to_parent, write_block
from tritserve.model.replace import replace_file
from tritserve.model.training.run_folder import POOL
from tritserve.model.training.state import StateError, check_same_run, identify

Pool = npt.NDArray[np.float16]

IDENTITY = "prior.json"


class PoolError(UserError):
    """Series that could not be drawn."""


def fill_pool(
    folder: Path | str,
    seed: int,
    prior: Prior,
    progress: Callable[[int], object] = lambda _: None,
    *,
    processes: int | None = None,
) -> Pool:
    """Draws the series that are not there yet, and reads all.

    Args:
        folder: of the run.
        seed: of the series.
        prior: how many, and how they are drawn.
        progress: called with the number of series that are there, whenever there are more.
        processes: that draw; as many as there are processors, if not given. The series are the
            same.

    Returns:
        `[series, points]` float16.

    Raises:
        OSError: the pool cannot be written or read.
        PoolError: a process that draws series ended.
        StateError: the folder holds a pool of other series, or a damaged one.
    """
    pool = Path(folder) / POOL
    pool.mkdir(parents=True, exist_ok=True)
    for partial in pool.glob("*.partial"):
        partial.unlink()
    _claim(pool / IDENTITY, identify(prior, seed=seed))
    blocks = -(-prior.series // BLOCK)
    missing = [index for index in range(blocks) if not _path(pool, index).exists()]
    there = blocks - len(missing)
    progress(min(there * BLOCK, prior.series))
    for drawn, _ in enumerate(_draw(pool, seed, prior, missing, processes), start=1):
        progress(min((there + drawn) * BLOCK, prior.series))
    return _read(pool, prior)


def _claim(path: Path, identity: dict[str, Any]) -> None:
    """Says whose blocks these are, or finds that they are another run's."""
    if not path.exists():
        replace_file(path, json.dumps(identity).encode())
    try:
        known = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise _damaged(path) from error
    check_same_run(path, known, identity)


def _draw(
    pool: Path, seed: int, prior: Prior, missing: list[int], processes: int | None
) -> Iterator[None]:
    """Writes the missing blocks, and tells of each that is there."""
    if not missing:
        return
    workers = min(processes or available_processors(), len(missing))
    # Forked, a process would inherit torch's and BLAS's locks without the threads that hold them.
    with ProcessPoolExecutor(workers, get_context("spawn"), leave_to_parent) as executor:
        tasks = [
            executor.submit(
                write_block, _path(pool, index), seed, index, prior.series - index * BLOCK, prior
            )
            for index in missing
        ]
        try:
            for task in as_completed(tasks):
                yield task.result()
        except BrokenProcessPool as error:
            raise PoolError(
                "a process that drew series was killed, perhaps for want of memory; --resume goes "
                "on"
            ) from error
        finally:
            executor.shutdown(cancel_futures=True)


def _path(pool: Path, index: int) -> Path:
    return pool / f"{index:06d}.npy"


def _read(pool: Path, prior: Prior) -> Pool:
    series = np.empty((prior.series, prior.points), np.float16)
    for index, begin in enumerate(range(0, prior.series, BLOCK)):
        path, part = _path(pool, index), series[begin : begin + BLOCK]
        try:
            block = np.load(path)
        except (ValueError, EOFError) as error:
            raise _damaged(path) from error
        if block.shape != part.shape or block.dtype != part.dtype:
            raise _damaged(path)
        part[:] = block
    return series


def _damaged(path: Path) -> StateError:
    return StateError(f"{path} is damaged; --overwrite starts over")
