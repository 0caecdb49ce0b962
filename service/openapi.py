"""What the API's description says beside the routes: bodies, answers, examples."""

from typing import Any

from service import errors
from service.json_body import EmbedBody
from service.media import JSON, NPY, OCTETS, SAFETENSORS
from service.oip import HEADER_LENGTH
from service.options import Options

_EMBED_ERRORS: tuple[type[errors.ServiceError], ...] = (
    errors.UnparseableError,
    errors.UnauthorizedError,
    errors.NotAcceptableError,
    errors.SlowBodyError,
    errors.BodyTooLargeError,
    errors.HeadersTooLargeError,
    errors.UnsupportedMediaTypeError,
    errors.InvalidError,
    errors.QueueFullError,
    errors.UnavailableError,
    errors.DeadlineError,
)

STATUSES = sorted(
    {200, 404, 405, 409, 500, errors.ClientGoneError.status} | {e.status for e in _EMBED_ERRORS}
)

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        }
    },
}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


_ANSWER_SCHEMA = _object(
    embeddings={"type": "array", "items": {"type": "array", "items": _NUMBER}},
    model=_object(
        name={"type": "string"},
        revision={"type": "string", "description": "sha256 of the packed file"},
        output_size=_COUNT,
        quantize={"type": "string", "enum": ["ternary", "binary"]},
        bits_per_weight=_NUMBER,
    ),
    usage=_object(
        sequences=_COUNT,
        timesteps=_COUNT,
        truncated={"type": "array", "items": _COUNT, "description": "Rows that were shortened."},
    ),
    timing_ms=_object(queue=_NUMBER, compute=_NUMBER, total=_NUMBER),
)
_ANSWER_SCHEMA["properties"]["scales"] = {
    "type": "array",
    "items": _NUMBER,
    "description": "Only with precision int8: factors that give the numbers back.",
}


def _error(error: type[errors.ServiceError]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": (error.__doc__ or "").strip(),
        "content": {JSON: {"schema": _ERROR_SCHEMA}},
    }
    if error in {errors.QueueFullError, errors.UnavailableError}:
        answer["headers"] = {"Retry-After": {"schema": _COUNT, "description": "Seconds."}}
    return answer


def _query_parameters() -> list[dict[str, Any]]:
    schema = Options.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": "For npy and safetensors bodies. " + field.get("description", ""),
            # Without the default: the page at /docs would send it along with JSON bodies too.
            "schema": {k: field[k] for k in field if k not in {"title", "description", "default"}},
        }
        for name, field in schema.items()
    ]


_TIMEOUT_HEADER = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "How long the answer is of use; what is not computed by then never is.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
}
_ENCODING_HEADER = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "description": "How the body is compressed; the limit of its size is that of what comes out.",
    "schema": {"type": "string", "enum": ["gzip", "deflate", "identity"]},
}

EMBED: dict[str, Any] = {
    "summary": "Embed sequences",
    "description": "The same sequence gives the same embedding, bit for bit, whatever its "
    "neighbours. `Accept` picks the form of the answer.",
    "responses": {
        200: {
            "description": "One embedding per sequence.",
            "content": {
                JSON: {"schema": _ANSWER_SCHEMA},
                NPY: {"schema": {**_BINARY["schema"], "description": "[batch, hidden_size]"}},
                SAFETENSORS: {
                    "schema": {**_BINARY["schema"], "description": "embeddings, int8: scales"}
                },
            },
        },
        **{error.status: _error(error) for error in _EMBED_ERRORS},
    },
    "openapi_extra": {
        "parameters": [*_query_parameters(), _TIMEOUT_HEADER, _ENCODING_HEADER],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": EmbedBody.model_json_schema(),
                    "example": {"sequences": [[[0.1, -0.2], [0.3, 0.4]], [[1.0, 2.0]]]},
                },
                NPY: {
                    "schema": {**_BINARY["schema"], "description": "[batch, seq_len, embed_dim]"}
                },
                SAFETENSORS: {
                    "schema": {
                        **_BINARY["schema"],
                        "description": "values [timesteps, embed_dim] and lengths [batch]",
                    }
                },
            },
        },
    },
}
_OIP_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}


def _oip_error(error: type[errors.ServiceError]) -> dict[str, Any]:
    return _error(error) | {"content": {JSON: {"schema": _OIP_ERROR}}}


OIP_ERRORS: dict[int | str, dict[str, Any]] = {
    error.status: _oip_error(error)
    for error in (errors.UnauthorizedError, errors.UnknownPathError, errors.UnavailableError)
}
_HEADER_LENGTH = {
    "name": HEADER_LENGTH,
    "in": "header",
    "required": False,
    "description": "How many bytes of the body are JSON, where those of tensors follow.",
    "schema": {"type": "integer", "minimum": 1},
}
_INFER_EXAMPLE = {
    "inputs": [
        {
            "name": "values",
            "datatype": "FP32",
            "shape": [3, 2],
            "data": [0.1, -0.2, 0.3, 0.4, 1, 2],
        },
        {"name": "lengths", "datatype": "INT64", "shape": [2], "data": [2, 1]},
    ],
    "parameters": {"normalize": True},
}
INFER: dict[str, Any] = {
    "summary": "Embed sequences (Open Inference Protocol)",
    "description": "`values` `[timesteps, embed_dim]` with `lengths` `[batch]`, or `values` "
    "`[batch, seq_len, embed_dim]` alone. Parameters are the options of `POST /embed`.",
    "responses": {
        200: {
            "description": "JSON, or JSON followed by the bytes of tensors.",
            "content": {JSON: {"schema": {"type": "object"}}, OCTETS: _BINARY},
        },
        **{error.status: _oip_error(error) for error in _EMBED_ERRORS},
    },
    "openapi_extra": {
        "parameters": [_HEADER_LENGTH, _TIMEOUT_HEADER, _ENCODING_HEADER],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": {"type": "object"}, "example": _INFER_EXAMPLE},
                OCTETS: _BINARY,
            },
        },
    },
}
_ON_EVERY_PATH = {
    error.status: _error(error) for error in (errors.UnauthorizedError, errors.HeadersTooLargeError)
}

INFO: dict[str, Any] = {
    "summary": "The model, its configuration and the limits",
    "responses": _ON_EVERY_PATH,
}
LIVE: dict[str, Any] = {
    "summary": "Whether the process works; if not, restart it",
    "responses": {503: _error(errors.UnavailableError)},
}
RELOAD: dict[str, Any] = {
    "summary": "Load the packed file again",
    "description": "What was accepted is answered by the old model. Needs the admin key.",
    "responses": {e.status: _error(e) for e in (errors.UnauthorizedError, errors.ReloadError)},
}
READY: dict[str, Any] = {
    "summary": "Whether requests can be answered",
    "responses": {503: _error(errors.UnavailableError)},
}
METRICS: dict[str, Any] = {
    "summary": "Metrics for Prometheus",
    "responses": {
        200: {"description": "Metrics.", "content": {"text/plain": {}}},
        **_ON_EVERY_PATH,
    },
}
