"""Bytes to sequences, embeddings to bytes: JSON, npy and safetensors.

What a request can get wrong is found here, before it meets any other request: what cannot be
parsed is an UnparseableError, what can be parsed but is wrong an InvalidError that names the row
and the timestep.
"""

import json
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import orjson
import safetensors
import safetensors.numpy
from pydantic import ValidationError

from tritserve.model.arrays import REAL_KINDS
from tritserve.model.errors import explain, first_field
from tritserve.model.packed.tensors import save_tensors
from tritserve.model.sequences import (
    LengthArray,
    SequenceError,
    Sequences,
    check_finite,
    check_lengths,
    check_no_infinity,
    check_width,
    exact_float32,
)
from tritserve.model.signature import NO_SIGNATURE, FeatureError, Signature
from tritserve.service.errors import InvalidError, UnparseableError, UnsupportedMediaTypeError
from tritserve.service.forms.cost import TIMESTEPS, Cost
from tritserve.service.forms.json_body import decode_json
from tritserve.service.forms.json_numbers import write_json
from tritserve.service.forms.media import JSON, MEDIA_TYPES, NPY, SAFETENSORS, parse_content_type
from tritserve.service.forms.npy import read_npy, write_npy
from tritserve.service.forms.options import Embeddings, Options, wrong_features

_BOOLEANS = {"true": True, "false": False}
_DEFAULTS = Options()

# Two tensors need a hundred; what the model's own names of features need comes on top. The library
# reads a header of any length in one call, which holds the interpreter, and the event loop with it.
MAX_SAFETENSORS_HEADER_BYTES = 64 * 1024


@dataclass(frozen=True)
class Limits:
    """What a request may be.

    Attributes:
        embed_dim: features per timestep; None where channels are seen one by one: then a request
            has any number of them, and values may be missing.
        max_timesteps: of one sequence.
        max_sequences: of one request.
        max_request_timesteps: of all sequences of one request, as `cost` counts them.
        cost: what sequences count.
        signature: what the model knows of the names of its features.
    """

    embed_dim: int | None
    max_timesteps: int
    max_sequences: int
    max_request_timesteps: int = sys.maxsize
    cost: Cost = TIMESTEPS
    signature: Signature = NO_SIGNATURE


@dataclass(frozen=True, eq=False)
class EmbedRequest:
    """A request whose form is right; sequences may still be too long for the model.

    Attributes:
        timeout: for how many seconds after the request came its answer is of use, where the
            request's own body says so.
    """

    sequences: Sequences
    options: Options
    timeout: float | None = None


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
    media_type, charset = parse_content_type(content_type or "")
    if media_type == JSON and charset in {"", "utf-8"}:
        sequences, given = decode_json(body, limits.embed_dim, signature=limits.signature)
        request = EmbedRequest(sequences, _merge(given, read_options(query)))
    elif media_type == NPY:
        request = EmbedRequest(_decode_npy(body), read_options(query))
    elif media_type == SAFETENSORS:
        sequences, given = _decode_safetensors(body, limits.signature)
        request = EmbedRequest(sequences, _merge(given, read_options(query)))
    else:
        raise UnsupportedMediaTypeError(
            f"Content-Type is {content_type or 'missing'}; it must be one of "
            + ", ".join(MEDIA_TYPES)
            + ", JSON in UTF-8"
        )
    return checked(request, limits)


def checked(request: EmbedRequest, limits: Limits) -> EmbedRequest:
    """The request once it is known to fit the model, its features in the model's order.

    Raises:
        InvalidError: it has too many sequences, values that do not fit, or other features, or it
            wants channels apart that the model joins.
    """
    by_channel = limits.embed_dim is None
    if request.options.channels == "apart" and not by_channel:
        raise InvalidError(
            "this model joins its features; it cannot keep channels apart", field="channels"
        )
    sequences = request.sequences
    if len(sequences) > limits.max_sequences:
        raise InvalidError(
            f"the request has {len(sequences)} sequences; at most {limits.max_sequences} go",
            limit=limits.max_sequences,
        )
    cost = int(limits.cost.of(sequences).sum())
    if cost > limits.max_request_timesteps:
        channels = f" of {sequences.values.shape[1]} channels, which count as {cost}"
        raise InvalidError(
            f"the request has {len(sequences.values)} timesteps{channels if by_channel else ''}; "
            f"at most {limits.max_request_timesteps} go",
            limit=limits.max_request_timesteps,
        )
    try:
        if (names := request.options.named) is not None:
            values = limits.signature.arrange(sequences.values, names)
            sequences = replace(sequences, values=values)
        check_width(sequences.values, limits.embed_dim, sequences.lengths)
        (check_no_infinity if by_channel else check_finite)(sequences.values, sequences.lengths)
    except SequenceError as error:
        raise invalid(error) from error
    except FeatureError as error:
        raise wrong_features(error) from error
    return replace(request, sequences=sequences)


def invalid(error: SequenceError, first_row: int = 0) -> InvalidError:
    """The same complaint as an answer, about rows that are counted from `first_row`."""
    if error.row is None:
        return InvalidError(str(error))
    row = first_row + error.row
    message = str(error).replace(f"sequence {error.row}", f"sequence {row}", 1)
    return InvalidError(message, row=row, timestep=error.timestep)


