"""The generated parts of docs/universal-quality.md."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.quality.page import cell, fill_page, mean_over_sets, published, table
from benchmarks.quality.published import SETS
from benchmarks.quality.results import Result, accuracies
from benchmarks.quality.rows import ROWS, Row
from benchmarks.quality.universal.encoders import FLOAT, RANDOM, STEPS, UNIVERSAL, WIDTH
from benchmarks.quality.universal.few_labels import DRAWS, LABELLED, few_key
from benchmarks.quality.universal.rivals import RIVALS
from tritserve.model.pretraining.recipe import PretrainRecipe

_BY_KEY = {row.key: row for row in ROWS}
ALONE = replace(_BY_KEY["ternary-alone"], title="an encoder for each set, without labels")
LABELLED_ENCODER = replace(_BY_KEY["ternary"], title="an encoder for each set, with labels")
TABLE_ROWS = [
    *RIVALS,
    RANDOM,
    FLOAT,
    UNIVERSAL,
    _BY_KEY["minirocket"],
    ALONE,
    LABELLED_ENCODER,
]
FEW_ROWS = [*RIVALS, UNIVERSAL, ALONE]
OTHER_ROWS = [*RIVALS, UNIVERSAL]
# Accuracies of a row's points along a curve: what was varied, and the mean over sets of each probe.
Curve = dict[int, dict[str, float]]


def write_page(
    page: Path,
    of_sets: list[Result],
    of_few: list[Result],
    of_others: list[Result],
    recipe: PretrainRecipe,
) -> None:
    """Puts every table and how the goals fare into the page, as `fill_page` does."""
    steps, widths = curves(of_sets, recipe)
    others = sorted({result.dataset for result in of_others})
    parts = {
        "svm": table(of_sets, "svm", TABLE_ROWS) + published(),
        "goals": goals(of_sets),
        "linear": table(of_sets, "linear", TABLE_ROWS),
        "neighbour": table(of_sets, "neighbour", TABLE_ROWS),
        "few": few_table(of_few),
        "steps": curve_table("steps", steps),
        "width": curve_table("width", widths),
        "others svm": table(of_others, "svm", OTHER_ROWS, others),
        "others neighbour": table(of_others, "neighbour", OTHER_ROWS, others),
    }
    fill_page(page, parts)


def goals(results: list[Result]) -> str:
    """What was aimed at, beside what came out; of rows that are not whole nothing is said."""
    lines = ["| aimed at | measured | |", "|---|---|---|"]
    svm = {row.key: mean(results, row.key) for row in TABLE_ROWS}
    neighbour = mean(results, UNIVERSAL.key, "neighbour")
    ours = svm[UNIVERSAL.key]

    def add(goal: str, measured: float | None, least: float, form: str = ".2f") -> None:
        if measured is not None:
            reached = "reached" if measured >= least else "missed"
            lines.append(f"| {goal} | {measured:{form}} | {reached} |")

    def above(key: str) -> float | None:
        other = svm[key]
        return None if ours is None or other is None else ours - other

    add("SVM, mean of the sets: 95.8", ours, 95.8)
    add("SVM, mean of the sets: 96.5", ours, 96.5)
    add("SVM within 0.5 points of the float twin", above(FLOAT.key), -0.5, "+.2f")
    add("nearest neighbour, mean of the sets: 93.0", neighbour, 93.0)
    for row in RIVALS:
        add(f"SVM 1.5 points above {row.title}", above(row.key), 1.5, "+.2f")
    return "\n".join(lines) + "\n"


def mean(results: list[Result], row: str, probe: str = "svm") -> float | None:
    """A row's mean over the seven sets, in percent, where it has them all."""
    found = accuracies(results, row, probe)
    return 100 * mean_over_sets(found) if set(found) == set(SETS) else None


def few_table(results: list[Result]) -> str:
    """Means over the sets in percent, by labels a class, with their deviation over draws."""
    lines = [
        "| labels a class | " + " | ".join(map(str, LABELLED)) + " |",
        "|---" * (1 + len(LABELLED)) + "|",
    ]
    for row in FEW_ROWS:
        cells = [cell(few_means(results, row, labelled)) for labelled in LABELLED]
        if any(cells):
            lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def few_means(results: list[Result], row: Row, labelled: int) -> list[float]:
    """Of each draw the mean over the sets, where all of them are there."""
    found = accuracies(results, few_key(row.key, labelled), "linear")
    if set(found) != set(SETS) or any(len(values) != DRAWS for values in found.values()):
        return []
    means: list[float] = np.mean(list(found.values()), axis=0).tolist()
    return means


def curves(results: list[Result], recipe: PretrainRecipe) -> tuple[Curve, Curve]:
    """Means over the sets along steps and along width, of the points that have all sets."""
    steps = _points(results, STEPS) | {
        0: RANDOM.key,
        recipe.schedule.steps: UNIVERSAL.key,
    }
    widths = _points(results, WIDTH) | {recipe.model.hidden_size: UNIVERSAL.key}
    return _curve(results, steps), _curve(results, widths)


def _points(results: list[Result], prefix: str) -> dict[int, str]:
    keys = {result.row for result in results if result.row.startswith(prefix)}
    return {int(key.removeprefix(prefix)): key for key in keys}


def _curve(results: list[Result], keys: dict[int, str]) -> Curve:
    curve = {}
    for at, key in sorted(keys.items()):
        svm, neighbour = (mean(results, key, probe) for probe in ("svm", "neighbour"))
        if svm is not None and neighbour is not None:
            curve[at] = {"svm": svm, "neighbour": neighbour}
    return curve


def curve_table(name: str, curve: Curve) -> str:
    """The points of a curve as Markdown."""
    lines = [f"| {name} | SVM | nearest neighbour |", "|---|---|---|"]
    lines += [
        f"| {at:,} | {found['svm']:.2f} | {found['neighbour']:.2f} |" for at, found in curve.items()
    ]
    return "\n".join(lines) + "\n"
