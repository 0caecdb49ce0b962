"""What the API's description says of the Open Inference Protocol."""

from functools import partial
from typing import Any

from tritserve.service import errors
from tritserve.service.description.schemas import (
    BINARY,
    COUNT,
    EMBED_ERRORS,
    ENCODING_HEADER,
    HEALTH_ERRORS,
    KEYED_ERRORS,
    TIMEOUT_HEADER,
    describe_errors,
    extend,
    option_schemas,
    record,
)
from tritserve.service.forms.media import JSON, OCTETS
from tritserve.service.oip.rest.form import HEADER_LENGTH
from tritserve.service.oip.tensors import DATATYPES, DTYPES

_OIP_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_describe = partial(describe_errors, schema=_OIP_ERROR)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


HEALTH: dict[str, Any] = {"responses": _describe(*HEALTH_ERRORS)}
SERVER: dict[str, Any] = {"responses": _describe(*KEYED_ERRORS)}
MODEL: dict[str, Any] = {"responses": _describe(*KEYED_ERRORS, errors.UnknownPathError)}
MODEL_READY: dict[str, Any] = {
    "responses": _describe(*KEYED_ERRORS, errors.UnknownPathError, errors.UnavailableError)
}
# The answer's form is what its outputs ask for, whatever `Accept` says.
_INFER_ERRORS: list[type[errors.ServiceError]] = [errors.UnknownPathError]
_INFER_ERRORS += [error for error in EMBED_ERRORS if error is not errors.NotAcceptableError]
_HEADER_LENGTH = {
    "name": HEADER_LENGTH,
    "in": "header",
    "required": False,
    "description": "How many bytes of the body are JSON, where those of tensors follow.",
    "schema": {"type": "integer", "minimum": 1},
}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 3}
_NUMBERS = {"type": "array", "description": "Flat or nested as `shape` says."}
_BYTES = record(binary_data_size={**COUNT, "description": "Of its bytes after the JSON."})
_INPUT = extend(
    record(
        name={"type": "string", "enum": ["values", "lengths"]},
        datatype={"type": "string", "enum": list(DTYPES)},
        shape=_SHAPE,
    ),
    data=_NUMBERS,
    parameters=_or_null(_BYTES),
)
_OUTPUT = extend(
    record(name={"type": "string", "enum": ["embeddings", "scales"]}),
    parameters=_or_null(record(binary_data={"type": "boolean"})),
)
_INFER_SCHEMA = extend(
    record(inputs={"type": "array", "minItems": 1, "maxItems": 2, "items": _INPUT}),
    id=_or_null({"type": "string"}),
    parameters=_or_null(
        {
            "type": "object",
            "properties": {**option_schemas(), "binary_data_output": {"type": "boolean"}},
            "additionalProperties": False,
        }
    ),
    outputs=_or_null({"type": "array", "maxItems": 2, "items": _OUTPUT}),
)
_INFER_ANSWER_SCHEMA = record(
    model_name={"type": "string"},
    model_version={"type": "string"},
    parameters=record(truncated={**COUNT, "description": "How many sequences were shortened."}),
    outputs={
        "type": "array",
        "items": record(
            name={"type": "string"},
            datatype={"type": "string", "enum": list(DATATYPES.values())},
            shape=_SHAPE,
        ),
    },
)
INFER: dict[str, Any] = {
    "summary": "Embed sequences (Open Inference Protocol)",
    "description": "`values` `[timesteps, embed_dim]` with `lengths` `[batch]`, or `values` "
    "`[batch, seq_len, embed_dim]` alone. Parameters are the options of `POST /embed`.",
    "responses": {
        200: {
            "description": "JSON, or JSON followed by the bytes of tensors.",
            "content": {JSON: {"schema": _INFER_ANSWER_SCHEMA}, OCTETS: BINARY},
        },
        **_describe(*_INFER_ERRORS),
    },
    "openapi_extra": {
        "parameters": [_HEADER_LENGTH, TIMEOUT_HEADER, ENCODING_HEADER],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": _INFER_SCHEMA},
                OCTETS: BINARY,
            },
        },
    },
}
