"""The folder in which several workers count together, of which `/metrics` is the sum."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "tritserve-metrics-"

log = logging.getLogger("tritserve")


@contextmanager
def shared_folder() -> Iterator[Path | None]:
    """A folder in memory, or else for temporary files, until the context is left.

    None, with a warning, where nothing can be written: as on a read-only root file system. Folders
    that were left because everything was killed at once are removed on the way.
    """
    made = _make_folder()
    if made is None:
        log.warning(
            "no folder can be written to, so that workers do not count together and /metrics is "
            "that of the one which answers: mount a tmpfs at /tmp, or set TMPDIR"
        )
        yield None
        return
    folder, lock = made
    _remove_abandoned(folder.parent)
    try:
        yield folder
    finally:
        remove(folder)
        os.close(lock)


def remove(folder: Path) -> None:
    """Removes a folder and what was counted there; one that holds anything else stays."""
    for file in folder.glob("*.db"):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _make_folder() -> tuple[Path, int] | None:
    """A folder and its lock, by which whoever finds it knows that it is in use."""
    for parent in (SHARED_MEMORY, None):
        with suppress(OSError):
            while True:
                folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
                lock = _lock(folder)
                if lock is not None:
                    return folder, lock
    return None


def _lock(folder: Path) -> int | None:
    """None where another supervisor, which started before it was locked, has removed it."""
    try:
        lock = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(lock, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(lock), folder.stat()):
            return lock
    os.close(lock)
    return None


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        # Another user's, or in use.
        with suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
            finally:
                os.close(lock)
