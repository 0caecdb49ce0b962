"""What the API's description says beside the routes: bodies and answers."""

from typing import Any

from tritserve.service import errors
from tritserve.service.description.schemas import (
    BINARY,
    COUNT,
    EMBED_ERRORS,
    ENCODING_HEADER,
    HEALTH_ERRORS,
    KEYED_ERRORS,
    NUMBER,
    TIMEOUT_HEADER,
    describe_errors,
    query_parameters,
    record,
)
from tritserve.service.forms.json_body import EmbedBody
from tritserve.service.forms.media import JSON, NPY, SAFETENSORS
from tritserve.service.paths import ADMIN, is_open

STATUSES = sorted(
    {200, 404, 405, 409, 500, errors.ClientGoneError.status} | {e.status for e in EMBED_ERRORS}
)

_ANSWER_SCHEMA = record(
    embeddings={"type": "array", "items": {"type": "array", "items": NUMBER}},
    model=record(
        name={"type": "string"},
        revision={"type": "string", "description": "sha256 of the packed file"},
        output_size={**COUNT, "description": "Numbers in each embedding."},
        channels={"type": "string", "enum": ["joined", "apart"]},
        quantize={"type": "string", "enum": ["ternary", "binary"]},
        bits_per_weight=NUMBER,
    ),
    usage=record(
        sequences=COUNT,
        timesteps=COUNT,
        truncated={"type": "array", "items": COUNT, "description": "Rows that were shortened."},
    ),
    timing_ms=record(queue=NUMBER, compute=NUMBER, total=NUMBER),
)
_ANSWER_SCHEMA["properties"]["scales"] = {
    "type": "array",
    "items": NUMBER,
    "description": "Only with precision int8: factors that give the numbers back.",
}

_LAYERS_SCHEMA = record(
    revision={"type": "string", "description": "sha256 of the packed file"},
    layers={
        "type": "array",
        "items": record(
            name={"type": "string"},
            shape={"type": "array", "items": COUNT, "description": "[out, in]"},
            bytes=COUNT,
            shares={"type": "array", "items": NUMBER, "description": "Of -1, 0 and +1."},
        ),
    },
)


EMBED: dict[str, Any] = {
    "summary": "Embed sequences",
    "description": "The same sequence gives the same embedding, bit for bit, whatever its "
    "neighbours. `Accept` picks the form of the answer.",
    "responses": {
        200: {
            "description": "One embedding per sequence.",
            "content": {
                JSON: {"schema": _ANSWER_SCHEMA},
                NPY: {"schema": {**BINARY["schema"], "description": "[batch, output_size]"}},
                SAFETENSORS: {
                    "schema": {**BINARY["schema"], "description": "embeddings, int8: scales"}
                },
            },
        },
        **describe_errors(*EMBED_ERRORS),
    },
    "openapi_extra": {
        "parameters": [*query_parameters(), TIMEOUT_HEADER, ENCODING_HEADER],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": EmbedBody.model_json_schema()},
                NPY: {"schema": {**BINARY["schema"], "description": "[batch, seq_len, embed_dim]"}},
                SAFETENSORS: {
                    "schema": {
                        **BINARY["schema"],
                        "description": "values [timesteps, embed_dim] and lengths [batch]; "
                        "metadata may hold `features`, which the query string has no room for "
                        "where there are many: the same row of CSV, in one of the two places",
                    }
                },
            },
        },
    },
}


INFO: dict[str, Any] = {
    "summary": "The model, its configuration and the limits",
    "responses": describe_errors(*KEYED_ERRORS),
}
LAYERS: dict[str, Any] = {
    "summary": "The packed layers, and which shares of their weights are -1, 0 and +1",
    "responses": {
        200: {
            "description": "Layers in the order of the packed file.",
            "content": {JSON: {"schema": _LAYERS_SCHEMA}},
        },
        **describe_errors(*KEYED_ERRORS),
    },
}
LIVE: dict[str, Any] = {
    "summary": "Whether the process works; if not, restart it",
    "responses": describe_errors(*HEALTH_ERRORS),
}
READY: dict[str, Any] = {
    "summary": "Whether requests can be answered",
    "responses": describe_errors(*HEALTH_ERRORS),
}
RELOAD: dict[str, Any] = {
    "summary": "Load the packed file again",
    "description": "What was accepted is answered by the old model. Other workers follow within a "
    "moment. Needs the admin key.",
    "responses": describe_errors(*KEYED_ERRORS, errors.ReloadError),
}
METRICS: dict[str, Any] = {
    "summary": "Metrics for Prometheus",
    "responses": {
        200: {"description": "Metrics.", "content": {"text/plain": {}}},
        **describe_errors(*KEYED_ERRORS),
    },
}


def complete(description: dict[str, Any], keyed: bool) -> None:
    """Makes an API's description say of keys and of path parameters what is so.

    Args:
        description: as FastAPI makes it; changed in place.
        keyed: whether API keys are set; without them, only administration needs a key.
    """
    components = description.setdefault("components", {})
    # Path parameters are any text: FastAPI has nothing to refuse in them.
    components.pop("schemas", None)
    schemes = components.setdefault("securitySchemes", {})
    for path, operations in description["paths"].items():
        scheme = "admin_key" if path.startswith(ADMIN) else "api_key"
        needs_key = scheme == "admin_key" or (keyed and not is_open(path))
        if needs_key:
            schemes[scheme] = {"type": "http", "scheme": "bearer"}
        for operation in operations.values():
            responses = operation["responses"]
            if "HTTPValidationError" in str(responses.get("422")):
                del responses["422"]
            if needs_key:
                operation["security"] = [{scheme: []}]
            else:
                responses.pop("401", None)