def _merge(body: Options, query: Options) -> Options:
    twice = sorted(body.model_fields_set & query.model_fields_set)
    if twice:
        raise InvalidError(f"{twice[0]} is in the body and in the query", field=twice[0])
    return body.model_copy(update=query.model_dump(exclude_unset=True))


def read_options(query: Mapping[str, str]) -> Options:
    """Options from a query string.

    Raises:
        InvalidError: a parameter is unknown or has a wrong value.
    """
    if not query:
        return _DEFAULTS
    given: dict[str, str | bool] = dict(query)
    if query.get("normalize") in _BOOLEANS:
        given["normalize"] = _BOOLEANS[query["normalize"]]
    return _validate(given, "query")


def _validate(given: dict[str, Any], place: str) -> Options:
    try:
        return Options.model_validate(given, strict=True)
    except ValidationError as error:
        raise InvalidError(f"{place}: {explain(error)}", field=first_field(error)) from error


def _decode_npy(body: bytes) -> Sequences:
    array = read_npy(body)
    batch, seq_len, width = array.shape
    lengths = np.full(batch, seq_len, dtype=np.int64)
    return _exact(array.reshape(batch * seq_len, width), lengths)


def _decode_safetensors(body: bytes, signature: Signature) -> tuple[Sequences, Options]:
    header_bytes = int.from_bytes(body[:8], "little")
    if MAX_SAFETENSORS_HEADER_BYTES < header_bytes <= len(body) - 8:
        # Commas between; CSV puts names in quotes and doubles those within, and JSON escapes all.
        names_bytes = sum(2 * len(json.dumps(name)) + 1 for name in signature.feature_names)
        most = MAX_SAFETENSORS_HEADER_BYTES + names_bytes
        if header_bytes > most:
            raise InvalidError(
                f"the safetensors header has {header_bytes} bytes; at most {most} are read"
            )
    try:
        tensors = safetensors.numpy.load(body)
        # The library reads metadata from files only.
        metadata = orjson.loads(body[8 : 8 + header_bytes]).get("__metadata__") or {}
    except KeyError as error:
        raise InvalidError(
            f"the body has a tensor of type {error}; 'values' are F16, F32, F64, integers or "
            "booleans, 'lengths' are integers"
        ) from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise UnparseableError(f"the body is not safetensors: {error}") from error
    if set(tensors) != {"values", "lengths"}:
        raise InvalidError(
            f"the body holds the tensors {reprlib.repr(sorted(tensors))}; "
            "they must be 'values' and 'lengths'"
        )
    given = {"features": metadata["features"]} if "features" in metadata else {}
    options = _validate(given, "metadata")
    return to_sequences(tensors["values"], tensors["lengths"]), options


def to_sequences(values: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Sequences:
    """A ragged batch from `values [timesteps, embed_dim]`, real numbers, and `lengths [batch]`.

    Raises:
        InvalidError: they are not that, do not fit each other, or are integers that float32 would
            round.
    """
    if values.dtype.kind not in REAL_KINDS or values.ndim != 2:
        raise InvalidError(
            f"'values' are {values.dtype} {list(values.shape)}; they must be floats, integers or "
            "booleans of shape [timesteps, embed_dim]"
        )
    try:
        fitting = check_lengths(lengths, len(values))
    except SequenceError as error:
        raise invalid(error) from error
    return _exact(values, fitting)


def _exact(values: npt.NDArray[Any], lengths: LengthArray) -> Sequences:
    try:
        # Floats that float32 cannot hold become infinite, and are found with their row afterwards.
        return Sequences(exact_float32(values, lengths), lengths)
    except SequenceError as error:
        raise invalid(error) from error


def encode(answer: EmbedAnswer, media_type: str) -> tuple[bytes, dict[str, str]]:
    """The answer's body, and the headers that stand in for what its form has no place for."""
    timing = ", ".join([f"{name};dur={ms:.3f}" for name, ms in answer.timing_ms.items()])
    headers = {"Content-Type": media_type, "Server-Timing": timing}
    rows, scales = answer.embeddings.rows, answer.embeddings.scales
    about = {"model": answer.model, "usage": answer.usage, "timing_ms": answer.timing_ms}
    if media_type == JSON:
        # float16 as float32: orjson writes the shortest digits that give the same number back.
        numbers = rows.astype(np.float32) if rows.dtype == np.float16 else rows
        content = {"embeddings": numbers} | ({} if scales is None else {"scales": scales})
        return write_json(content | about), headers
    if media_type == SAFETENSORS:
        tensors = {"embeddings": rows, **({} if scales is None else {"scales": scales})}
        metadata = {name: json.dumps(value) for name, value in about.items()}
        return save_tensors(tensors, metadata), headers
    headers |= {
        "Tritserve-Model": quote(answer.model["name"]),
        "Tritserve-Revision": answer.model["revision"],
        "Tritserve-Channels": answer.model["channels"],
        "Tritserve-Truncated": str(len(answer.usage["truncated"])),
    }
    return write_npy(rows), headers
