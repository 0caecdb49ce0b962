"""Labelled or unlabelled ragged data sets, one `.npz` each; `data/README.md` tells the form."""

import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from tritserve.model.arrays import REAL_KINDS, column_names
from tritserve.model.config import MAX_WIDTH
from tritserve.model.errors import UserError, explain
from tritserve.model.replace import replace_file
from tritserve.model.sequences import (
    Layout,
    Sequences,
    check_finite,
    check_lengths,
    exact_float32,
    warn_if_transposed,
)
from tritserve.model.signature import NO_SIGNATURE, Signature

Labels = npt.NDArray[np.int64]
Groups = npt.NDArray[np.int64]
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
        groups: `[n]` int64: sequences of the same number belong together, as those of one session
            or subject do; None where nothing is known of it, as in a test split.
        signature: what features and labels mean.
    """

    sequences: Sequences
    labels: Labels | None
    name: str
    sha256: str
    groups: Groups | None = None
    signature: Signature = NO_SIGNATURE

    @property
    def classes(self) -> int:
        """Number of classes: one more than the highest label, 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def select(self, rows: npt.NDArray[np.integer]) -> "Dataset":
        """The data set of the given sequences, in the given order."""
        labels = None if self.labels is None else self.labels[rows]
        groups = None if self.groups is None else self.groups[rows]
        sequences = self.sequences.select(rows)
        return replace(self, sequences=sequences, labels=labels, groups=groups)


def load(path: Path | str, split: Split) -> Dataset:
    """Reads one split; the other one is not looked at.

    Raises:
        OSError: the file cannot be read.
        DataError: it is not of the form in `data/README.md`, or has no such split.
    """
    path = Path(path)
    content = path.read_bytes()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise DataError(f"{path} is not an .npz file, as a data set is")
    try:
        arrays = _read(
            content,
            needed=(f"{split}_values", f"{split}_lengths"),
            wanted={f"y_{split}", f"groups_{split}", *Signature.model_fields},
        )
        return _parse(arrays, split, path.stem, hashlib.sha256(content).hexdigest())
    except UserError as error:
        raise DataError(f"{path}: {error}") from error


