"""Sequences and embeddings in local files: `.npy`, `.npz` and `.safetensors`."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from tritserve.model.arrays import REAL_KINDS
from tritserve.model.errors import UserError
from tritserve.model.packed.tensors import save_tensors
from tritserve.model.replace import replace_file
from tritserve.model.sequences import FloatArray, Sequences, check_lengths, exact_float32

SUFFIXES = (".npy", ".npz", ".safetensors")


class FileError(UserError):
    """A file that holds no sequences, or that embeddings cannot be written to."""


@dataclass(frozen=True, eq=False)
class SequenceFile:
    """What a file of sequences holds.

    Attributes:
        sequences: as they are in the file.
        feature_names: of their columns; None where the file has none.
    """

    sequences: Sequences
    feature_names: list[str] | None = None


def read_sequences(path: Path, split: str | None = None) -> SequenceFile:
    """Reads a batch of sequences.

    Args:
        path: `.npy` with an array `[batch, seq_len, embed_dim]`, or `.npz` or `.safetensors` with
            `values [timesteps, embed_dim]` and `lengths [batch]`; an `.npz` may hold
            `feature_names [embed_dim]` too.
        split: reads `<split>_values` and `<split>_lengths`, as a data set's file has them.

    Raises:
        OSError: the file cannot be read.
        FileError: it is not of this form.
        SequenceError: the lengths do not fit the values.
    """
    check_suffix(path)
    try:
        content = _arrays(path)
    except (OSError, FileError):
        raise
    except Exception as error:
        # On damaged bytes the readers of npy and zip raise almost anything.
        reason = "it holds Python objects or no arrays" if "pickle" in str(error) else error
        raise FileError(f"{path} is not a {path.suffix} file of numbers: {reason}") from error
    if not isinstance(content, dict):
        if split:
            raise FileError(f"{path} is one array, without parts; leave --split out")
        _check_numbers(content, path, ("batch", "seq_len", "embed_dim"))
        batch, seq_len, width = content.shape
        lengths = check_lengths(np.full(batch, seq_len), batch * seq_len)
        flat = content.reshape(batch * seq_len, width)
        return SequenceFile(Sequences(exact_float32(flat, lengths), lengths))
    names = content.pop("feature_names", None)
    prefix = f"{split}_" if split else ""
    missing = [name for name in (f"{prefix}values", f"{prefix}lengths") if name not in content]
    if missing:
        hint = (
            "" if split or "test_values" not in content else "; --split train or test reads those"
        )
        raise FileError(f"{path} has no array '{missing[0]}', only {sorted(content)}{hint}")
    values = content[f"{prefix}values"]
    _check_numbers(values, path, ("timesteps", "embed_dim"))
    lengths = check_lengths(content[f"{prefix}lengths"], len(values))
    sequences = Sequences(exact_float32(values, lengths), lengths)
    return SequenceFile(sequences, None if names is None else _names(names, path))


def write_embeddings(path: Path, embeddings: FloatArray) -> None:
    """Writes `[batch, output_size]` float32, in an `.npz` or `.safetensors` as `embeddings`.

    A file that is there is replaced once all is written; if that fails, it stays as it is.

    Raises:
        OSError: the file cannot be written.
        FileError: see `check_target`.
        ReplaceError: a folder or a device is at the path.
    """
    check_target(path)
    replace_file(path, _encode(embeddings, path.suffix))


def check_target(path: Path, *sources: Path) -> None:
    """Raises FileError unless embeddings can be written to `path`, which is none of `sources`."""
    check_suffix(path)
    if path.exists() and any(path.samefile(source) for source in sources):
        raise FileError(f"{path} is read; write the embeddings to another file")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise FileError(f"{path} cannot be written: nothing may be written to {folder}")


def check_suffix(path: Path) -> None:
    """Raises FileError unless the file's name tells a form that is known."""
    if path.suffix not in SUFFIXES:
        raise FileError(f"{path} ends in '{path.suffix}'; it must end in {', '.join(SUFFIXES)}")


def _arrays(path: Path) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    if path.suffix == ".safetensors":
        try:
            return safetensors.numpy.load(path.read_bytes())
        except KeyError as error:
            raise FileError(f"{path} has a tensor of type {error}, which numpy lacks") from error
    # Opened here: where an archive is damaged, numpy would leave it open.
    with path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            arrays = {name: loaded[name] for name in loaded.files}
            return {
                name: array
                for name, array in arrays.items()
                if array.dtype.kind != "U" or name == "feature_names"
            }
    array: npt.NDArray[Any] = loaded
    return array


def _check_numbers(values: npt.NDArray[Any], path: Path, axes: tuple[str, ...]) -> None:
    if values.ndim != len(axes) or values.dtype.kind not in REAL_KINDS:
        raise FileError(
            f"{path} holds values that are {values.dtype} of shape {list(values.shape)}; "
            f"they must be real numbers, [{', '.join(axes)}]"
        )


def _names(names: npt.NDArray[Any], path: Path) -> list[str]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise FileError(
            f"{path} has feature_names that are {names.dtype} of shape {list(names.shape)}; they "
            "must be strings, one a feature"
        )
    listed: list[str] = names.tolist()
    return listed


def _encode(embeddings: FloatArray, suffix: str) -> bytes:
    if suffix == ".safetensors":
        return save_tensors({"embeddings": embeddings})
    content = io.BytesIO()
    if suffix == ".npy":
        np.save(content, embeddings)
    else:
        np.savez(content, embeddings=embeddings)
    return content.getvalue()
