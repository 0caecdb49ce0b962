"""The generated parts of the results page: the tables and how the goals fare."""

from pathlib import Path

import numpy as np

from benchmarks.quality.published import SETS, SHORT, TS2VEC
from benchmarks.quality.results import Result, accuracies
from benchmarks.quality.rows import ROWS, Row
from benchmarks.quality.unseen import UNSEEN_ROWS


def write_page(page: Path, results: list[Result]) -> None:
    """Puts the tables and how the goals fare into the page, as `fill_page` does."""
    parts = {
        "svm": table(results, "svm") + published(),
        "linear": table(results, "linear"),
        "neighbour": table(results, "neighbour"),
        "goals": goals(results),
        "unseen svm": table(results, "svm", UNSEEN_ROWS),
        "unseen neighbour": table(results, "neighbour", UNSEEN_ROWS),
    }
    fill_page(page, parts)


def fill_page(page: Path, parts: dict[str, str]) -> None:
    """Puts each part between its markers in the page, `<!-- NAME -->` and `<!-- end NAME -->`.

    Raises:
        OSError: the page cannot be read or written.
        ValueError: a marker is missing.
    """
    text = page.read_text()
    for name, content in parts.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"{page} has no part {name!r}")
        text = f"{before}{start}{content}{end}{after}"
    page.write_text(text)


def table(results: list[Result], probe: str, rows: list[Row] = ROWS, sets: list[str] = SETS) -> str:
    """Accuracies in percent, mean and deviation over seeds, as Markdown."""
    head = ["", "labels", "bits", *(SHORT.get(name, name) for name in sets), "mean", "seeds"]
    lines = [_line(head), "|---" * len(head) + "|"]
    for row in rows:
        found = accuracies(results, row.key, probe)
        if not found:
            continue
        cells = [cell(found.get(name, [])) for name in sets]
        runs = [len(found.get(name, [])) for name in sets]
        # A mean of some of the sets would compare with nothing.
        whole = f"{100 * mean_over_sets(found):.2f}" if min(runs) else ""
        seeds = f"{min(runs)}" if min(runs) == max(runs) else f"{min(runs)}-{max(runs)}"
        if not row.chance:
            seeds = "-"
        saw = "yes" if row.labels else "no"
        lines.append(_line([row.title, saw, row.bits, *cells, whole, seeds]))
    return "\n".join(lines) + "\n"


def published() -> str:
    """The line of a table that holds what TS2Vec published."""
    cells = [f"{100 * TS2VEC[name]:.1f}" for name in SETS]
    average = f"{100 * np.mean(list(TS2VEC.values())):.2f}"
    return _line(["TS2Vec, published", "no", "32", *cells, average, "-"]) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cell(values: list[float]) -> str:
    """Accuracies of 0 to 1 as their mean and deviation in percent."""
    if not values:
        return ""
    percent = 100 * np.array(values)
    deviation = f" ± {percent.std(ddof=1):.1f}" if len(values) > 1 else ""
    return f"{percent.mean():.1f}{deviation}"


def mean_over_sets(found: dict[str, list[float]]) -> float:
    """Mean over sets of the mean over seeds."""
    return float(np.mean([np.mean(values) for values in found.values()]))


def goals(results: list[Result]) -> str:
    """What was aimed at, beside what came out."""
    by_row = {
        row.key: {name: float(np.mean(v)) for name, v in accuracies(results, row.key).items()}
        for row in ROWS
    }
    lines = ["| aimed at | measured | |", "|---|---|---|"]

    def add(goal: str, measured: str, reached: bool) -> None:
        lines.append(f"| {goal} | {measured} | {'reached' if reached else 'missed'} |")

    def whole(*keys: str) -> bool:
        return all(set(by_row[key]) == set(SETS) for key in keys)

    def gaps(low: str, high: str) -> dict[str, float]:
        return {name: 100 * (by_row[low][name] - by_row[high][name]) for name in SETS}

    def add_twin(key: str, within: float) -> None:
        if whole(key, "float"):
            gap = float(np.mean(list(gaps(key, "float").values())))
            goal = f"{key} within {within} points of its float twin on the mean"
            add(goal, f"{gap:+.2f}", gap >= -within)

    def add_above(key: str, title: str, other: dict[str, float], least: int) -> None:
        if whole(key):
            above = [name for name in SETS if by_row[key][name] > other[name]]
            goal = f"{title} above TS2Vec's published accuracy on {least} of {len(SETS)}"
            add(goal, f"{len(above)}: {', '.join(above)}", len(above) >= least)

    add_twin("ternary", 0.5)
    if whole("ternary", "float"):
        worst, gap = min(gaps("ternary", "float").items(), key=lambda pair: pair[1])
        add("no set worse than 2.5 points", f"{gap:+.2f}, {worst}", gap >= -2.5)
    add_twin("binary", 1.5)
    add_above("ternary", "ternary", TS2VEC, 5)
    if whole("ternary"):
        mean = 100 * float(np.mean(list(by_row["ternary"].values())))
        published = 100 * float(np.mean(list(TS2VEC.values())))
        add(f"ternary's mean above TS2Vec's {published:.2f}", f"{mean:.2f}", mean > published)
    for other, title in [
        ("after", "ternarising after training"),
        ("summary", "summary statistics"),
    ]:
        if whole("ternary", other):
            # Nothing is above 100.
            full = [name for name in SETS if by_row["ternary"][name] == by_row[other][name] == 1]
            gap = gaps("ternary", other)
            below = [name for name in SETS if gap[name] <= 0 and name not in full]
            measured = f"not on {', '.join(below)}" if below else "on every set"
            if full:
                measured += f"; both at 100 on {', '.join(full)}"
            add(f"ternary above {title} everywhere", measured, not below)
    if vowels := by_row["ternary"].get("JapaneseVowels"):
        add("JapaneseVowels 98.9", f"{100 * vowels:.2f}", vowels >= 0.989)
    add_above("ternary-alone", "ternary, self-supervised,", TS2VEC, 4)
    return "\n".join(lines) + "\n"
