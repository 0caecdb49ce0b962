"""What the API's description says of the Open Inference Protocol."""

from functools import partial
from typing import Any

from pydantic import BaseModel

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
    property_schemas,
    record,
)
from tritserve.service.forms.media import JSON, OCTETS
from tritserve.service.oip.parameters import InputParameters, OutputParameters, RequestParameters
from tritserve.service.oip.rest.form import HEADER_LENGTH
from tritserve.service.oip.tensors import DATATYPES, DTYPES

_OIP_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_describe = partial(describe_errors, schema=_OIP_ERROR)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An answer."""
    return {"description": description, "content": {JSON: {"schema": schema}}}


def _parameters(model: type[BaseModel]) -> dict[str, Any]:
    """Of those that are taken; the ones that are refused have no other value than null."""
    taken = {k: v for k, v in property_schemas(model).items() if v.get("type") != "null"}
    return _or_null({"type": "object", "properties": taken, "additionalProperties": False})


HEALTH: dict[str, Any] = {"responses": _describe(*HEALTH_ERRORS)}
SERVER: dict[str, Any] = {"responses": _describe(*KEYED_ERRORS)}
MODEL: dict[str, Any] = {"responses": _describe(*KEYED_ERRORS, errors.UnknownPathError)}
MODEL_READY: dict[str, Any] = {
    "responses": _describe(*KEYED_ERRORS, errors.UnknownPathError, errors.UnavailableError)
}
_TENSOR_CONFIG = record(
    name={"type": "string"},
    data_type={"type": "string", "description": "As Triton writes it: `TYPE_FP32`."},
    dims={"type": "array", "items": {"type": "integer"}},
)
_CONFIG_SCHEMA = record(
    name={"type": "string"},
    platform={"type": "string"},
    backend={"type": "string"},
    max_batch_size=COUNT,
    input={"type": "array", "items": _TENSOR_CONFIG},
    output={"type": "array", "items": _TENSOR_CONFIG},
    model_transaction_policy=record(decoupled={"type": "boolean"}),
)
CONFIG: dict[str, Any] = {
    "summary": "The model's configuration, as Triton's clients ask for it",
    "responses": {200: _json("Its configuration.", _CONFIG_SCHEMA), **MODEL["responses"]},
}
_DURATION = record(count=COUNT, ns=COUNT)
_DURATIONS = ("success", "queue", "compute_input", "compute_infer", "compute_output")
_STATISTICS_SCHEMA = record(
    model_stats={
        "type": "array",
        "items": record(
            name={"type": "string"},
            version={"type": "string"},
            inference_count={**COUNT, "description": "Sequences."},
            execution_count={**COUNT, "description": "Calls of the engine."},
            inference_stats=record(
                **dict.fromkeys((*_DURATIONS, "cache_hit", "cache_miss"), _DURATION)
            ),
        ),
    }
)
_STATISTICS_ANSWER = _json("Since the service started.", _STATISTICS_SCHEMA)
STATISTICS: dict[str, Any] = {
    "summary": "What was inferred, as Triton's clients ask for it",
    "responses": {200: _STATISTICS_ANSWER, **SERVER["responses"]},
}
MODEL_STATISTICS = STATISTICS | {"responses": {200: _STATISTICS_ANSWER, **MODEL["responses"]}}
_INDEX_SCHEMA = {
    "type": "array",
    "items": record(
        name={"type": "string"},
        version={"type": "string"},
        state={"type": "string", "enum": ["READY", "UNAVAILABLE"]},
        reason={"type": "string"},
    ),
}
INDEX: dict[str, Any] = {
    "summary": "The model, and whether it is ready, as Triton's clients ask for it",
    "responses": {
        200: _json("One model, or none.", _INDEX_SCHEMA),
        **_describe(
            *KEYED_ERRORS,
            errors.UnparseableError,
            errors.SlowBodyError,
            errors.BodyTooLargeError,
            errors.InvalidError,
        ),
    },
    "openapi_extra": {
        "requestBody": {
            "required": False,
            "content": {
                JSON: {"schema": extend(record(), ready={"type": "boolean"})},
            },
        },
    },
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
_NUMBERS = {"type": "array", "items": {}, "description": "Flat or nested as `shape` says."}
_INPUT = extend(
    record(
        name={"type": "string", "enum": ["values", "lengths"]},
        datatype={"type": "string", "enum": list(DTYPES)},
        shape=_SHAPE,
    ),
    data=_NUMBERS,
    parameters=_parameters(InputParameters),
)
_OUTPUT = extend(
    record(name={"type": "string", "enum": ["embeddings", "scales"]}),
    datatype={**_or_null({"type": "string"}), "description": "Refused if it is another."},
    shape=_or_null(
        {
            "type": "array",
            "items": {"type": "integer", "minimum": -1},
            "description": "Refused if it is another; -1 stands for any size.",
        }
    ),
    parameters=_parameters(OutputParameters),
)
_INFER_SCHEMA = extend(
    record(inputs={"type": "array", "minItems": 1, "maxItems": 2, "items": _INPUT}),
    model_name={
        **_or_null({"type": "string"}),
        "description": "That of the path, for clients that send it twice.",
    },
    model_version=_or_null({"type": "string"}),
    id=_or_null({"type": "string"}),
    parameters=_parameters(RequestParameters),
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
    "`[batch, seq_len, embed_dim]` alone. Parameters are the options of `POST /embed`, and what "
    "clients of the protocol send beside them. What would change the answer and is not done is "
    "refused: state between requests, classification, shared memory.",
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
