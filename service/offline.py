"""The `tritserve` commands that work on files, without a service."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import click
import numpy as np
from tqdm import tqdm

from model.engine import MAX_THREADS, Engine
from model.errors import UserError
from model.packed import read
from model.pretrained import DEFAULT_MODEL
from model.run_folder import belongs_to_run, check_run_folder, default_folder, hold
from model.sequences import (
    FloatArray,
    SequenceError,
    Sequences,
    check_finite,
    check_longest,
    check_width,
)
from service.arguments import Seconds, file_argument, model_option
from service.describe import describe
from service.errors import ServiceError
from service.files import check_target, read_sequences, write_embeddings
from service.options import Options, Overlong, finish, truncate
from service.wire import invalid

EMBED_TIMESTEPS = 8_192
BENCH_TIMESTEPS = 60

threads_option = click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    envvar="TRITSERVE_THREADS",
    help="Threads of the engine; one for each processor if not given.",
)


def chunks(sequences: Sequences, timesteps: int) -> Iterator[Sequences]:
    """Consecutive parts of a batch, of about `timesteps` timesteps each."""
    ends = np.cumsum(sequences.lengths)
    cuts = np.flatnonzero(np.diff(ends // timesteps)) + 1
    for rows in np.split(np.arange(len(sequences)), cuts):
        yield sequences.select(rows)


def progress_bar(total: int, unit: str) -> "tqdm[Any]":
    """A progress bar, redrawn seldom where nobody watches a terminal."""
    return tqdm(total=total, unit=unit, mininterval=0.1 if sys.stderr.isatty() else 10)


def embed_all(engine: Engine, sequences: Sequences) -> FloatArray:
    """Embeddings `[batch, hidden_size]`, made part by part with a progress bar.

    Raises:
        InvalidError: the model cannot take a sequence.
    """
    parts: list[FloatArray] = []
    with progress_bar(len(sequences), "sequence") as bar:
        for part in chunks(sequences, EMBED_TIMESTEPS):
            try:
                parts.append(engine.embed(part.values, part.lengths))
            except SequenceError as error:
                raise invalid(error, first_row=sum(map(len, parts))) from error
            bar.update(len(part))
    return np.concatenate(parts)


@click.command()
@click.argument("source", metavar="IN", type=file_argument)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@model_option
@click.option("--split", type=click.Choice(["train", "test"]), help="Of a data set's file.")
@click.option(
    "--overlong",
    type=click.Choice(get_args(Overlong)),
    default="error",
    show_default=True,
    help="What becomes of sequences longer than the model takes.",
)
@click.option("--normalize", is_flag=True, help="Scale embeddings to unit length.")
@threads_option
def embed(
    source: Path,
    out: Path,
    model: Path,
    split: str | None,
    overlong: Overlong,
    normalize: bool,
    threads: int | None,
) -> None:
    """Embeds the sequences in a file IN and writes the embeddings to OUT.

    Both are .npy, .npz or .safetensors; IN holds [batch, seq_len, embed_dim], or values
    [timesteps, embed_dim] and lengths [batch].
    """
    check_target(out, source, model)
    engine = Engine.load(model, threads=threads)
    config = engine.model.config
    given = read_sequences(source, split)
    check_width(given.values, config.embed_dim)
    check_finite(given.values, given.lengths)
    sequences, truncated = truncate(given, overlong, config.max_timesteps)
    rows = finish(embed_all(engine, sequences), Options(normalize=normalize)).rows
    write_embeddings(out, rows)
    shortened = f", {len(truncated)} of them shortened" if truncated else ""
    click.echo(f"{out}: {len(rows)} embeddings of {rows.shape[1]} numbers{shortened}")


@click.command()
@click.argument("recipe", type=file_argument)
@click.option("--out", type=click.Path(path_type=Path), help="Folder; runs/NAME if not given.")
@click.option("--resume", is_flag=True, help="Go on where a run that was stopped left off.")
@click.option("--overwrite", is_flag=True, help="Replace the run that is in the folder.")
def train(recipe: Path, out: Path | None, resume: bool, overwrite: bool) -> None:
    """Trains a model as RECIPE (TOML) says and writes a checkpoint."""
    from model.checkpoint import save  # noqa: PLC0415
    from model.plot import plot_training  # noqa: PLC0415
    from model.recipe import read_recipe  # noqa: PLC0415
    from model.train import train as run  # noqa: PLC0415
    from model.training_log import Step  # noqa: PLC0415

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
    plot_training(folder)
    for name, score in checkpoint.training["scores"].items():
        click.echo(f"{name.replace('_', ' ')}: {score:.4f}")
    click.echo(f"checkpoint: {folder}")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
def pack(checkpoint: Path, out: Path) -> None:
    """Packs a CHECKPOINT folder into the file OUT, which is replaced only by a good one."""
    from model.checkpoint import load  # noqa: PLC0415
    from model.export import export  # noqa: PLC0415

    if belongs_to_run(out, checkpoint):
        raise click.ClickException(f"{out} is a file of the checkpoint; pack into another one")
    trained = load(checkpoint)
    packed = export(trained.model, out, name=trained.name, training=trained.training)
    click.echo(
        f"{out}: {packed.file_bytes:,} bytes, {packed.bits_per_weight:.3f} bits a weight, "
        f"revision {packed.revision}"
    )


@click.command("inspect")
@click.argument("file", type=file_argument, default=DEFAULT_MODEL)
def inspect_file(file: Path) -> None:
    """Shows what a packed FILE holds."""
    click.echo(describe(read(file)))


@click.command()
@click.argument("file", type=file_argument)
@click.argument("dataset", type=file_argument)
@threads_option
def evaluate(file: Path, dataset: Path, threads: int | None) -> None:
    """Accuracies on a DATASET's test split of probes on a packed FILE's embeddings.

    The probes are the nearest neighbour, a logistic regression and an RBF SVM, each fitted on the
    training split's embeddings as TS2Vec's evaluation does. Each is shown when it is done; where
    classes overlap, the SVM may take minutes.
    """
    from model.data import check_labels, load  # noqa: PLC0415
    from model.probe import probe  # noqa: PLC0415

    engine = Engine.load(file, threads=threads)
    train, test = load(dataset, "train"), load(dataset, "test")
    if train.labels is None or test.labels is None:
        raise click.ClickException(f"{dataset} has no labels to probe for")
    check_labels(train.labels, test.labels)
    embeddings = []
    for split, data in (("train", train), ("test", test)):
        try:
            embeddings.append(embed_all(engine, data.sequences))
        except (UserError, ServiceError) as error:
            raise click.ClickException(f"{dataset}, {split} split: {error}") from error
    click.echo(f"accuracy on {len(test.labels)} test sequences:")
    for name, accuracy in probe(embeddings[0], train.labels, embeddings[1], test.labels):
        click.echo(f"  {name:<10} {accuracy:.4f}")


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
    from model.recipe import to_toml  # noqa: PLC0415
    from model.rule import recipe_for  # noqa: PLC0415

    made = recipe_for(
        dataset.resolve(), quantize=quantize, use_labels=not without_labels, seed=seed
    )
    # TOML is UTF-8, whatever the terminal's language.
    click.echo(to_toml(made).encode(), nl=False)


@click.command()
@model_option
@click.option(
    "--batch",
    default=32,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Sequences embedded at once.",
)
@click.option(
    "--timesteps",
    type=click.IntRange(1),
    help=f"Of each sequence; {BENCH_TIMESTEPS}, or the model's maximum, if not given.",
)
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    type=Seconds(0.1, 3600),
    help="How long to measure.",
)
@threads_option
def bench(
    model: Path, batch: int, timesteps: int | None, seconds: float, threads: int | None
) -> None:
    """Times the engine on this machine; prints one JSON line.

    The sequences are noise with the mean and the deviation of the model's training data.
    """
    engine = Engine.load(model, threads=threads)
    config = engine.model.config
    length = timesteps or min(BENCH_TIMESTEPS, config.max_timesteps)
    check_longest(np.array([length]), config.max_timesteps)
    values = np.random.default_rng(0).standard_normal(
        (batch * length, config.embed_dim), np.float32
    )
    # After the features come their differences over time.
    values *= engine.model.tensors["standardize.std"][: config.embed_dim]
    values += engine.model.tensors["standardize.mean"][: config.embed_dim]
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


COMMANDS: tuple[click.Command, ...] = (embed, train, pack, inspect_file, evaluate, recipe, bench)
