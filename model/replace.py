"""Files that are replaced as a whole, or not at all."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

from tritserve.model.errors import UserError


class ReplaceError(UserError):
    """What is at a path is no file that could be replaced."""


def replace_file(path: Path | str, data: bytes) -> None:
    """Writes a file; who reads it meanwhile reads the old one or the new one.

    What was at the path keeps its permissions, and after an error all that it was. A link goes on
    pointing to its file.

    Raises:
        OSError: it cannot be written.
        ReplaceError: a folder or a device is there, or no folder to write it to.
    """
    path = Path(path).resolve()
    if not path.parent.is_dir():
        raise ReplaceError(f"{path.parent} is not a folder that {path.name} can be written to")
    if path.exists() and not path.is_file():
        raise ReplaceError(f"{path} is not a file that can be replaced")
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
