"""The folder of a training run: what it is made of."""

from pathlib import Path

TENSORS = "model.safetensors"
DESCRIPTION = "checkpoint.json"
STATE = "state.pt"
PARTIAL_STATE = "state.pt.partial"
LOG = "log.jsonl"
PLOT = "training.png"
EVENTS = "tensorboard"

NAMES = (TENSORS, DESCRIPTION, STATE, PARTIAL_STATE, LOG, PLOT, EVENTS)


def belongs_to_run(path: Path, folder: Path) -> bool:
    """Whether a path leads to one of a run's own files, by links too."""
    return path.resolve() in {(folder / name).resolve() for name in NAMES}
