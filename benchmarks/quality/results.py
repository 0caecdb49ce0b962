"""The results file: one JSON line for each set, row and seed, appended as soon as it is there."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """Accuracies of one row on one set with one seed.

    Attributes:
        dataset: name of the set.
        row: which row of the table.
        seed: of training; 0 for rows without chance.
        recipe: short hash of the recipe and the data; a result of others is computed again.
        svm: accuracy of the RBF SVM on the test split, where there is one; of MiniRocket, that of
            its own classifier.
        linear: of the logistic regression, where there is one.
        neighbour: of the nearest neighbour, where there is one.
        seconds: of training and probing.
    """

    dataset: str
    row: str
    seed: int
    recipe: str
    svm: float | None
    linear: float | None
    neighbour: float | None
    seconds: float


class Results:
    """All results of a file.

    Args:
        path: the file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Result]:
        """Every result; of several with the same set, row and seed, the last."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines()
        results = [Result(**json.loads(line)) for line in lines]
        return list({(r.dataset, r.row, r.seed): r for r in results}.values())

    def recipes(self) -> dict[tuple[str, str, int], str]:
        """The recipe of each result by set, row and seed."""
        return {(r.dataset, r.row, r.seed): r.recipe for r in self.read()}

    def append(self, result: Result) -> None:
        """Adds one, in a single write, so that runs side by side do not mix their lines."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(asdict(result), allow_nan=False) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def accuracies(results: list[Result], row: str, probe: str = "svm") -> dict[str, list[float]]:
    """A row's accuracies by set, one for each seed."""
    found: dict[str, list[float]] = {}
    for result in results:
        value = getattr(result, probe)
        if result.row == row and value is not None:
            found.setdefault(result.dataset, []).append(value)
    return found
