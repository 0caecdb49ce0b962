"""The state of a training run on disk, so that a killed run can be taken up again.

It is replaced as a whole: after a crash at any point, a complete one is there, or none.
"""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from model.errors import UserError
from model.run_folder import PARTIAL_STATE, STATE


class StateError(UserError):
    """A training state that cannot be taken up."""


def save_state(folder: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Replaces the state in `folder`.

    Args:
        folder: of the run.
        identity: what the run is; only the same run may take the state up.
        state: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        OSError: it cannot be written.
    """
    partial = folder / PARTIAL_STATE
    with partial.open("wb") as file:
        torch.save({"identity": identity, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / STATE)


def load_state(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state in `folder`, or None where there is none.

    Raises:
        OSError: it cannot be read.
        StateError: it is damaged, or of another run.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        content = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise StateError(f"{path} is damaged: {error}") from error
    if content["identity"] != identity:
        old, new = content["identity"], identity
        changed = sorted(key for key in old.keys() | new if old.get(key) != new.get(key))
        raise StateError(
            f"{path} is the state of another run, which differs in {', '.join(changed)}; "
            "train into another folder, or start over with --overwrite"
        )
    state: dict[str, Any] = content["state"]
    return state
