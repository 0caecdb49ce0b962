"""The `tritserve` command: which commands there are, and how their errors look."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from tritserve.model.errors import DataWarning, UserError
from tritserve.model.text import printable
from tritserve.service.errors import ServiceError

# Each is a module of this folder that holds a function of its name. Only the one that is asked for
# is imported: `health` runs every few seconds, and numpy would be most of what it costs.
COMMANDS = (
    "bench",
    "calibrate",
    "embed",
    "evaluate",
    "health",
    "inspect",
    "pack",
    "pretrain",
    "recipe",
    "serve",
    "train",
)


class _Commands(click.Group):
    """Shows what a user can mend as one line, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command
        try:
            command = getattr(import_module(f"{__package__}.{cmd_name}"), cmd_name)
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _warnings_as_lines():
                return super().invoke(ctx)
        except (UserError, ServiceError, OSError) as error:
            raise click.ClickException(printable(str(error))) from error
        except MemoryError as error:
            raise click.ClickException(f"there is not enough memory: {error}") from error
        except ModuleNotFoundError as error:
            raise _missing(error) from error


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Shows a warning about data as one line; others as ever."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_line(
            message: Warning | str, category: type[Warning], *where: Any, **more: Any
        ) -> None:
            if issubclass(category, DataWarning):
                click.echo(f"Warning: {printable(str(message))}", err=True)
            else:
                show(message, category, *where, **more)

        warnings.showwarning = show_line
        yield


def _missing(error: ModuleNotFoundError) -> Exception:
    if error.name not in {"torch", "sklearn", "matplotlib", "threadpoolctl"}:
        return error
    return click.ClickException(
        f"this command needs {error.name}; install tritserve with its extra 'train'"
    )


@click.group(cls=_Commands)
@click.version_option(package_name="tritserve")
def main() -> None:
    """Trains, packs and serves BitNet sequence encoders."""


if __name__ == "__main__":
    main()
