"""What descriptions of several routes share: schemas, parameters, error answers."""

from typing import Any

from pydantic import BaseModel

from tritserve.service import errors
from tritserve.service.forms.media import JSON
from tritserve.service.forms.options import Options

EMBED_ERRORS: tuple[type[errors.ServiceError], ...] = (
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
KEYED_ERRORS = errors.UnauthorizedError, errors.HeadersTooLargeError
HEALTH_ERRORS = errors.UnavailableError, errors.HeadersTooLargeError

BINARY = {"schema": {"type": "string", "format": "binary"}}
ERROR_SCHEMA: dict[str, Any] = {
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
FEATURES_TEXT = " A row of CSV: `a,b,c`; a name that holds a comma stands in double quotes."
NUMBER = {"type": "number"}
COUNT = {"type": "integer", "minimum": 0}


def record(**properties: Any) -> dict[str, Any]:
    """A schema of an object that has all of `properties`."""
    return {"type": "object", "required": list(properties), "properties": properties}


def extend(schema: dict[str, Any], **properties: Any) -> dict[str, Any]:
    """The same with `properties` that may be there too, and no others."""
    both = schema["properties"] | properties
    return {**schema, "properties": both, "additionalProperties": False}


def describe_errors(
    *several: type[errors.ServiceError], schema: dict[str, Any] = ERROR_SCHEMA
) -> dict[int, dict[str, Any]]:
    """The answers with errors' statuses, by status; `schema` is that of their bodies."""
    answers: dict[int, dict[str, Any]] = {}
    for error in several:
        answer = answers[error.status] = {
            "description": (error.__doc__ or "").strip(),
            "content": {JSON: {"schema": schema}},
        }
        if error in {errors.QueueFullError, errors.UnavailableError}:
            answer["headers"] = {"Retry-After": {"schema": COUNT, "description": "Seconds."}}
    return answers


def query_parameters() -> list[dict[str, Any]]:
    """The options where they come in the query string."""
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": field.get("description", ""),
            "schema": field,
        }
        for name, field in property_schemas(Options).items()
    ]


def property_schemas(model: type[BaseModel]) -> dict[str, Any]:
    """The schemas of a model's fields by name, as a query string and `/v2` have them."""
    schemas = {
        # Without the default: the page at /docs would send it along, and what is in the body too
        # is refused.
        name: {k: field[k] for k in field if k not in {"title", "default"}}
        for name, field in model.model_json_schema()["properties"].items()
    }
    if "features" in schemas:
        text = schemas["features"]["description"] + FEATURES_TEXT
        schemas["features"] = {"type": "string", "description": text}
    return schemas


TIMEOUT_HEADER = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "How long the answer is of use; what is not computed by then never is.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
}
ENCODING_HEADER = {
    "name": "Content-Encoding",
    "in": "header",
    "required": False,
    "description": "How the body is compressed; the limit of its size is that of what comes out.",
    "schema": {"type": "string", "enum": ["gzip", "deflate", "identity"]},
}
