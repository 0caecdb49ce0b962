"""`tritserve evaluate`."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from tritserve.model.data.dataset import Split, load
from tritserve.model.data.split import check_labels
from tritserve.model.engine.engine import Engine
from tritserve.model.errors import UserError
from tritserve.service.commands.arguments import file_argument, threads_option
from tritserve.service.commands.bulk import embed_all
from tritserve.service.errors import ServiceError


@click.command()
@click.argument("file", type=file_argument)
@click.argument("dataset", type=file_argument)
@threads_option
def evaluate(file: Path, dataset: Path, threads: int | None) -> None:
    """Accuracies on a DATASET's test split of probes on a packed FILE's embeddings.

    The probes are the nearest neighbour, a logistic regression and an RBF SVM, each fitted on the
    training split's embeddings as TS2Vec's evaluation does. Each is shown when it is done; where
    classes overlap, the SVM may take minutes. A model that sees channels one by one takes NaN where
    a value is missing.
    """
    from tritserve.model.evaluation.probe import probe  # noqa: PLC0415

    engine = Engine.load(file, threads=threads)
    missing = engine.model.config.channels is not None
    train, test = (load(dataset, split, missing=missing) for split in get_args(Split))
    if train.labels is None or test.labels is None:
        raise click.ClickException(f"{dataset} has no labels to probe for")
    check_labels(train.labels, test.labels)
    embeddings = []
    signature = engine.model.signature
    for split, data in (("train", train), ("test", test)):
        sequences = data.sequences
        try:
            if data.signature.feature_names and signature.feature_names:
                values = signature.arrange(sequences.values, data.signature.feature_names)
                sequences = replace(sequences, values=values)
            embeddings.append(embed_all(engine, sequences))
        except (UserError, ServiceError) as error:
            raise click.ClickException(f"{dataset}, {split} split: {error}") from error
    click.echo(f"accuracy on {len(test.labels)} test sequences:")
    for name, accuracy in probe(embeddings[0], train.labels, embeddings[1], test.labels):
        click.echo(f"  {name:<10} {accuracy:.4f}")
