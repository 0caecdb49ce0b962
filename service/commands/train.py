"""`tritserve train`."""

from pathlib import Path
from typing import Any

import click

from tritserve.model.training.recipe import read_recipe
from tritserve.service.commands.arguments import file_argument
from tritserve.service.commands.runs import hold_folder, run_options, steps_shown


@click.command()
@click.argument("recipe", type=file_argument)
@run_options
def train(recipe: Path, out: Path | None, resume: bool, overwrite: bool) -> None:
    """Trains a model as RECIPE (TOML) says and writes a checkpoint."""
    from tritserve.model.training.checkpoint import save  # noqa: PLC0415
    from tritserve.model.training.plot import plot_training  # noqa: PLC0415
    from tritserve.model.training.train import train as run  # noqa: PLC0415

    read = read_recipe(recipe)
    folder = hold_folder(read.name, out, resume=resume, overwrite=overwrite)
    with steps_shown(read.schedule.steps) as show:
        checkpoint = run(read, show, folder, resume=resume)
    save(checkpoint, folder)
    picture = plot_training(folder)
    for name, score in checkpoint.training["scores"].items():
        click.echo(f"{name.replace('_', ' ')}: {score:.4f}")
    if read.validation:
        click.echo(_what_validation_shows(checkpoint.training["dataset"]))
    click.echo(f"checkpoint: {folder}")
    click.echo(f"picture: {picture}")


def _what_validation_shows(dataset: dict[str, Any]) -> str:
    if "groups" in dataset:
        return (
            f"validation: {dataset['groups_held_out']} of {dataset['groups']} groups, "
            f"{dataset['sequences_held_out']} of {dataset['sequences']} sequences, held out whole"
        )
    return (
        "validation: sequences of one session or subject may be on both sides, so the score does "
        "not show how others fare; groups in the data set hold them out whole"
    )
