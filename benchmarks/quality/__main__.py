"""Runs what is missing of the table, then makes the page; `benchmarks/quality/__init__.py`."""

import json
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.quality.page import write_page
from benchmarks.quality.pictures import draw
from benchmarks.quality.published import SETS
from benchmarks.quality.results import Result, Results
from benchmarks.quality.rows import ROWS, Case, Row
from benchmarks.quality.unseen import UNSEEN_ROWS
from tritserve.model.data.dataset import load
from tritserve.model.evaluation.probe import probe

_BY_KEY = {row.key: row for row in [*ROWS, *UNSEEN_ROWS]}


def run(row: Row, case: Case) -> Result:
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


class _Numbers(click.ParamType):
    """`0,1,2` as a list."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        parts = value.split(",")
        if not all(part.isascii() and part.isdigit() for part in parts):
            self.fail(f"{value!r} are no whole numbers separated by commas", param, ctx)
        return [int(part) for part in parts]


class _Names(click.ParamType):
    """`a,b` as a list; each is one of those that there are."""

    name = "names"

    def __init__(self, what: str, there: list[str]) -> None:
        self._what, self._there = what, there

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[str]:
        names: list[str] = value.split(",")
        for name in names:
            if name not in self._there:
                there = ", ".join(self._there)
                self.fail(f"there is no {self._what} {name!r}; there are {there}", param, ctx)
        return names


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Folder of the sets.")
@click.option(
    "--out",
    default=Path("docs/quality"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the results and pictures; the page is the .md beside it.",
)
@click.option(
    "--models",
    default=Path("runs/quality"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of checkpoints and packed files.",
)
@click.option("--sets", type=_Names("set", SETS), help="Some of the sets, separated by commas.")
@click.option("--rows", type=_Names("row", list(_BY_KEY)), help="Some of the rows, likewise.")
@click.option(
    "--seeds", default="0,1,2,3,4", show_default=True, type=_Numbers(), help="Of training."
)
@click.option("--page", is_flag=True, help="Only make the page and the pictures.")
def main(
    data: Path | None,
    out: Path,
    models: Path,
    sets: list[str] | None,
    rows: list[str] | None,
    seeds: list[int],
    page: bool,
) -> None:
    """Runs what is missing, seed by seed, set by set, and makes the page."""
    torch.set_num_threads(1)
    results = Results(out / "results.jsonl")
    if not page:
        if data is None:
            raise click.UsageError("--data is needed, or --page")
        chosen = [_BY_KEY[key] for key in rows or _BY_KEY]
        for seed, name, row in product(seeds, sets or SETS, chosen):
            if not row.chance and seed:
                continue
            case = row.prepare(_case(data / f"{name}.npz", seed, models))
            done = {(r.dataset, r.row, r.seed): r.recipe for r in results.read()}
            if done.get((name, row.key, seed)) == row.fingerprint(case):
                continue
            result = run(row, case)
            results.append(result)
            click.echo(json.dumps(asdict(result)))
    found = results.read()
    write_page(out.with_suffix(".md"), found)
    draw(out, found, data, models)


def _case(path: Path, seed: int, models: Path) -> Case:
    return Case(path, load(path, "train"), load(path, "test"), seed, models)


if __name__ == "__main__":
    main()
