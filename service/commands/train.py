"""`tritserve train`."""

from pathlib import Path
from typing import Any

import click

from tritserve.model.training.recipe import read_recipe
from tritserve.model.training.run_folder import check_run_folder, default_folder, hold
from tritserve.service.commands.arguments import file_argument
from tritserve.service.commands.progress import progress_bar


@click.command()
@click.argument("recipe", type=file_argument)
@click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/NAME if not given.")
@click.option("--resume", is_flag=True, help="Go on where a run that was stopped left off.")
@click.option("--overwrite", is_flag=True, help="Replace the run that is in the folder.")
def train(recipe: Path, out: Path | None, resume: bool, overwrite: bool) -> None:
    """Trains a model as RECIPE (TOML) says and writes a checkpoint."""
    from tritserve.model.training.checkpoint import save  # noqa: PLC0415
    from tritserve.model.training.log import Step  # noqa: PLC0415
    from tritserve.model.training.plot import plot_training  # noqa: PLC0415
    from tritserve.model.training.train import train as run  # noqa: PLC0415

    read = read_recipe(recipe)
    folder = out or default_folder(read.name)
    click.get_current_context().with_resource(hold(folder))
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    with progress_bar(read.schedule.steps, "step") as bar:

        def show(step: Step) -> None:
            bar.set_postfix(
                loss=f"{step.loss:.3f}", rate=f"{step.learning_rate:.1e}", refresh=False
            )
            bar.update(step.step - bar.n)

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