def write(
    path: Path | str,
    train: Iterable[Any],
    train_labels: npt.ArrayLike | None = None,
    test: Iterable[Any] | None = None,
    test_labels: npt.ArrayLike | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    feature_names: Iterable[str] | None = None,
    units: Iterable[str] | None = None,
    sampling_rate: float | None = None,
    layout: Layout | None = None,
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
        groups: one a training sequence, integers or strings: what it was recorded in or from, such
            as a session or a subject. A validation part holds whole groups out.
        feature_names: one a feature. Where sequences are tables, those of their columns if not
            given; test tables are put into that order.
        units: one a feature, such as `m/s2`; empty where it has none.
        sampling_rate: timesteps a second, in Hz.
        layout: `channels_first` if sequences are `[features, seq_len]`. If not given, they are
            taken to be `time_first`, with a warning where that is doubtful.

    Raises:
        OSError: the file cannot be written.
        DataError: sequences, labels, groups or names cannot be used.
        ReplaceError: a folder or a device is at the path.

    Warns:
        DataWarning: time and features look transposed, and no layout is given.
    """
    splits: list[tuple[Split, list[Any], npt.ArrayLike | None]] = [
        ("train", _listed(train), train_labels)
    ]
    if test is not None:
        splits.append(("test", _listed(test), test_labels))
    elif test_labels is not None:
        raise DataError("there are test labels, but no test sequences")
    named = {
        split: None if given is None else _names(given, f"{split} labels")
        for split, _, given in splits
    }
    numbers = {name: number for number, name in enumerate(sorted(set(named["train"] or [])))}
    signature = _signature(
        feature_names=_columns(splits[0][1], layout)
        if feature_names is None
        else list(feature_names),
        units=None if units is None else list(units),
        sampling_rate=sampling_rate,
        classes=[str(name) for name in numbers],
    )
    arrays: dict[str, Any] = {key: np.array(value) for key, value in signature.known().items()}
    if groups is not None:
        arrays["groups_train"] = np.array(_names(groups, "groups"))
    for split, sequences, _ in splits:
        try:
            columns = _columns(sequences, layout)
            joined = Sequences.from_list(sequences, layout or "time_first")
            values = signature.arrange(joined.values, columns) if columns else joined.values
            arrays |= {f"{split}_values": values, f"{split}_lengths": joined.lengths}
            arrays |= _labels(named[split], split, numbers)
            data = _parse(arrays, split, "", "")
        except UserError as error:
            raise DataError(f"{split}: {error}") from error
        if layout is None:
            warn_if_transposed(data.sequences, f"the {split} split")
    widths = [arrays[f"{split}_values"].shape[1] for split, *_ in splits]
    if widths[0] != widths[-1]:
        raise DataError(f"train has {widths[0]} features, test has {widths[1]}")
    content = io.BytesIO()
    np.savez(content, **arrays)
    replace_file(path, content.getvalue())


def _listed(sequences: Iterable[Any]) -> list[Any]:
    if column_names(sequences):
        raise DataError("a table is one sequence; a split is a list of them")
    return list(sequences)


def _columns(sequences: list[Any], layout: Layout | None) -> list[str]:
    """The names of the columns of tables whose rows are timesteps."""
    if layout == "channels_first" or not sequences:
        return []
    return column_names(sequences[0]) or []


def _signature(**fields: Any) -> Signature:
    known = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in fields.items()
        if value is not None
    }
    try:
        return Signature.model_validate(known)
    except ValidationError as error:
        raise DataError(explain(error)) from error


def _names(given: npt.ArrayLike, what: str) -> list[Any]:
    # Of objects, as nullable columns and those of strings are, what is inside decides.
    names = np.array(np.asarray(given, object).tolist())
    if names.dtype.kind == "U" and len({type(name) for name in np.asarray(given, object)}) > 1:
        raise DataError(f"{what} are of several types; they must be of one")
    if names.ndim != 1 or names.dtype.kind not in "iuU":
        raise DataError(
            f"{what} are {names.dtype} {list(names.shape)}; "
            "they must be integers or strings, one a sequence"
        )
    listed: list[Any] = names.tolist()
    return listed


def _labels(names: list[Any] | None, split: Split, numbers: dict[Any, int]) -> dict[str, Labels]:
    if names is None:
        return {}
    if unknown := [name for name in names if name not in numbers]:
        raise DataError(f"the label {unknown[0]!r} is of no training sequence")
    return {f"y_{split}": np.array([numbers[name] for name in names], np.int64)}


def _read(content: bytes, needed: tuple[str, ...], wanted: set[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            names = sorted(archive.files)
            arrays = {name: archive[name] for name in names if name in {*needed, *wanted}}
    except Exception as error:
        # On damaged bytes the readers of npy and zip raise almost anything.
        raise DataError(f"it cannot be read: {error}") from error
    if missing := [name for name in needed if name not in arrays]:
        raise DataError(f"no array '{missing[0]}'; the file holds {names}")
    return arrays


def _parse(arrays: dict[str, npt.NDArray[Any]], split: Split, name: str, sha256: str) -> Dataset:
    values = arrays[f"{split}_values"]
    if values.ndim != 2 or values.dtype.kind not in REAL_KINDS:
        raise DataError(
            f"{split}_values are {values.dtype} {list(values.shape)}; "
            "they must be real numbers of shape [timesteps, features]"
        )
    if not 1 <= values.shape[1] <= MAX_WIDTH:
        raise DataError(
            f"{split}_values have {values.shape[1]} features; a model takes 1 to {MAX_WIDTH}"
        )
    lengths = check_lengths(arrays[f"{split}_lengths"], len(values))
    values = exact_float32(values, lengths)
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
    data = Dataset(
        sequences=Sequences(values, lengths),
        labels=labels,
        name=name,
        sha256=sha256,
        groups=_parse_groups(arrays.get(f"groups_{split}"), len(lengths)),
        signature=_parse_signature(arrays),
    )
    data.signature.check_width(values.shape[1])
    if data.signature.classes and data.classes > len(data.signature.classes):
        raise DataError(
            f"y_{split} holds the label {data.classes - 1}, 'classes' has names for "
            f"{len(data.signature.classes)}"
        )
    return data


def _parse_groups(groups: npt.NDArray[Any] | None, count: int) -> Groups | None:
    if groups is None:
        return None
    if groups.shape != (count,) or groups.dtype.kind not in "iuU":
        raise DataError(
            f"groups are {groups.dtype} {list(groups.shape)}; they must be integers or strings of "
            f"shape [{count}], one a sequence"
        )
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _parse_signature(arrays: dict[str, npt.NDArray[Any]]) -> Signature:
    fields: dict[str, Any] = {
        name: arrays[name].tolist() for name in Signature.model_fields if name in arrays
    }
    if isinstance(fields.get("sampling_rate"), int):
        fields["sampling_rate"] = float(fields["sampling_rate"])
    return _signature(**fields)
