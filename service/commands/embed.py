"""`tritserve embed`."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from tritserve.model.engine.engine import Engine
from tritserve.model.sequences import check_finite, check_no_infinity, check_width
from tritserve.service.commands.arguments import file_argument, model_option, threads_option
from tritserve.service.commands.bulk import embed_all
from tritserve.service.commands.files import check_target, read_sequences, write_embeddings
from tritserve.service.forms.choices import Channels, Overlong, truncate
from tritserve.service.forms.options import Options, finish


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
@click.option(
    "--channels",
    type=click.Choice(get_args(Channels)),
    default="joined",
    show_default=True,
    help="Of a model that sees channels one by one: join them, or keep them apart, in order.",
)
@click.option("--normalize", is_flag=True, help="Scale embeddings to unit length.")
@threads_option
def embed(
    source: Path,
    out: Path,
    model: Path,
    split: str | None,
    overlong: Overlong,
    channels: Channels,
    normalize: bool,
    threads: int | None,
) -> None:
    """Embeds the sequences in a file IN and writes the embeddings to OUT.

    Both are .npy, .npz or .safetensors; IN holds [batch, seq_len, embed_dim], or values
    [timesteps, embed_dim] and lengths [batch]. Where an .npz has feature_names and the model knows
    its own, columns are put into the model's order, and others are refused. A model that sees
    channels one by one takes any number of them, and NaN where a value is missing.
    """
    check_target(out, source, model)
    engine = Engine.load(model, threads=threads)
    config, signature = engine.model.config, engine.model.signature
    file = read_sequences(source, split)
    given = file.sequences
    if file.feature_names is not None and signature.feature_names:
        given = replace(given, values=signature.arrange(given.values, file.feature_names))
    check_width(given.values, config.embed_dim, given.lengths)
    (check_no_infinity if config.channels else check_finite)(given.values, given.lengths)
    sequences, truncated = truncate(given, overlong, config.max_timesteps)
    embeddings = embed_all(engine, sequences, apart=channels == "apart")
    rows = finish(embeddings, Options(normalize=normalize)).rows
    write_embeddings(out, rows)
    shortened = f", {len(truncated)} of them shortened" if truncated else ""
    click.echo(f"{out}: {len(rows)} embeddings of {rows.shape[1]} numbers{shortened}")
