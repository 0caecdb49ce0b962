"""What every kind of training does alike: how torch is set, one step down a loss, and the steps."""

import platform
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tritserve.model.errors import UserError
from tritserve.model.training.log import Step, TrainingLog
from tritserve.model.training.monitor import Monitor
from tritserve.model.training.state import save_state

# A killed run repeats at most so many steps.
SAVE_EVERY = 100
MEASURE_EVERY = 20


class TrainingError(UserError):
    """Training that cannot go on."""


class Run(ABC):
    """A training run, and the part of its state that every kind of training has.

    Attributes:
        step: how many steps have been taken.
        steps: how many there are.
        learner: what is trained.
        optimizer: of its parameters.
        monitor: of its encoder.
    """

    step: int
    steps: int
    learner: nn.Module
    optimizer: torch.optim.Optimizer
    monitor: Monitor

    @abstractmethod
    def advance(self) -> Step:
        """Takes one step."""

    def state(self) -> dict[str, Any]:
        """Everything that a later step depends on."""
        return {
            "step": self.step,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "monitor": self.monitor.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what `state` gave."""
        self.step = state["step"]
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
        self.monitor.restore(state["monitor"])


def prepare_torch(seed: int, threads: int) -> None:
    """Sets torch so that a seed gives the same numbers each time."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written; filling it first costs a tenth.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(seed)


def descend(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    max_gradient_norm: float,
    *,
    step: int,
    steps: int,
) -> None:
    """Moves the learner's parameters one step down the loss.

    Args:
        learner: what is trained.
        optimizer: of its parameters, with the rate of this step.
        loss: a scalar.
        max_gradient_norm: a longer gradient is shortened to it.
        step: counted from 1, for messages.
        steps: how many there are, likewise.

    Raises:
        TrainingError: the loss or its gradient is no longer finite.
    """

    def check(what: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise TrainingError(
                f"the {what} is {value.item()} at step {step} of {steps}, learning rate "
                f"{optimizer.param_groups[0]['lr']:.2e}; a lower learning rate or a longer "
                "warm-up may help"
            )

    check("loss", loss)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    check("gradient's norm", nn.utils.clip_grad_norm_(learner.parameters(), max_gradient_norm))
    optimizer.step()


def take_steps(
    run: Run,
    progress: Callable[[Step], None],
    folder: Path | str | None,
    identity: dict[str, Any],
) -> None:
    """Takes the steps that are left.

    Args:
        run: where it begins or was taken up.
        progress: called after every step.
        folder: where to keep the state and the log, if anywhere.
        identity: of the run, for the state.

    Raises:
        OSError: the folder cannot be written.
    """
    log = TrainingLog(folder, run.step) if folder else None
    try:
        while run.step < run.steps:
            step = run.advance()
            if log:
                log.write(step)
            if folder and log and (run.step % SAVE_EVERY == 0 or run.step == run.steps):
                log.flush()
                save_state(folder, identity, run.state())
            progress(step)
    finally:
        if log:
            log.close()


def versions() -> dict[str, str]:
    """Of what a model was trained with."""
    return {
        "tritserve": version("tritserve"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
