"""HEAD wherever there is GET (RFC 9110, section 9.1)."""

from starlette.types import ASGIApp, Receive, Scope, Send


class Heads:
    """Has HEAD answered as GET is; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            # A copy: the server looks at its own for the method.
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)
