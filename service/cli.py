"""The `tritserve` command."""

import sys
from pathlib import Path
from typing import Any

import click

from model.errors import UserError
from service import early_signals
from service.arguments import Seconds, model_option
from service.errors import ServiceError


class _Commands(click.Group):
    """Shows what a user can mend as one line, without a traceback.

    What works on files is imported when it is asked for: numpy and the engine would be most of
    what `health` costs, which runs every few seconds.
    """

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            self._add_offline()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._add_offline()
        return super().list_commands(ctx)

    def _add_offline(self) -> None:
        from service.offline import COMMANDS  # noqa: PLC0415

        for command in COMMANDS:
            self.add_command(command)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (UserError, ServiceError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except MemoryError as error:
            raise click.ClickException(f"there is not enough memory: {error}") from error
        except ModuleNotFoundError as error:
            if error.name not in {"torch", "sklearn", "matplotlib"}:
                raise
            raise click.ClickException(
                f"this command needs {error.name}; install tritserve with its extra 'train'"
            ) from error


@click.group(cls=_Commands)
@click.version_option(package_name="tritserve")
def main() -> None:
    """Trains, packs and serves BitNet sequence encoders."""


@main.command()
@model_option
@click.option("--host", help="Address to listen on; 127.0.0.1 if not given.")
@click.option("--port", type=click.IntRange(0, 65_535), help="8000 if not given.")
@click.option("--workers", type=click.IntRange(1), help="Processes on the port; 1 if not given.")
def serve(model: Path, **given: Any) -> None:
    """Serves a packed model over HTTP; TRITSERVE_ variables set the rest."""
    early_signals.handle()
    from service.served import load_engine  # noqa: PLC0415
    from service.server import check, run  # noqa: PLC0415
    from service.settings import read_settings  # noqa: PLC0415
    from service.supervisor import Supervisor  # noqa: PLC0415

    settings = read_settings(model=model, **{k: v for k, v in given.items() if v is not None})
    check(settings)
    if settings.workers > 1:
        # What keeps one worker from starting keeps all.
        load_engine(settings)
        sys.exit(Supervisor(settings).run())
    run(settings)


@main.command()
@click.option(
    "--seconds",
    default=2.0,
    show_default=True,
    type=Seconds(0.001, 3600),
    help="How long to wait for the answer.",
)
def health(seconds: float) -> None:
    """Asks the service that TRITSERVE_ variables describe, on this machine, whether it is ready.

    The status is 0 if it is: for health checks of containers.
    """
    from service.health import check_ready  # noqa: PLC0415
    from service.settings import read_settings  # noqa: PLC0415

    check_ready(read_settings(), seconds)
    click.echo("ready")


if __name__ == "__main__":
    main()
