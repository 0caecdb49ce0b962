"""Runs what is missing of the table, then makes the page; `benchmarks/quality/__init__.py`."""

from itertools import product
from pathlib import Path

import click
import torch

from benchmarks.quality.options import Names, Numbers
from benchmarks.quality.page import write_page
from benchmarks.quality.pictures import draw
from benchmarks.quality.published import SETS
from benchmarks.quality.results import Results
from benchmarks.quality.rows import ROWS
from benchmarks.quality.scoring import case_of, complete
from benchmarks.quality.unseen import UNSEEN_ROWS

_BY_KEY = {row.key: row for row in [*ROWS, *UNSEEN_ROWS]}


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
@click.option("--sets", type=Names("set", SETS), help="Some of the sets, separated by commas.")
@click.option("--rows", type=Names("row", list(_BY_KEY)), help="Some of the rows, likewise.")
@click.option(
    "--seeds", default="0,1,2,3,4", show_default=True, type=Numbers(), help="Of training."
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
            complete(results, row, case_of(data / f"{name}.npz", seed, models))
    found = results.read()
    write_page(out.with_suffix(".md"), found)
    draw(out, found, data, models)


if __name__ == "__main__":
    main()
