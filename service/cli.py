"""The `tritserve` command."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from model.engine import Engine
from model.errors import UserError
from model.packed import read
from model.pretrained import DEFAULT_MODEL
from service.describe import describe

file_argument = click.Path(path_type=Path, exists=True, dir_okay=False)
model_option = click.option(
    "--model",
    type=file_argument,
    default=DEFAULT_MODEL,
    envvar="TRITSERVE_MODEL",
    help="Packed model; the embedded one if not given.",
)


def progress_bar(total: int, unit: str) -> "tqdm[Any]":
    """A progress bar, redrawn seldom where nobody watches a terminal."""
    return tqdm(total=total, unit=unit, mininterval=0.1 if sys.stderr.isatty() else 10)


class _Commands(click.Group):
    """Shows what a user can mend as one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (UserError, OSError) as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            if error.name not in {"torch", "sklearn"}:
                raise
            raise click.ClickException(
                f"this command needs {error.name}; install it with: pip install 'tritserve[train]'"
            ) from error


@click.group(cls=_Commands)
@click.version_option(package_name="tritserve")
def main() -> None:
    """Trains, packs and serves BitNet sequence encoders."""


@main.command()
@click.argument("recipe", type=file_argument)
@click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/NAME if not given.")
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that is there.")
def train(recipe: Path, out: Path | None, overwrite: bool) -> None:
    """Trains a model as RECIPE (TOML) says and writes a checkpoint."""
    from model.checkpoint import DESCRIPTION, save  # noqa: PLC0415
    from model.recipe import read_recipe  # noqa: PLC0415
    from model.train import Step  # noqa: PLC0415
    from model.train import train as run  # noqa: PLC0415

    read = read_recipe(recipe)
    folder = out or Path("runs") / read.name
    if (folder / DESCRIPTION).exists() and not overwrite:
        raise click.ClickException(f"{folder} holds a checkpoint; --overwrite replaces it")
    with progress_bar(read.schedule.steps, "step") as bar:

        def show(step: Step) -> None:
            bar.set_postfix(
                loss=f"{step.loss:.3f}", rate=f"{step.learning_rate:.1e}", refresh=False
            )
            bar.update()

        checkpoint = run(read, show)
    save(checkpoint, folder)
    for name, score in checkpoint.training["scores"].items():
        click.echo(f"{name.replace('_', ' ')}: {score:.4f}")
    click.echo(f"checkpoint: {folder}")


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def pack(checkpoint: Path, out: Path) -> None:
    """Packs a CHECKPOINT folder into the file OUT."""
    from model.checkpoint import load  # noqa: PLC0415
    from model.export import export  # noqa: PLC0415

    trained = load(checkpoint)
    packed = export(
        trained.model, out, name=trained.name, training=trained.training, golden=trained.golden
    )
    click.echo(
        f"{out}: {packed.file_bytes:,} bytes, {packed.bits_per_weight:.3f} bits a weight, "
        f"revision {packed.revision}"
    )


@main.command("inspect")
@click.argument("file", type=file_argument, default=DEFAULT_MODEL)
def inspect_file(file: Path) -> None:
    """Shows what a packed FILE holds."""
    click.echo(describe(read(file)))


@main.command()
@click.argument("file", type=file_argument)
@click.argument("dataset", type=file_argument)
def evaluate(file: Path, dataset: Path) -> None:
    """Accuracy on a DATASET's test split of a linear probe on a packed FILE's embeddings."""
    from model.data import load  # noqa: PLC0415
    from model.probe import linear_probe  # noqa: PLC0415

    engine = Engine.load(file)
    splits = [load(dataset, "train"), load(dataset, "test")]
    labels = [split.labels for split in splits]
    if labels[0] is None or labels[1] is None:
        raise click.ClickException(f"{dataset} has no labels to probe for")
    train_x, test_x = (
        engine.embed(split.sequences.values, split.sequences.lengths) for split in splits
    )
    accuracy = linear_probe(train_x, labels[0], test_x, labels[1])
    click.echo(f"linear probe accuracy on {len(test_x)} test sequences: {accuracy:.4f}")


@main.command()
@model_option
@click.option("--batch", default=32, type=click.IntRange(1))
@click.option("--timesteps", type=click.IntRange(1), help="The model's maximum if not given.")
@click.option("--seconds", default=3.0, type=click.FloatRange(0.1))
def bench(model: Path, batch: int, timesteps: int | None, seconds: float) -> None:
    """Times the engine on this machine; prints one JSON line."""
    engine = Engine.load(model)
    config = engine.model.config
    length = timesteps or config.max_timesteps
    rng = np.random.default_rng(0)
    values = rng.standard_normal((batch * length, config.embed_dim), dtype=np.float32)
    lengths = np.full(batch, length)
    engine.embed(values, lengths)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times:
        start = time.perf_counter()
        engine.embed(values, lengths)
        times.append(time.perf_counter() - start)
    median = float(np.median(times))
    result = {
        "model": engine.model.name,
        "kernel": engine.kernel,
        "threads": engine.threads,
        "batch": batch,
        "timesteps": length,
        "median_ms": round(1e3 * median, 4),
        "sequences_per_second": round(batch / median, 1),
        "timesteps_per_second": round(batch * length / median, 1),
        "runs": len(times),
    }
    click.echo(json.dumps(result))


if __name__ == "__main__":
    main()
