"""Rows judged on half of a set's classes, by encoders that were trained on the other half."""

from dataclasses import replace

import numpy as np

from benchmarks.quality.rows import ROWS, Case
from tritserve.model.data.dataset import Dataset, Labels, load
from tritserve.model.data.writing import write


def _unseen(case: Case) -> Case:
    """Trained on half of the classes, rounded up and drawn by the seed, judged on the others."""
    folder = case.models / "unseen"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{case.train.name}-{case.seed}.npz"
    unseen, seen = _halves(case)
    rest = _of(seen, case.train)
    write(path, rest.sequences.split(), rest.labels)
    judged = _judged_on(unseen, replace(case, path=path, models=folder))
    # A result is of what was trained on.
    train = replace(judged.train, sha256=load(path, "train").sha256)
    return replace(judged, train=train)


def _known(case: Case) -> Case:
    """Judged on the same classes, trained on all."""
    unseen, _ = _halves(case)
    return _judged_on(unseen, case)


def _halves(case: Case) -> tuple[Labels, Labels]:
    classes = np.random.default_rng(case.seed).permutation(case.train.classes)
    return classes[: len(classes) // 2], classes[len(classes) // 2 :]


def _judged_on(classes: Labels, case: Case) -> Case:
    return replace(case, train=_of(classes, case.train), test=_of(classes, case.test))


def _of(classes: Labels, data: Dataset) -> Dataset:
    assert data.labels is not None
    return data.select(np.flatnonzero(np.isin(data.labels, classes)))


_KEYS = ["summary", "random", "float", "ternary", "binary", "float-alone", "ternary-alone"]
_BY_KEY = {row.key: row for row in ROWS if row.key in _KEYS}
UNSEEN_ROWS = [
    # The seed draws the classes, if nothing else.
    *(
        replace(row, key=f"unseen-{key}", chance=True, prepare=_unseen)
        for key, row in _BY_KEY.items()
    ),
    replace(
        _BY_KEY["ternary"],
        key="unseen-known",
        title="ternary, trained on these classes too",
        prepare=_known,
    ),
]
