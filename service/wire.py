"""Bytes to sequences, embeddings to bytes: JSON, npy and safetensors.

What a request can get wrong is found here, before it meets any other request: what cannot be
parsed is an UnparseableError, what can be parsed but is wrong an InvalidError that names the row
and the timestep.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import orjson
import safetensors
import safetensors.numpy
from pydantic import ConfigDict, FailFast, Field, ValidationError

from model.errors import explain
from model.sequences import FloatArray, SequenceError, Sequences, check_lengths, check_values
from service.errors import InvalidError, UnparseableError, UnsupportedMediaTypeError
from service.media import JSON, MEDIA_TYPES, NPY, SAFETENSORS
from service.options import Embeddings, Options

NPY_HEADER_BYTES = 10_000
_NPY_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Timestep = Annotated[list[Number], FailFast()]
Sequence = Annotated[list[Timestep], FailFast()]


class EmbedBody(Options):
    """The JSON body of `POST /embed`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sequences: Annotated[list[Sequence], FailFast()] = Field(
        description="Each sequence is a list of timesteps, each timestep a list of `embed_dim` "
        "numbers. Sequences may differ in length."
    )


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Attributes:
        embed_dim: features per timestep.
        max_timesteps: of one sequence.
        max_sequences: of one request.
    """

    embed_dim: int
    max_timesteps: int
    max_sequences: int


@dataclass(frozen=True, eq=False)
class EmbedRequest:
    """A request whose form is right; sequences may still be too long for the model."""

    sequences: Sequences
    options: Options


@dataclass(frozen=True, eq=False)
class EmbedAnswer:
    """What an answer says beside its embeddings, in the forms that have a place for it."""

    embeddings: Embeddings
    model: dict[str, Any]
    usage: dict[str, Any]
    timing_ms: dict[str, float]


def decode(
    body: bytes, content_type: str | None, query: Mapping[str, str], limits: Limits
) -> EmbedRequest:
    """Reads the body of `POST /embed`.

    Raises:
        UnsupportedMediaTypeError: the content type is none of `MEDIA_TYPES`.
        UnparseableError: the body is not of its content type.
        InvalidError: the body or the query is wrong.
    """
    media_type = (content_type or "").split(";")[0].strip().lower()
    if media_type == JSON:
        if query:
            raise InvalidError(
                f"query parameters {sorted(query)} go into the JSON body as fields", field="query"
            )
        request = _decode_json(body, limits)
    elif media_type == NPY:
        request = EmbedRequest(_decode_npy(body), read_options(query))
    elif media_type == SAFETENSORS:
        request = EmbedRequest(_decode_safetensors(body), read_options(query))
    else:
        raise UnsupportedMediaTypeError(
            f"Content-Type is {content_type or 'missing'}; it must be one of "
            + ", ".join(MEDIA_TYPES)
        )
    sequences = request.sequences
    if len(sequences) > limits.max_sequences:
        raise InvalidError(
            f"the request has {len(sequences)} sequences; at most {limits.max_sequences} go"
        )
    try:
        longest = int(sequences.lengths.max())
        check_values(sequences.values, sequences.lengths, limits.embed_dim, longest)
    except SequenceError as error:
        raise invalid(error) from error
    return request


def invalid(error: SequenceError) -> InvalidError:
    """The same complaint as an answer."""
    return InvalidError(str(error), row=error.row, timestep=error.timestep)


def read_options(query: Mapping[str, str]) -> Options:
    """Options from a query string.

    Raises:
        InvalidError: a parameter is unknown or has a wrong value.
    """
    try:
        return Options.model_validate(dict(query))
    except ValidationError as error:
        raise InvalidError(f"query: {explain(error)}") from error


def _decode_json(body: bytes, limits: Limits) -> EmbedRequest:
    try:
        parsed = EmbedBody.model_validate_json(body)
    except ValidationError as error:
        raise _json_error(error) from error
    if not parsed.sequences:
        raise InvalidError("a batch needs at least one sequence", field="sequences")
    for row, sequence in enumerate(parsed.sequences):
        if not sequence:
            raise InvalidError(
                f"sequence {row} is empty; a sequence has 1 timestep or more", row=row
            )
        for timestep, features in enumerate(sequence):
            if len(features) != limits.embed_dim:
                raise InvalidError(
                    f"sequence {row}, timestep {timestep} has {len(features)} features; "
                    f"this model takes {limits.embed_dim}",
                    row=row,
                    timestep=timestep,
                )
    lengths = np.array([len(sequence) for sequence in parsed.sequences], dtype=np.int64)
    numbers = chain.from_iterable(chain.from_iterable(parsed.sequences))
    values = np.fromiter(numbers, dtype=np.float64, count=int(lengths.sum()) * limits.embed_dim)
    options = Options.model_validate(parsed.model_dump(exclude={"sequences"}))
    return EmbedRequest(Sequences(_float32(values.reshape(-1, limits.embed_dim)), lengths), options)


def _json_error(error: ValidationError) -> UnparseableError | InvalidError:
    detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if detail["type"] == "json_invalid":
        return UnparseableError(f"the body is not JSON: {detail['msg']}")
    place = detail["loc"]
    message = f"{'.'.join(map(str, place)) or 'body'}: {detail['msg']}"
    inside = place[1:3] if place[:1] == ("sequences",) else ()
    row, timestep = (*inside, None, None)[:2]
    return InvalidError(message, row=row, timestep=timestep, field=str(place[0]) if place else None)


def _decode_npy(body: bytes) -> Sequences:
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        reader = _NPY_READERS.get(version)
        header = reader(stream, NPY_HEADER_BYTES) if reader else None
    except Exception as error:
        # The header is Python text; on hostile bytes its parser raises almost anything.
        raise UnparseableError(f"the body is not npy: {error}") from error
    if not header:
        raise UnparseableError(f"the body is npy of version {version}; 1.0 and 2.0 are read")
    shape, fortran_order, dtype = header
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise InvalidError(f"the array is {dtype}; it must be float16, float32 or float64")
    if len(shape) != 3 or min(shape) < 1:
        raise InvalidError(
            f"the array has shape {list(shape)}; it must be [batch, seq_len, embed_dim], not empty"
        )
    size, offset = int(dtype.itemsize), stream.tell()
    needed = size * shape[0] * shape[1] * shape[2]
    if needed != len(body) - offset:
        raise UnparseableError(
            f"an array of shape {list(shape)} and type {dtype} has {needed} bytes; "
            f"{len(body) - offset} follow the npy header"
        )
    array = np.frombuffer(body, dtype, offset=offset)
    array = array.reshape(shape, order="F" if fortran_order else "C")
    batch, seq_len, width = shape
    lengths = np.full(batch, seq_len, dtype=np.int64)
    return Sequences(_float32(array).reshape(batch * seq_len, width), lengths)


def _decode_safetensors(body: bytes) -> Sequences:
    try:
        tensors = safetensors.numpy.load(body)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UnparseableError(f"the body is not safetensors: {error}") from error
    if set(tensors) != {"values", "lengths"}:
        raise InvalidError(
            f"the body holds the tensors {sorted(tensors)}; they must be 'values' and 'lengths'"
        )
    return to_sequences(tensors["values"], tensors["lengths"])


def to_sequences(values: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Sequences:
    """A ragged batch from `values [timesteps, embed_dim]`, floats, and `lengths [batch]`.

    Raises:
        InvalidError: they are not that, or do not fit each other.
    """
    if values.dtype.kind != "f" or values.ndim != 2:
        raise InvalidError(
            f"'values' are {values.dtype} {list(values.shape)}; they must be float16, float32 or "
            "float64 of shape [timesteps, embed_dim]"
        )
    try:
        checked = check_lengths(lengths, len(values))
    except SequenceError as error:
        raise invalid(error) from error
    return Sequences(_float32(values), checked)


def _float32(values: npt.NDArray[Any]) -> FloatArray:
    # What float32 cannot hold becomes infinite here, and is found with its row afterwards.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def encode(answer: EmbedAnswer, media_type: str) -> tuple[bytes, dict[str, str]]:
    """The answer's body, and the headers that stand in for what its form has no place for."""
    timing = ", ".join(f"{name};dur={ms:.3f}" for name, ms in answer.timing_ms.items())
    headers = {"Content-Type": media_type, "Server-Timing": timing}
    rows, scales = answer.embeddings.rows, answer.embeddings.scales
    about = {"model": answer.model, "usage": answer.usage, "timing_ms": answer.timing_ms}
    if media_type == JSON:
        # float16 as float32: orjson writes the shortest digits that give the same number back.
        numbers = rows.astype(np.float32) if rows.dtype == np.float16 else rows
        content = {"embeddings": numbers, **({} if scales is None else {"scales": scales}), **about}
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), headers
    if media_type == SAFETENSORS:
        tensors = {"embeddings": rows, **({} if scales is None else {"scales": scales})}
        metadata = {name: json.dumps(value) for name, value in about.items()}
        return safetensors.numpy.save(tensors, metadata), headers
    headers |= {
        "Tritserve-Model": quote(answer.model["name"]),
        "Tritserve-Revision": answer.model["revision"],
        "Tritserve-Truncated": str(len(answer.usage["truncated"])),
    }
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue(), headers
