"""`tritserve recipe`."""

import os
from pathlib import Path
from typing import Any, Literal

import click

from tritserve.model.pretrained import EMBEDDED_MODELS
from tritserve.model.replace import replace_file
from tritserve.model.training.recipe import to_toml
from tritserve.model.training.rule import better_start, recipe_for
from tritserve.service.commands.arguments import file_argument

NOTHING = "nothing"
_HEAD = "# Paths are relative to the folder of this file.\n"
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
    "--start",
    metavar="NAME|FILE|nothing",
    help="What training begins with: the weights of an embedded model or of a packed file that see "
    "channels one by one, or random ones. If not given, the better by the size of the data.",
)
@click.option(
    "--quantize",
    type=click.Choice(["ternary", "binary"]),
    help="Weights of the encoder's blocks, where they begin as random ones; ternary if not given.",
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
    start: str | None,
    quantize: Literal["ternary", "binary"] | None,
    without_labels: bool,
    seed: int,
) -> None:
    """Prints a training recipe for a DATASET, made by a rule, to train with or to change.

    A fifth of the training split is held out for a score, where there are labels for one. Paths are
    written relative to the recipe: to --out, or to the folder that this runs in.
    """
    if out and out.exists():
        raise click.ClickException(f"{out} is there already; a recipe replaces none")
    if quantize and start not in (None, NOTHING):
        raise click.ClickException(f"the weights are those of {start}; leave --quantize out")
    if start is None and quantize is None:
        start = better_start(dataset)
    made = recipe_for(
        dataset,
        start=None if start == NOTHING else start,
        quantize=quantize or "ternary",
        use_labels=not without_labels,
        validate=True,
        seed=seed,
    )
    folder = out.resolve().parent if out else Path.cwd()
    paths: dict[str, Any] = {"dataset": Path(os.path.relpath(dataset.resolve(), folder))}
    if made.start and made.start not in EMBEDDED_MODELS:
        paths["start"] = os.path.relpath(Path(made.start).resolve(), folder)
    text = to_toml(made.model_copy(update=paths))
    # TOML is UTF-8, whatever the terminal's language.
    content = (_HEAD + (_VALIDATION if made.validation else "") + text).encode()
    if out:
        replace_file(out, content)
    else:
        click.echo(content, nl=False)
