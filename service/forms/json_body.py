"""The JSON body of `POST /embed`, parsed and checked."""

import json
from itertools import chain
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from tritserve.model.sequences import Sequences, to_float32
from tritserve.model.signature import NO_SIGNATURE, Signature
from tritserve.service.errors import InvalidError, ServiceError, UnparseableError
from tritserve.service.forms.json_pieces import check_rest, check_size, cut, why_not_cut
from tritserve.service.forms.options import Options, check_features

PIECE_BYTES = 64 * 1024
# A body that cannot be cut is parsed in one call if it is not larger; it is wrong, or very odd.
MAX_WHOLE_BYTES = 2**20

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
# One that may be null parses as fast; what null means, the model says.
Timestep = Annotated[list[Number | None], FailFast()]
Sequence = Annotated[list[Timestep], FailFast()]
SequenceList = Annotated[list[Sequence], FailFast()]


class EmbedBody(Options):
    """The JSON body of `POST /embed`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sequences: SequenceList = Field(
        json_schema_extra={"minItems": 1},
        description="Each sequence is a list of timesteps, each timestep a list of `embed_dim` "
        "numbers. Sequences may differ in length. A model that sees channels one by one takes any "
        "number of them, the same in all sequences, and null where a value is missing.",
    )


Lists = list[list[list[float | None]]]

_PIECE: TypeAdapter[Lists] = TypeAdapter(SequenceList, config=ConfigDict(strict=True))


def decode_json(
    body: bytes,
    embed_dim: int | None,
    piece_bytes: int = PIECE_BYTES,
    signature: Signature = NO_SIGNATURE,
) -> tuple[Sequences, Options]:
    """Reads a JSON body; what float32 cannot hold becomes infinite.

    Args:
        body: the bytes.
        embed_dim: features per timestep; None where there may be any number of channels, the same
            in all sequences, and null is a missing value: NaN.
        piece_bytes: what is parsed in one call, about.
        signature: what the model knows of the names of its features.

    Raises:
        UnparseableError: it is not JSON.
        InvalidError: it is not of this form; the message, `row` and `timestep` say where.
    """
    parsed = None
    if len(body) > piece_bytes:
        parsed = _decode_in_pieces(body, embed_dim, piece_bytes, signature)
    if parsed is None:
        whole = _parse_body(_check_whole(body))
        check_features(whole, signature)
        parsed = _to_sequences(whole.sequences, embed_dim, 0), whole
    sequences, options = parsed
    if not len(sequences):
        raise InvalidError("a batch needs at least one sequence", field="sequences")
    return sequences, Options.model_validate(
        options.model_dump(include=options.model_fields_set - {"sequences"})
    )


def _decode_in_pieces(
    body: bytes, embed_dim: int | None, piece_bytes: int, signature: Signature
) -> tuple[Sequences, EmbedBody] | None:
    """None where the body is not of the form that can be cut: valid, wrong or no JSON."""
    pieces = cut(body, piece_bytes)
    if pieces is None:
        return None
    try:
        options = EmbedBody.model_validate_json(check_rest(pieces[0]))
    except ValidationError as error:
        detail = _first(error)
        if len(body) <= MAX_WHOLE_BYTES or detail["type"] == "json_invalid":
            return None
        raise _wrong(detail) from error
    check_features(options, signature)
    parts: list[Sequences] = []
    rows = 0
    channels = None
    for piece in pieces[1]:
        part = _to_sequences(_parse_piece(piece, rows), embed_dim, rows, channels)
        if parts and not (len(part) and rows):
            raise UnparseableError("the body is not JSON: a comma before or after nothing")
        parts.append(part)
        rows += len(part)
        channels = part.values.shape[1]
    _check_keys(pieces[0], options)
    values = np.concatenate([part.values for part in parts])
    return Sequences(values, np.concatenate([part.lengths for part in parts])), options


def _parse_body(body: bytes) -> EmbedBody:
    try:
        parsed = EmbedBody.model_validate_json(body)
    except ValidationError as error:
        detail = _first(error)
        place = detail["loc"]
        if place[:1] == ("sequences",):
            raise _wrong_sequence(detail, place[1:], 0) from error
        raise _wrong(detail) from error
    _check_keys(body, parsed)
    return parsed


def _check_keys(body: bytes, parsed: EmbedBody) -> None:
    """Raises InvalidError if a key is given twice, of which the parser takes the last.

    Args:
        body: valid, whole or without its numbers.
        parsed: what it says.
    """
    # Colons are quick to count, and none are written in another way between a key and its value.
    if body.count(b":") == len(parsed.model_fields_set):
        return
    names: set[str] = set()
    for name, _ in json.loads(body, object_pairs_hook=list):
        if name in names:
            raise InvalidError(f"{name} is given twice", field=name)
        names.add(name)


def _check_whole(body: bytes) -> bytes:
    if len(body) > MAX_WHOLE_BYTES:
        raise UnparseableError(
            f"the body has {len(body)} bytes; over {MAX_WHOLE_BYTES} it must hold one list of "
            f"nothing but numbers under 'sequences', but {why_not_cut(body)}"
        )
    return body


def _parse_piece(piece: bytes, first_row: int) -> Lists:
    try:
        return _PIECE.validate_json(check_size(piece))
    except ValidationError as error:
        detail = _first(error)
        if detail["type"] == "json_invalid":
            raise UnparseableError(
                f"the body is not JSON, from sequence {first_row} on: {detail['msg']}"
            ) from error
        raise _wrong_sequence(detail, detail["loc"], first_row) from error


def _to_sequences(
    lists: Lists, embed_dim: int | None, first_row: int, channels: int | None = None
) -> Sequences:
    """A batch from lists; those before it had so many `channels`, where that is for them to say."""
    width = embed_dim or channels or _channels(lists)
    for row, sequence in enumerate(lists, first_row):
        if not sequence:
            raise InvalidError(
                f"sequence {row} is empty; a sequence has 1 timestep or more", row=row
            )
        for timestep, features in enumerate(sequence):
            if len(features) != width:
                what = (
                    f"features; this model takes {embed_dim}"
                    if embed_dim
                    else f"channels; all timesteps of a request have as many, {width} here"
                )
                raise InvalidError(
                    f"sequence {row}, timestep {timestep} has {len(features)} {what}",
                    row=row,
                    timestep=timestep,
                )
    lengths = np.array([len(sequence) for sequence in lists], dtype=np.int64)
    count = int(lengths.sum()) * width
    numbers = chain.from_iterable(chain.from_iterable(lists))
    # Of null, numpy makes NaN, which no number of JSON is.
    values = np.fromiter(numbers, np.float64, count)
    if embed_dim and np.isnan(values).any():
        raise _null(lists, first_row)
    return Sequences(to_float32(values).reshape(-1, width), lengths)


def _channels(lists: Lists) -> int:
    """As many as the first timestep has, but at least one."""
    first = next(chain.from_iterable(lists), [])
    return max(1, len(first))


def _null(lists: Lists, first_row: int) -> InvalidError:
    row, timestep, feature = next(
        (row, timestep, features.index(None))
        for row, sequence in enumerate(lists, first_row)
        for timestep, features in enumerate(sequence)
        if None in features
    )
    return InvalidError(
        f"sequences.{row}.{timestep}.{feature}: Input should be a valid number",
        row=row,
        timestep=timestep,
        field="sequences",
    )


def _first(error: ValidationError) -> ErrorDetails:
    return error.errors(include_url=False, include_context=False, include_input=False)[0]


def _wrong(detail: ErrorDetails) -> ServiceError:
    if detail["type"] == "json_invalid":
        return UnparseableError(f"the body is not JSON: {detail['msg']}")
    name = ".".join(map(str, detail["loc"])) or "body"
    return InvalidError(f"{name}: {detail['msg']}", field=name)


def _wrong_sequence(
    detail: ErrorDetails, place: tuple[int | str, ...], first_row: int
) -> InvalidError:
    """A complaint about `place`: row (counted from `first_row`), timestep and feature, or less."""
    if not place:
        return InvalidError(f"sequences: {detail['msg']}", field="sequences")
    row, timestep = int(place[0]) + first_row, place[1] if len(place) > 1 else None
    name = ".".join(map(str, ("sequences", row, *place[1:])))
    return InvalidError(f"{name}: {detail['msg']}", row=row, timestep=timestep, field="sequences")
