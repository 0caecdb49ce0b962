"""`tritserve recipe`."""

from pathlib import Path
from typing import Literal

import click

from tritserve.model.training.recipe import to_toml
from tritserve.model.training.rule import recipe_for
from tritserve.service.commands.arguments import file_argument


@click.command()
@click.argument("dataset", type=file_argument)
@click.option(
    "--quantize",
    default="ternary",
    show_default=True,
    type=click.Choice(["ternary", "binary"]),
    help="Weights of the encoder's blocks.",
)
@click.option("--without-labels", is_flag=True, help="Learn from the sequences alone.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**63 - 1),
    help="Of training: another seed, another model.",
)
def recipe(
    dataset: Path, quantize: Literal["ternary", "binary"], without_labels: bool, seed: int
) -> None:
    """Prints a training recipe for a DATASET, made by a rule, to train with or to change."""
    made = recipe_for(
        dataset.resolve(), quantize=quantize, use_labels=not without_labels, seed=seed
    )
    # TOML is UTF-8, whatever the terminal's language.
    click.echo(to_toml(made).encode(), nl=False)
