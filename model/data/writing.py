"""A user's own arrays as a data set that `load` reads."""

import io
import reprlib
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritserve.model.arrays import column_names
from tritserve.model.data.dataset import DataError, Labels, Split, parse, signature_of
from tritserve.model.errors import UserError
from tritserve.model.replace import replace_file
from tritserve.model.sequences import Layout, Sequences, warn_if_transposed


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
    missing: bool = False,
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
        feature_names: one a feature. If not given, the columns of the first training table name
            them. Each table is put into their order by the names of its own columns, and arrays are
            taken to be in it; with `channels_first`, columns are timesteps and name nothing.
        units: one a feature, such as `m/s2`; empty where it has none.
        sampling_rate: timesteps a second, in Hz.
        layout: `channels_first` if sequences are `[features, seq_len]`. If not given, they are
            taken to be `time_first`, with a warning where that is doubtful.
        missing: whether NaN is taken, as a value that is missing. Only models that see channels one
            by one take it.

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
        split: None if given is None else _names(given, f"{split} labels").tolist()
        for split, _, given in splits
    }
    numbers = {name: number for number, name in enumerate(sorted(set(named["train"] or [])))}
    features = _columns(splits[0][1], layout) if feature_names is None else list(feature_names)
    signature = signature_of(
        feature_names=features,
        units=None if units is None else list(units),
        sampling_rate=sampling_rate,
        classes=[str(name) for name in numbers],
    )
    arrays: dict[str, Any] = {key: np.array(value) for key, value in signature.known().items()}
    if groups is not None:
        arrays["groups_train"] = _names(groups, "groups")
    for split, sequences, _ in splits:
        try:
            if not features and _columns(sequences, layout):
                raise DataError(
                    "tables name their columns, and the features have no names; give feature_names"
                )
            joined = Sequences.from_list(sequences, layout or "time_first", features)
            arrays |= {f"{split}_values": joined.values, f"{split}_lengths": joined.lengths}
            arrays |= _labels(named[split], split, numbers)
            data = parse(arrays, split, "", "", missing=missing)
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
    """The names of the columns of the first table, where columns are features."""
    if layout == "channels_first":
        return []
    return next((names for part in sequences if (names := column_names(part))), [])


def _names(given: npt.ArrayLike, what: str) -> npt.NDArray[Any]:
    # Of objects, as nullable columns and those of strings are, what is inside decides.
    objects = np.asarray(given, object)
    if objects.ndim != 1:
        raise DataError(f"{what} have shape {list(objects.shape)}; they must be one a sequence")
    names = objects.tolist()
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | Integral):
            raise DataError(
                f"{what} hold {reprlib.repr(name)}; they must be integers or strings, "
                "one a sequence"
            )
        if isinstance(name, str) != isinstance(names[0], str):
            raise DataError(
                f"{what} hold {reprlib.repr(names[0])} and {reprlib.repr(name)}; "
                "they must be of one type"
            )
    if names and isinstance(names[0], str):
        return np.array(names)
    whole = [int(name) for name in names]
    try:
        return np.array(whole, np.int64 if max(whole, default=0) < 2**63 else np.uint64)
    except OverflowError as error:
        raise DataError(
            f"{what} hold integers that no type of 64 bits holds all; give strings"
        ) from error


def _labels(names: list[Any] | None, split: Split, numbers: dict[Any, int]) -> dict[str, Labels]:
    if names is None:
        return {}
    if unknown := [name for name in names if name not in numbers]:
        raise DataError(f"the label {unknown[0]!r} is of no training sequence")
    return {f"y_{split}": np.array([numbers[name] for name in names], np.int64)}
