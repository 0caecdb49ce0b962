"""Labelled or unlabelled ragged data sets, one `.npz` each; `data/README.md` tells the form."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from tritserve.model.arrays import REAL_KINDS
from tritserve.model.config import MAX_WIDTH
from tritserve.model.errors import UserError, explain
from tritserve.model.sequences import (
    Sequences,
    check_finite,
    check_lengths,
    check_no_infinity,
    exact_float32,
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


def load(path: Path | str, split: Split, *, missing: bool = False) -> Dataset:
    """Reads one split; the other one is not looked at.

    Args:
        path: of the file.
        split: which one.
        missing: whether NaN is taken, as a value that is missing.

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
        sha256 = hashlib.sha256(content).hexdigest()
        return parse(arrays, split, path.stem, sha256, missing=missing)
    except UserError as error:
        raise DataError(f"{path}: {error}") from error


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


def parse(
    arrays: dict[str, npt.NDArray[Any]],
    split: Split,
    name: str,
    sha256: str,
    *,
    missing: bool = False,
) -> Dataset:
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
    (check_no_infinity if missing else check_finite)(values, lengths)
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
    return signature_of(**fields)


def signature_of(**fields: Any) -> Signature:
    """A signature of what is known of its fields; raises DataError where that is none."""
    known = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in fields.items()
        if value is not None
    }
    try:
        return Signature.model_validate(known)
    except ValidationError as error:
        raise DataError(explain(error, show=True)) from error
