"""Labelled or unlabelled ragged data sets, one `.npz` each; `data/README.md` tells the form."""

import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tritserve.model.config import MAX_WIDTH
from tritserve.model.errors import UserError
from tritserve.model.replace import replace_file
from tritserve.model.sequences import Sequences, check_finite, check_lengths, to_float32

Labels = npt.NDArray[np.int64]
Split = Literal["train", "test"]


class DataError(UserError):
    """A data set file that is not of the form in `data/README.md`."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Attributes:
        sequences: the inputs.
        labels: `[n]` int64 from 0, or None.
        name: the file's name without its ending.
        sha256: of the file, in hex.
    """

    sequences: Sequences
    labels: Labels | None
    name: str
    sha256: str

    @property
    def classes(self) -> int:
        """Number of classes: one more than the highest label, 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def select(self, rows: npt.NDArray[np.integer]) -> "Dataset":
        """The data set of the given sequences, in the given order."""
        labels = None if self.labels is None else self.labels[rows]
        return Dataset(self.sequences.select(rows), labels, self.name, self.sha256)


def load(path: Path, split: Split) -> Dataset:
    """Reads one split; the other one is not looked at.

    Raises:
        OSError: the file cannot be read.
        DataError: it is not of the form in `data/README.md`, or has no such split.
    """
    content = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise DataError(f"{path} is not an .npz file, as a data set is")
    try:
        arrays = _read(content, (f"{split}_values", f"{split}_lengths"), f"y_{split}")
        return _parse(arrays, split, path.stem, hashlib.sha256(content).hexdigest())
    except UserError as error:
        raise DataError(f"{path}: {error}") from error


def write(
    path: Path,
    train: Iterable[npt.ArrayLike],
    train_labels: npt.ArrayLike | None = None,
    test: Iterable[npt.ArrayLike] | None = None,
    test_labels: npt.ArrayLike | None = None,
) -> None:
    """Writes a data set that `load` reads; what was at the path is replaced once all is right.

    Numbers become float32, as models take them.

    Args:
        path: of the `.npz`.
        train: arrays `[seq_len, features]` of real numbers, one a sequence.
        train_labels: one a sequence, integers or strings. In the file they count from 0, in sorted
            order, and `classes` holds what they were.
        test: as `train`.
        test_labels: each also one of the training labels.

    Raises:
        OSError: the file cannot be written.
        DataError: sequences or labels cannot be used.
        ReplaceError: a folder or a device is at the path.
    """
    names = None if train_labels is None else _names(train_labels, "train")
    numbers = {name: number for number, name in enumerate(sorted(set(names or [])))}
    arrays = _arrays("train", train, names, numbers)
    if test is not None:
        names = None if test_labels is None else _names(test_labels, "test")
        arrays |= _arrays("test", test, names, numbers)
        widths = [arrays[f"{split}_values"].shape[1] for split in ("train", "test")]
        if widths[0] != widths[1]:
            raise DataError(f"train has {widths[0]} features, test has {widths[1]}")
    elif test_labels is not None:
        raise DataError("there are test labels, but no test sequences")
    if numbers:
        arrays["classes"] = np.array([str(name) for name in numbers])
    content = io.BytesIO()
    np.savez(content, **arrays)
    replace_file(path, content.getvalue())


def _names(labels: npt.ArrayLike, split: Split) -> list[Any]:
    names = np.asarray(labels)
    if names.dtype.kind == "U" and len({type(label) for label in np.asarray(labels, object)}) > 1:
        raise DataError(f"{split} labels are of several types; they must be of one")
    if names.dtype == object and all(isinstance(name, str) for name in names.flat):
        names = names.astype(str)
    if names.ndim != 1 or names.dtype.kind not in "iuU":
        raise DataError(
            f"{split} labels are {names.dtype} {list(names.shape)}; "
            "they must be integers or strings, one a sequence"
        )
    listed: list[Any] = names.tolist()
    return listed


def _arrays(
    split: Split,
    sequences: Iterable[npt.ArrayLike],
    names: list[Any] | None,
    numbers: dict[Any, int],
) -> dict[str, Any]:
    """A split's arrays as they are in the file, known to be right."""
    try:
        joined = Sequences.from_list(sequences)
        arrays: dict[str, Any] = {
            f"{split}_values": joined.values,
            f"{split}_lengths": joined.lengths,
        }
        if names is not None:
            if unknown := [name for name in names if name not in numbers]:
                raise DataError(f"the label {unknown[0]!r} is of no training sequence")
            arrays[f"y_{split}"] = np.array([numbers[name] for name in names], np.int64)
        _parse(arrays, split, "", "")
    except UserError as error:
        raise DataError(f"{split}: {error}") from error
    return arrays


