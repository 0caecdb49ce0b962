"""The folder of a training run: what it is made of, and when a run may begin there."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tritserve.model.errors import UserError

TENSORS = "model.safetensors"
DESCRIPTION = "checkpoint.json"
STATE = "state.pt"
PARTIAL_STATE = "state.pt.partial"
LOG = "log.jsonl"
PLOT = "training.png"
EVENTS = "tensorboard"
POOL = "pool"
LOCK = "run.lock"

NAMES = (TENSORS, DESCRIPTION, STATE, PARTIAL_STATE, LOG, PLOT, EVENTS, POOL)


class RunFolderError(UserError):
    """A folder that a run cannot begin in."""


def default_folder(name: str) -> Path:
    """Where a run goes if nobody says: `runs/NAME`.

    Raises:
        RunFolderError: the name, which may be any text, is not one of a folder.
    """
    if name in {".", ".."} or set(name) & set("/\\\0"):
        raise RunFolderError(f"the name {name!r} is not that of a folder; tell one with --out")
    return Path("runs") / name


@contextmanager
def hold(folder: Path | str) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made if need be and goes again if left empty.

    Raises:
        OSError: the folder cannot be made or locked.
        RunFolderError: another run is at work there.
    """
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / LOCK
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(f"another run is at work in {folder}") from error
        # Who held the lock deletes its file: one on a deleted file keeps nobody out.
        if not os.fstat(file.fileno()).st_nlink:
            raise RunFolderError(f"another run was at work in {folder}; try again")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            if made:
                with suppress(OSError):
                    folder.rmdir()


def check_run_folder(folder: Path | str, *, resume: bool, overwrite: bool) -> None:
    """Whether a run may begin in a folder, as a user asks for it.

    Raises:
        RunFolderError: it may not: both are asked for, there is no run to go on with, or there is
            one and neither is asked for.
    """
    if resume and overwrite:
        raise RunFolderError("--resume goes on with a run, --overwrite replaces it; give only one")
    there = files_of_run(folder)
    if resume and not there:
        raise RunFolderError(f"{folder} holds no run to go on with; without --resume one begins")
    # A run that was stopped before its first state begins anew; a finished one is not given up.
    if resume and STATE not in there and {TENSORS, DESCRIPTION} & set(there):
        raise RunFolderError(
            f"{folder} holds a checkpoint and no state to go on from ({STATE}); "
            "--overwrite replaces it"
        )
    if there and not (resume or overwrite):
        raise RunFolderError(
            f"{folder} holds a run ({', '.join(there)}); --resume goes on with it, "
            "--overwrite replaces it"
        )


def files_of_run(folder: Path | str) -> list[str]:
    """Which files of a run, finished or not, a folder holds."""
    return [name for name in NAMES if (Path(folder) / name).exists()]


def clear_run(folder: Path | str, *, keep: str | None = None) -> None:
    """Deletes a run's own files, where there are any, and no others.

    Args:
        folder: of the run.
        keep: the name of one that stays.

    Raises:
        OSError: one cannot be deleted.
    """
    folder = Path(folder)
    # What `replace_file` had written of one when it was killed is there too.
    partial = [path for name in NAMES for path in folder.glob(f"{name}.*.partial")]
    for path in [*(folder / name for name in NAMES if name != keep), *partial]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def belongs_to_run(path: Path | str, folder: Path | str) -> bool:
    """Whether a path leads to one of a run's own files, by links too."""
    return Path(path).resolve() in {(Path(folder) / name).resolve() for name in (*NAMES, LOCK)}
