"""`tritserve inspect`."""

from pathlib import Path

import click

from tritserve.model.packed.file import read
from tritserve.model.pretrained import DEFAULT_MODEL
from tritserve.service.commands.arguments import file_argument
from tritserve.service.commands.describe import describe


@click.command()
@click.argument("file", type=file_argument, default=DEFAULT_MODEL)
def inspect(file: Path) -> None:
    """Shows what a packed FILE holds."""
    click.echo(describe(read(file)))
