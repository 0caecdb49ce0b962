"""Files that a page loads from here."""

from fastapi import Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send


class Assets(StaticFiles):
    """Files that always go whole: a range that is none would be refused in plain text.

    Browsers may keep them, and ask by ETag whether they are still the same.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [pair for pair in scope["headers"] if pair[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Accept-Ranges"] = "none"
        response.headers["Cache-Control"] = "no-cache"
        return response
