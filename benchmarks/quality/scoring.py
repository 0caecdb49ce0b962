"""One row on one set: its features made, and scored once on the test split."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import click

from benchmarks.quality.results import Result, Results
from benchmarks.quality.rows import Case, Row
from tritserve.model.data.dataset import load
from tritserve.model.evaluation.probe import probe


def case_of(path: Path, seed: int, models: Path) -> Case:
    """Both splits of a set, read from its `.npz`."""
    return Case(path, load(path, "train"), load(path, "test"), seed, models)


def complete(results: Results, row: Row, case: Case) -> None:
    """Adds the result of a row, and shows it, where it is missing or one of another recipe."""
    case = row.prepare(case)
    there = results.recipes().get((case.train.name, row.key, case.seed))
    if there == row.fingerprint(case):
        return
    result = score(row, case)
    results.append(result)
    click.echo(json.dumps(asdict(result)))


def score(row: Row, case: Case) -> Result:
    """Trains, embeds and scores; the test split is looked at here only."""
    start = time.perf_counter()
    if row.accuracy:
        found: dict[str, float] = {"svm": row.accuracy(case)}
    else:
        assert row.features
        assert case.train.labels is not None
        assert case.test.labels is not None
        train_x, test_x = row.features(case)
        found = dict(probe(train_x, case.train.labels, test_x, case.test.labels))
    seconds = round(time.perf_counter() - start, 1)
    return Result(
        case.train.name,
        row.key,
        case.seed,
        row.fingerprint(case),
        svm=found["svm"],
        linear=found.get("linear"),
        neighbour=found.get("neighbour"),
        seconds=seconds,
    )
