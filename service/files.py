"""Sequences and embeddings in local files: `.npy`, `.npz` and `.safetensors`."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from model.errors import UserError
from model.sequences import FloatArray, Sequences, check_lengths
from model.tensors import save_tensors

SUFFIXES = (".npy", ".npz", ".safetensors")


class FileError(UserError):
    """A file that holds no sequences, or that embeddings cannot be written to."""


def read_sequences(path: Path, split: str | None = None) -> Sequences:
    """Reads a batch of sequences.

    Args:
        path: `.npy` with an array `[batch, seq_len, embed_dim]`, or `.npz` or `.safetensors` with
            `values [timesteps, embed_dim]` and `lengths [batch]`.
        split: reads `<split>_values` and `<split>_lengths`, as a data set's file has them.

    Raises:
        OSError: the file cannot be read.
        FileError: it is not of this form.
        SequenceError: the lengths do not fit the values.
    """
    check_suffix(path)
    try:
        content = _arrays(path)
    except (ValueError, EOFError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        reason = "it holds Python objects or no arrays" if "pickle" in str(error) else error
        raise FileError(f"{path} is not a {path.suffix} file of numbers: {reason}") from error
    if not isinstance(content, dict):
        if content.ndim != 3:
            raise FileError(
                f"{path} has shape {list(content.shape)}; it must be [batch, seq_len, embed_dim]"
            )
        batch, seq_len, width = content.shape
        values = _float32(content.reshape(batch * seq_len, width), path)
        return Sequences(values, np.full(batch, seq_len, dtype=np.int64))
    prefix = f"{split}_" if split else ""
    missing = [name for name in (f"{prefix}values", f"{prefix}lengths") if name not in content]
    if missing:
        hint = (
            "" if split or "test_values" not in content else "; --split train or test reads those"
        )
        raise FileError(f"{path} has no array '{missing[0]}', only {sorted(content)}{hint}")
    values = _float32(content[f"{prefix}values"], path)
    return Sequences(values, check_lengths(content[f"{prefix}lengths"], len(values)))


def write_embeddings(path: Path, embeddings: FloatArray) -> None:
    """Writes `[batch, hidden_size]` float32, in an `.npz` or `.safetensors` as `embeddings`.

    Raises:
        OSError: the file cannot be written.
        FileError: its name has another ending.
    """
    check_suffix(path)
    if path.suffix == ".npy":
        np.save(path, embeddings)
    elif path.suffix == ".npz":
        np.savez(path, embeddings=embeddings)
    else:
        path.write_bytes(save_tensors({"embeddings": embeddings}))


def check_suffix(path: Path) -> None:
    """Raises FileError unless the file's name tells a form that is known."""
    if path.suffix not in SUFFIXES:
        raise FileError(f"{path} ends in '{path.suffix}'; it must end in {', '.join(SUFFIXES)}")


def _arrays(path: Path) -> npt.NDArray[Any] | dict[str, npt.NDArray[Any]]:
    if path.suffix == ".safetensors":
        return safetensors.numpy.load_file(path)
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.lib.npyio.NpzFile):
        with loaded:
            return {name: loaded[name] for name in loaded.files if loaded[name].dtype.kind != "U"}
    array: npt.NDArray[Any] = loaded
    return array


def _float32(values: npt.NDArray[Any], path: Path) -> FloatArray:
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
        raise FileError(
            f"{path} holds values that are {values.dtype} of shape {list(values.shape)}; "
            "they must be floats, [timesteps, embed_dim]"
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)
