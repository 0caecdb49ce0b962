"""`tritserve pretrain`."""

from pathlib import Path

import click

from tritserve.service.commands.arguments import file_argument
from tritserve.service.commands.progress import progress_bar
from tritserve.service.commands.runs import hold_folder, run_options, steps_shown


@click.command()
@click.argument("recipe", type=file_argument)
@run_options
def pretrain(recipe: Path, out: Path | None, resume: bool, overwrite: bool) -> None:
    """Trains a universal encoder on synthetic series, as RECIPE (TOML) says."""
    from tritserve.model.pretraining.pretrain import draw  # noqa: PLC0415
    from tritserve.model.pretraining.pretrain import pretrain as run  # noqa: PLC0415
    from tritserve.model.pretraining.recipe import read_pretrain_recipe  # noqa: PLC0415
    from tritserve.model.training.checkpoint import save  # noqa: PLC0415
    from tritserve.model.training.plot import plot_training  # noqa: PLC0415

    read = read_pretrain_recipe(recipe)
    folder = hold_folder(read.name, out, resume=resume, overwrite=overwrite)
    with progress_bar(read.prior.series, "series") as bar:
        pool = draw(read, folder, lambda there: bar.update(there - bar.n), resume=resume)
    with steps_shown(read.schedule.steps) as show:
        checkpoint = run(read, pool, folder, show)
    save(checkpoint, folder)
    click.echo(f"checkpoint: {folder}")
    click.echo(f"picture: {plot_training(folder)}")
