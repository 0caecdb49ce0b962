"""POST routes without what FastAPI does around an endpoint."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tritserve.service.errors import ServiceError, UnknownPathError
from tritserve.service.http.answers import bug_answer, error_answer
from tritserve.service.http.incoming import Incoming

Injected = Annotated[Incoming, Depends(Incoming.of)]
"""What the first parameter of a direct route's endpoint is declared as."""


class _DirectRoute(APIRoute):
    """A route that `DirectPosts` looks for."""


def add_direct_post(
    app: FastAPI, path: str, endpoint: Callable[..., Awaitable[Response]], **declared: Any
) -> None:
    """Adds a route whose endpoint takes an `Injected` and the path's parameters, all of them text.

    It is declared as any other, and FastAPI could answer it. But to find the route, to inject and
    to wrap would take longer than to decode a small request: `DirectPosts` answers it before.
    """
    app.router.add_api_route(
        path, endpoint, methods=["POST"], route_class_override=_DirectRoute, **declared
    )


class DirectPosts:
    """Answers requests for direct routes, errors included; the application answers all others."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self._routes = [route for route in routes if isinstance(route, _DirectRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("\n"):
            # The `$` of every route's pattern matches before it too.
            error = UnknownPathError(f"nothing is served at {scope['path']}")
            await error_answer(error, scope["path"])(scope, receive, send)
            return
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            for route in self._routes:
                match = route.path_regex.match(path)
                if match:
                    # Where traces look for its name.
                    scope["route"] = route
                    try:
                        incoming = Incoming(scope, receive)
                        answer = await route.endpoint(incoming, **match.groupdict())
                    except ServiceError as error:
                        answer = error_answer(error, path)
                    except Exception as error:
                        answer = bug_answer(error, path)
                    await answer(scope, receive, send)
                    return
        await self.app(scope, receive, send)
