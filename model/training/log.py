"""The log of a training run: one JSON line a step, and TensorBoard where it is installed."""

import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tritserve.model.replace import replace_file
from tritserve.model.training.run_folder import EVENTS, LOG


@dataclass(frozen=True)
class Step:
    """What one training step tells.

    Attributes:
        step: counted from 1.
        steps: how many there are.
        loss: the weighted sum of the losses.
        learning_rate: of this step.
        layers: figures of each BitLinear, now and then; empty in between.
        validation: accuracy on the validation part, now and then; None in between.
        losses: those that the loss is the sum of, by name, where they are told apart.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    validation: float | None = None
    losses: dict[str, float] = field(default_factory=dict)


class TrainingLog:
    """Appends to the log in a folder, after the first `step` steps of it."""

    def __init__(self, folder: Path | str, step: int) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOG
        kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= step]
        replace_file(path, "".join(kept).encode())
        self._file = path.open("a")
        self._events = _event_writer(folder / EVENTS, step)

    def write(self, step: Step) -> None:
        """Adds a step."""
        line: dict[str, Any] = {
            "step": step.step,
            "loss": step.loss,
            "learning_rate": step.learning_rate,
        }
        if step.validation is not None:
            line["validation"] = step.validation
        if step.losses:
            line["losses"] = step.losses
        if step.layers:
            line["layers"] = step.layers
        self._file.write(json.dumps(line) + "\n")
        if self._events:
            self._events.add_scalar("loss", step.loss, step.step)
            self._events.add_scalar("learning_rate", step.learning_rate, step.step)
            for name, loss in step.losses.items():
                self._events.add_scalar(f"loss/{name}", loss, step.step)
            if step.validation is not None:
                self._events.add_scalar("validation", step.validation, step.step)
            for layer, figures in step.layers.items():
                for name, value in figures.items():
                    self._events.add_scalar(f"{name}/{layer}", value, step.step)

    def flush(self) -> None:
        """Hands everything to the operating system."""
        self._file.flush()
        if self._events:
            self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._events:
            self._events.close()


def read_log(folder: Path | str) -> list[dict[str, Any]]:
    """The steps in a folder's log, up to the first line that is none; none without a log.

    A killed run may leave half a line behind, a machine without power any bytes.
    """
    path = Path(folder) / LOG
    steps: list[dict[str, Any]] = []
    if not path.exists():
        return steps
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            step = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            break
        if not isinstance(step, dict) or not isinstance(step.get("step"), int):
            break
        steps.append(step)
    return steps


def _event_writer(folder: Path, step: int) -> Any:
    if find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
