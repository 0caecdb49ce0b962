"""Names of models in paths, whatever is in them."""

from collections.abc import Callable
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

_MODELS = "/v2/models/"


class OneSegmentNames:
    """Makes the served model's name one segment of the path that routes see.

    A name may have slashes, which clients send as they are or encoded; servers decode them. So
    `a/infer` may be a model, or a question to model `a`: only the name that is served tells.

    Args:
        app: answers the requests.
        name: gives the served model's name.
    """

    def __init__(self, app: ASGIApp, name: Callable[[], str]) -> None:
        self.app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_MODELS):
            name = self._name()
            asked = scope["path"].removeprefix(_MODELS)
            if asked == name or asked.startswith(f"{name}/"):
                # In place, for traces look into this scope for the route.
                scope["path"] = _MODELS + quote(name, safe="") + asked.removeprefix(name)
        await self.app(scope, receive, send)
