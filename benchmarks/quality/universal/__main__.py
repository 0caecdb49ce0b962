"""Runs what is missing of the tables, then makes the page; `universal/__init__.py`."""

from pathlib import Path

import click
import torch

from benchmarks.quality.options import Names
from benchmarks.quality.published import SETS
from benchmarks.quality.results import Results
from benchmarks.quality.rows import Row
from benchmarks.quality.scoring import case_of, complete
from benchmarks.quality.universal.encoders import (
    FLOAT,
    RANDOM,
    UNIVERSAL,
    random_row,
    run_row,
)
from benchmarks.quality.universal.few_labels import complete_few
from benchmarks.quality.universal.page import ALONE, FEW_ROWS, OTHER_ROWS, curves, write_page
from benchmarks.quality.universal.pictures import draw_curves, draw_few
from benchmarks.quality.universal.rivals import RIVALS
from tritserve.model.errors import UserError
from tritserve.model.pretraining.recipe import read_pretrain_recipe

# Of rows that need no training; runs bring their own.
_SEEDS = range(3)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_KEYS = [row.key for row in (*RIVALS, RANDOM, FLOAT, UNIVERSAL, ALONE)]


@click.command()
@click.argument("runs", nargs=-1, type=_FOLDER)
@click.option("--data", type=_FOLDER, help="Folder of the seven sets.")
@click.option("--others", type=_FOLDER, help="Folder of sets that nothing was chosen by.")
@click.option(
    "--recipe",
    default=Path("model/pretrained/universal.toml"),
    show_default=True,
    type=_FILE,
    help="Of the universal encoder.",
)
@click.option(
    "--page",
    default=Path("docs/universal-quality.md"),
    show_default=True,
    type=_FILE,
    help="Whose tables are made.",
)
@click.option(
    "--out",
    default=Path("docs/quality"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the results and pictures.",
)
@click.option(
    "--models",
    default=Path("runs/quality"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of checkpoints and packed files.",
)
@click.option("--sets", type=Names("set", SETS), help="Some of the seven, separated by commas.")
@click.option("--rows", type=Names("row", _KEYS), help="Some of the rows, likewise.")
def main(
    runs: tuple[Path, ...],
    data: Path | None,
    others: Path | None,
    recipe: Path,
    page: Path,
    out: Path,
    models: Path,
    sets: list[str] | None,
    rows: list[str] | None,
) -> None:
    """Judges the encoders of RUNS, folders of `tritserve pretrain`, beside what needs no training.

    Without --data and --others it only makes the page and the pictures.
    """
    torch.set_num_threads(1)
    of_sets, of_few, of_others = (
        Results(out / name) for name in ("results.jsonl", "few-labels.jsonl", "other-sets.jsonl")
    )
    try:
        pretrained = read_pretrain_recipe(recipe)
        judged = [(row, seed) for row in RIVALS for seed in (_SEEDS if row.chance else [0])]
        judged += [(random_row(pretrained), seed) for seed in _SEEDS]
        judged += [run_row(folder, pretrained, models) for folder in runs]
    except UserError as error:
        raise click.ClickException(str(error)) from error
    chosen = rows or [*_KEYS, *(row.key for row, _ in judged)]
    judged = [(row, seed) for row, seed in judged if row.key in chosen]
    # Few labels need one seed.
    few = [(row, seed) for row, seed in judged if seed == 0 and row.key in _keys(FEW_ROWS)]
    few += [(ALONE, 0)] * (ALONE.key in chosen)
    beyond = [(row, seed) for row, seed in judged if row.key in _keys(OTHER_ROWS)]
    for path in [data / f"{name}.npz" for name in sets or SETS] if data else []:
        for row, seed in judged:
            complete(of_sets, row, case_of(path, seed, models))
        for row, seed in few:
            complete_few(of_few, row, case_of(path, seed, models))
    for path in sorted(others.glob("*.npz")) if others else []:
        for row, seed in beyond:
            complete(of_others, row, case_of(path, seed, models))

    found = of_sets.read()
    few_found = of_few.read()
    write_page(page, found, few_found, of_others.read(), pretrained)
    draw_curves(out / "universal-curves.png", *curves(found, pretrained))
    draw_few(out / "few-labels.png", few_found)


def _keys(rows: list[Row]) -> set[str]:
    return {row.key for row in rows}


if __name__ == "__main__":
    main()
