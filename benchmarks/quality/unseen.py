"""Rows judged on half of a set's classes, by encoders that were trained on the other half."""

from dataclasses import replace

import numpy as np

from benchmarks.quality.rows import ROWS, Case, encoder
from model.data import Dataset, Labels, load, write


def _unseen(case: Case) -> Case:
    """Trained on half of the classes, rounded up and drawn by the seed, judged on the others."""
    folder = case.models / "unseen"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case.train.name}-{case.seed}.npz"
    unseen, seen = _halves(case)
    rest = _of(seen, case.train)
    write(path, rest.sequences.split(), rest.labels)
    return _judged_on(unseen, replace(case, path=path, models=folder))


def _known(case: Case) -> Case:
    """Judged on the same classes, trained on all."""
    unseen, _ = _halves(case)
    return _judged_on(unseen, case)


def _halves(case: Case) -> tuple[Labels, Labels]:
    classes = np.random.default_rng(case.seed).permutation(case.train.classes)
    return classes[: len(classes) // 2], classes[len(classes) // 2 :]


def _judged_on(classes: Labels, case: Case) -> Case:
    # A result is of what was trained on.
    sha256 = load(case.path, "train").sha256
    train, test = (replace(_of(classes, part), sha256=sha256) for part in (case.train, case.test))
    return replace(case, train=train, test=test)


def _of(classes: Labels, data: Dataset) -> Dataset:
    assert data.labels is not None
    return data.select(np.flatnonzero(np.isin(data.labels, classes)))


_KEYS = ["summary", "random", "float", "ternary", "binary", "float-alone", "ternary-alone"]
# The seed draws the classes, if nothing else.
UNSEEN_ROWS = [
    replace(row, key=f"unseen-{row.key}", chance=True, prepare=_unseen)
    for row in ROWS
    if row.key in _KEYS
]
UNSEEN_ROWS.append(
    replace(
        encoder("known", "ternary, trained on these classes too", "ternary"),
        key="unseen-known",
        prepare=_known,
    )
)
