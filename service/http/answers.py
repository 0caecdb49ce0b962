"""How errors are answered."""

import logging

from fastapi.responses import JSONResponse

from tritserve.service.errors import ServiceError
from tritserve.service.observing.notes import note_refusal
from tritserve.service.paths import is_oip

log = logging.getLogger("tritserve")


def error_answer(error: ServiceError, path: str) -> JSONResponse:
    """An error as the API under `path` writes it; the request's log line says why it is refused."""
    note_refusal(error)
    body = {"error": error.message} if is_oip(path) else error.body()
    return JSONResponse(body, error.status, error.headers)


def bug_answer(error: Exception, path: str) -> JSONResponse:
    """The answer to a request that met a bug: the log tells of it, the client learns no more."""
    log.error("a bug in answering %s", path, exc_info=error)
    return error_answer(ServiceError("a bug in the service; its log tells more"), path)
