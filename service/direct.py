"""Routes without what FastAPI does around an endpoint."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send


def add_direct_post(
    app: FastAPI, path: str, endpoint: Callable[..., Awaitable[Response]], **declared: Any
) -> None:
    """Adds a route whose endpoint takes the request and the path's parameters, all of them text.

    It is declared as any other. But nothing is injected, validated or serialised, which would take
    longer than decoding a small request.
    """
    app.router.add_api_route(
        path, endpoint, methods=["POST"], route_class_override=_DirectRoute, **declared
    )


class _DirectRoute(APIRoute):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self.endpoint(request, **scope["path_params"])
        await response(scope, receive, send)
