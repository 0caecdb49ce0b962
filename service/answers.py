"""How errors are answered."""

from fastapi.responses import JSONResponse

from service.errors import ServiceError
from service.paths import is_oip


def error_answer(error: ServiceError, path: str) -> JSONResponse:
    """An error as the API under `path` writes it."""
    body = {"error": error.message} if is_oip(path) else error.body()
    return JSONResponse(body, error.status, error.headers)
