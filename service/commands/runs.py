"""What commands that train have in common: the folder of a run, and its steps as they are taken."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tritserve.model.training.run_folder import check_run_folder, default_folder, hold
from tritserve.service.commands.progress import progress_bar

if TYPE_CHECKING:
    from tritserve.model.training.log import Step

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/NAME if not given."),
    click.option("--resume", is_flag=True, help="Go on where a run that was stopped left off."),
    click.option("--overwrite", is_flag=True, help="Replace the run that is in the folder."),
)


def run_options(command: Command) -> Command:
    """Gives a command `--out`, `--resume` and `--overwrite`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def hold_folder(name: str, out: Path | None, *, resume: bool, overwrite: bool) -> Path:
    """The folder of a run, kept from others until the command ends.

    Raises:
        OSError: the folder cannot be made or locked.
        RunFolderError: the run may not begin there.
    """
    folder = out or default_folder(name)
    click.get_current_context().with_resource(hold(folder))
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    return folder


@contextmanager
def steps_shown(steps: int) -> "Iterator[Callable[[Step], None]]":
    """Yields what is to be called after each step."""
    with progress_bar(steps, "step") as bar:

        def show(step: "Step") -> None:
            bar.set_postfix(
                loss=f"{step.loss:.3f}", rate=f"{step.learning_rate:.1e}", refresh=False
            )
            bar.update(step.step - bar.n)

        yield show
