"""`tritserve pretrain`."""

from pathlib import Path

import click

from tritserve.model.training.run_folder import check_run_folder, default_folder, hold
from tritserve.service.commands.arguments import file_argument
from tritserve.service.commands.progress import progress_bar


@click.command()
@click.argument("recipe", type=file_argument)
@click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/NAME if not given.")
@click.option("--resume", is_flag=True, help="Go on where a run that was stopped left off.")
@click.option("--overwrite", is_flag=True, help="Replace the run that is in the folder.")
def pretrain(recipe: Path, out: Path | None, resume: bool, overwrite: bool) -> None:
    """Trains a universal encoder on synthetic series, as RECIPE (TOML) says."""
    from tritserve.model.pretraining.pretrain import draw  # noqa: PLC0415
    from tritserve.model.pretraining.pretrain import pretrain as run  # noqa: PLC0415
    from tritserve.model.pretraining.recipe import read_pretrain_recipe  # noqa: PLC0415
    from tritserve.model.training.checkpoint import save  # noqa: PLC0415
    from tritserve.model.training.log import Step  # noqa: PLC0415
    from tritserve.model.training.plot import plot_training  # noqa: PLC0415

    read = read_pretrain_recipe(recipe)
    folder = out or default_folder(read.name)
    click.get_current_context().with_resource(hold(folder))
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    with progress_bar(read.prior.series, "series") as bar:
        pool = draw(read, folder, lambda there: bar.update(there - bar.n), resume=resume)
    with progress_bar(read.schedule.steps, "step") as bar:

        def show(step: Step) -> None:
            bar.set_postfix(
                loss=f"{step.loss:.3f}", rate=f"{step.learning_rate:.1e}", refresh=False
            )
            bar.update(step.step - bar.n)

        checkpoint = run(read, pool, folder, show)
    save(checkpoint, folder)
    click.echo(f"checkpoint: {folder}")
    click.echo(f"picture: {plot_training(folder)}")