def _read(content: bytes, needed: tuple[str, ...], wanted: str) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            names = sorted(archive.files)
            arrays = {name: archive[name] for name in names if name in (*needed, wanted)}
    except Exception as error:
        # On damaged bytes the readers of npy and zip raise almost anything.
        raise DataError(f"it cannot be read: {error}") from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise DataError(f"no array '{missing[0]}'; the file holds {names}")
    return arrays


def _parse(arrays: dict[str, npt.NDArray[Any]], split: Split, name: str, sha256: str) -> Dataset:
    values = arrays[f"{split}_values"]
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
        raise DataError(
            f"{split}_values are {values.dtype} {list(values.shape)}; "
            "they must be floats of shape [timesteps, features]"
        )
    if not 1 <= values.shape[1] <= MAX_WIDTH:
        raise DataError(
            f"{split}_values have {values.shape[1]} features; a model takes 1 to {MAX_WIDTH}"
        )
    values = to_float32(values)
    lengths = check_lengths(arrays[f"{split}_lengths"], len(values))
    check_finite(values, lengths)
    labels = arrays.get(f"y_{split}")
    if labels is not None:
        if labels.shape != lengths.shape or labels.dtype.kind not in "iu":
            raise DataError(
                f"y_{split} is {labels.dtype} {list(labels.shape)}; "
                f"it must be integers of shape [{len(lengths)}], one label a sequence"
            )
        if labels.min() < 0:
            raise DataError(f"y_{split} holds the label {labels.min()}; labels count from 0")
        # The highest one decides the size of a classifier.
        if split == "train" and labels.max() >= len(lengths):
            raise DataError(
                f"y_train holds the label {labels.max()}, and there are {len(lengths)} sequences; "
                "number the classes 0, 1, 2 and so on"
            )
        labels = labels.astype(np.int64)
    return Dataset(Sequences(values, lengths), labels, name, sha256)


def hold_out(
    data: Dataset, fraction: float, rng: np.random.Generator
) -> tuple[Dataset, Dataset | None]:
    """Splits a training set into a part to train on and a part to validate with.

    Every class keeps its share, to within one sequence, and at least one sequence to train on.

    Args:
        data: the whole training split.
        fraction: share to validate with, 0 for none.
        rng: decides which.

    Raises:
        DataError: the share is of no sequence.
    """
    if not fraction:
        return data, None
    groups = np.zeros(len(data.sequences), dtype=np.int64) if data.labels is None else data.labels
    members = [rng.permutation(np.flatnonzero(groups == group)) for group in np.unique(groups)]
    most = np.array([len(rows) - 1 for rows in members])
    shares = fraction * (most + 1)
    counts = np.minimum(np.floor(shares).astype(np.int64), most)
    # What rounding down has left goes to where the most is left; where that is equal, by chance.
    order = np.lexsort((rng.random(len(members)), counts - shares))
    missing = max(0, round(fraction * len(groups)) - int(counts.sum()))
    counts[order[(counts < most)[order]][:missing]] += 1
    if not counts.any():
        raise DataError(f"a validation share of {fraction} of {len(groups)} sequences is none")
    validate = np.sort(
        np.concatenate([rows[:count] for rows, count in zip(members, counts, strict=True)])
    )
    train = np.setdiff1d(np.arange(len(groups)), validate)
    return data.select(train), data.select(validate)


def check_classes(labels: Labels) -> None:
    """Raises DataError if training labels `[n]` int64 are all of one class."""
    if (labels == labels[0]).all():
        raise DataError(
            f"every training label is {labels[0]}; a score needs two classes or more to tell apart"
        )


def check_labels(train: Labels, test: Labels) -> None:
    """Raises DataError unless training labels `[n]` tell test labels `[m]` apart.

    They are of two classes or more, and of each class that a test label is of.
    """
    check_classes(train)
    unknown = np.setdiff1d(test, train)
    if len(unknown):
        raise DataError(f"y_test holds the label {unknown[0]}, which y_train has not")
