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
    folder = _make_folder()
    if folder is None:
        log.warning(
            "no folder can be written to, so that workers do not count together and /metrics is "
            "that of the one which answers: mount a tmpfs at /tmp, or set TMPDIR"
        )
        yield None
        return
    # Whoever finds it knows by the lock that it is in use.
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
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


def _make_folder() -> Path | None:
    for parent in (SHARED_MEMORY, None):
        with suppress(OSError):
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
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
