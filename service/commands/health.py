"""`tritserve health`."""

import click

from tritserve.service.commands.arguments import Seconds
from tritserve.service.process.health import check_ready
from tritserve.service.settings import read_settings


@click.command()
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
    check_ready(read_settings(), seconds)
    click.echo("ready")
