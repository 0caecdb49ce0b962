"""The state of a training run on disk, so that a killed run can be taken up again.

It is replaced as a whole: after a crash at any point, a complete one is there, or none.
"""

import io
import os
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from tritserve.model.errors import UserError
from tritserve.model.training.memory import OutOfMemoryError, memory_needed
from tritserve.model.training.recipe import Table
from tritserve.model.training.run_folder import PARTIAL_STATE, STATE

# Another version may draw other random numbers or round otherwise.
PACKAGES = ("tritserve", "torch", "numpy")


class StateError(UserError):
    """A training state that cannot be taken up."""


def identify(recipe: Table, **more: Any) -> dict[str, Any]:
    """What a run is: all that decides its result but the processor.

    Args:
        recipe: of the run, or of a part of it.
        more: what decides it beside the recipe, such as the hash of a data set's file.
    """
    fields = recipe.model_dump(mode="json", exclude={"dataset", "start"})
    return fields | more | {package: version(package) for package in PACKAGES}


def check_same_run(path: Path | str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises StateError if what is at a path is of a run with another identity."""
    changed = [
        f"{key} ({old.get(key)} then, {new.get(key)} now)" if key in PACKAGES else key
        for key in sorted(old.keys() | new)
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise StateError(
            f"{path} is the state of another run, which differs in {', '.join(changed)}; "
            "train into another folder, or start over with --overwrite"
        )


def save_state(folder: Path | str, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Replaces the state in `folder`.

    Args:
        folder: of the run.
        identity: what the run is; only the same run may take the state up.
        state: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        OSError: it cannot be written.
    """
    folder = Path(folder)
    partial = folder / PARTIAL_STATE
    with partial.open("wb") as file:
        torch.save({"identity": identity, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / STATE)


def load_state(folder: Path | str, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state in `folder`, or None where there is none.

    Raises:
        OSError: it cannot be read.
        StateError: it is damaged, or of another run.
        OutOfMemoryError: it does not fit into memory.
    """
    path = Path(folder) / STATE
    if not path.exists():
        return None
    data = path.read_bytes()
    try:
        with memory_needed(str(path)):
            # Torch does not look at all checksums.
            if bad := zipfile.ZipFile(io.BytesIO(data)).testzip():
                raise ValueError(f"the checksum of {bad} is wrong")
            content = torch.load(io.BytesIO(data), weights_only=True)
            old, state = dict(content["identity"]), dict(content["state"])
    except OutOfMemoryError:
        raise
    except Exception as error:
        # On damaged bytes the readers raise almost anything.
        raise StateError(f"{path} is damaged; --overwrite starts over") from error
    check_same_run(path, old, identity)
    return state
