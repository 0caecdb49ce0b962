"""Accuracy with few labels: the sequences of a training split are all there, most without a label.

Of every class 1, 2, 5 and 10 sequences are drawn from the training split, the same for all rows; a
logistic regression learns from these and is scored on the whole test split. Before, features are
centred and brought to a total variance of 1 by the training split, without its labels: so the
regularisation means the same for each row, and for one label a class as for ten.
"""

import json
import time
from dataclasses import asdict

import click
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from benchmarks.quality.results import Result, Results
from benchmarks.quality.rows import Case, Features, Row
from tritserve.model.data.dataset import Labels
from tritserve.model.sequences import FloatArray

LABELLED = (1, 2, 5, 10)
DRAWS = 10
# Inverse strength of the regularisation: on training splits 10 to 1,000 are alike for all rows.
_C = 10.0


def few_key(row: str, labelled: int) -> str:
    """A row's name in the results file, with so many labels a class."""
    return f"{row}-{labelled}"


def complete_few(results: Results, row: Row, case: Case) -> None:
    """Adds the results of a row that are missing or of another recipe, and shows them.

    Raises:
        ValueError: a class of the training split has too few sequences.
    """
    assert row.features
    recipe = row.fingerprint(case)
    there = results.recipes()
    missing = [
        (labelled, draw)
        for labelled in LABELLED
        for draw in range(DRAWS)
        if there.get((case.train.name, few_key(row.key, labelled), draw)) != recipe
    ]
    if not missing:
        return
    train_x, test_x = scaled(*row.features(case))
    assert case.train.labels is not None
    assert case.test.labels is not None
    for labelled, draw in missing:
        start = time.perf_counter()
        drawn = draw_labelled(case.train.labels, labelled, draw)
        classifier = LogisticRegression(C=_C, max_iter=10_000)
        classifier.fit(train_x[drawn], case.train.labels[drawn])
        result = Result(
            case.train.name,
            few_key(row.key, labelled),
            draw,
            recipe,
            svm=None,
            linear=float(classifier.score(test_x, case.test.labels)),
            neighbour=None,
            seconds=round(time.perf_counter() - start, 2),
        )
        results.append(result)
        click.echo(json.dumps(asdict(result)))


def draw_labelled(labels: Labels, count: int, draw: int) -> npt.NDArray[np.int64]:
    """Which sequences have a label: `count` of each class, among them those of a smaller count.

    Args:
        labels: `[n]` int64, of the training split.
        count: of each class.
        draw: which draw.

    Raises:
        ValueError: a class has fewer than `count` sequences.
    """
    order = np.random.default_rng(draw).permutation(len(labels))
    drawn = []
    for label in np.unique(labels):
        rows = order[labels[order] == label][:count]
        if len(rows) < count:
            raise ValueError(f"class {label} has {len(rows)} sequences, fewer than {count}")
        drawn.append(rows)
    return np.concatenate(drawn)


def scaled(train: FloatArray, test: FloatArray) -> Features:
    """Centres and scales `[n, width]` and `[m, width]` so that the first's total variance is 1."""
    center, spread = train.mean(axis=0), np.sqrt(train.var(axis=0).sum())
    return (train - center) / spread, (test - center) / spread
