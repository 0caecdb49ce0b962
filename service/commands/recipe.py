"""`tritserve recipe`."""

import os
from pathlib import Path
from typing import Literal

import click

from tritserve.model.replace import replace_file
from tritserve.model.training.recipe import to_toml
from tritserve.model.training.rule import recipe_for
from tritserve.service.commands.arguments import file_argument

_HEAD = "# The data set's path is relative to the folder of this file.\n"
_VALIDATION = (
    "# A share of the training split is held out for a score and a curve; 0 trains on all of it.\n"
)


@click.command()
@click.argument("dataset", type=file_argument)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write; the recipe is printed if not given, to go into a file of this folder.",
)
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
    dataset: Path,
    out: Path | None,
    quantize: Literal["ternary", "binary"],
    without_labels: bool,
    seed: int,
) -> None:
    """Prints a training recipe for a DATASET, made by a rule, to train with or to change.

    A fifth of the training split is held out for a score, where there are labels for one. The data
    set's path is written relative to the recipe: to --out, or to the folder that this runs in.
    """
    if out and out.exists():
        raise click.ClickException(f"{out} is there already; a recipe replaces none")
    made = recipe_for(
        dataset, quantize=quantize, use_labels=not without_labels, validate=True, seed=seed
    )
    folder = out.resolve().parent if out else Path.cwd()
    relative = Path(os.path.relpath(dataset.resolve(), folder))
    text = to_toml(made.model_copy(update={"dataset": relative}))
    # TOML is UTF-8, whatever the terminal's language.
    content = (_HEAD + (_VALIDATION if made.validation else "") + text).encode()
    if out:
        replace_file(out, content)
    else:
        click.echo(content, nl=False)
