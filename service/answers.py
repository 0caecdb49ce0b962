"""How errors are answered."""

from fastapi.responses import JSONResponse

from service.errors import ServiceError


def error_answer(error: ServiceError, path: str) -> JSONResponse:
    """An error as the API under `path` writes it."""
    under_v2 = path == "/v2" or path.startswith("/v2/")
    body = {"error": error.message} if under_v2 else error.body()
    return JSONResponse(body, error.status, error.headers)
